"""Plots of a gate: each told case with its interval and rounds, and the changes of all cases."""

from collections.abc import Callable, Sequence

import plotly.graph_objects as go

from harness.gate_result import GateCase, Stage, State
from harness.report.gate_rows import change_text, times_text, tolerance_text
from harness.report.theme import FONT, GREY, label, styled

COLOR: dict[State, str] = {
    State.REGRESSED: "#D55E00",
    State.INVALID: "#A6761D",
    State.MISSING: GREY,
    State.INCONCLUSIVE: "#E69F00",
    State.NOISY: "#CC79A7",
    State.IMPROVED: "#009E73",
    State.NEW: "#56B4E9",
    State.UNCHANGED: "#0072B2",
}
"""From the palette of all plots, whose colours are told apart by everyone."""
BAND = "rgba(128,128,128,0.22)"
MAX_FOREST = 60
"""Cases drawn one by one; the plot of all changes has the others."""
ROW_HEIGHT = 46
ROOM_FOR_AXIS = 90
NAME_WIDTH = 40
ALL_HEIGHT = 380


def forest_cases(cases: Sequence[GateCase]) -> tuple[GateCase, ...]:
    """Those of the cases, worst first, that the forest plot draws."""
    return tuple(case for case in cases if case.change is not None)[:MAX_FOREST]


def _hover(case: GateCase) -> str:
    parts = (
        f"<b>{label(case.case_id, 60)}</b>",
        case.state.value,
        times_text(case),
        change_text(case),
        f"tolerance {label(tolerance_text(case), 60)}",
    )
    return "<br>".join(part for part in parts if part)


def _percent(share: float) -> float:
    return round(100 * share, 3)


def forest_figure(cases: Sequence[GateCase]) -> go.Figure:
    """A row for each case: its tolerance as a band, its rounds as marks, its change and interval.

    Names stand above their rows, since beside them they would take half of a telephone's width.
    """
    plot = go.Figure()
    shapes, names = [], []
    for row, case in enumerate(cases):
        tolerance = 100 * case.tolerance
        shapes.append(
            {
                "type": "rect",
                "x0": -tolerance,
                "x1": tolerance,
                "y0": row - 0.28,
                "y1": row + 0.28,
                "fillcolor": BAND,
                "line": {"width": 0},
                "layer": "below",
            }
        )
        names.append(
            {
                "xref": "paper",
                "x": 0,
                "xanchor": "left",
                "y": row - 0.3,
                "yanchor": "bottom",
                "text": f"<span style='color:{COLOR[case.state]}'>&#9679;</span> "
                + label(f"{_short(case.case_id)} ({case.state.value.lower()})", 999),
                "showarrow": False,
                "font": {"family": FONT, "size": 11},
            }
        )
    _add_rounds(plot, cases, "screen", "circle-open", 0.14, lambda case: case.screen)
    _add_rounds(plot, cases, "confirmation", "diamond-open", -0.14, lambda case: case.confirm)
    for state in dict.fromkeys(case.state for case in cases):
        rows = [(row, case) for row, case in enumerate(cases) if case.state is state]
        changes = [case.change for _, case in rows if case.change is not None]
        plot.add_scatter(
            x=[_percent(one.value) for one in changes],
            y=[row for row, _ in rows],
            mode="markers",
            name=state.value,
            marker={"size": 10, "color": COLOR[state]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [_percent(one.high - one.value) for one in changes],
                "arrayminus": [_percent(one.value - one.low) for one in changes],
                "color": COLOR[state],
                "thickness": 2,
                "width": 5,
            },
            text=[_hover(case) for _, case in rows],
            hovertemplate="%{text}<extra></extra>",
        )
    styled(
        plot,
        height=ROOM_FOR_AXIS + ROW_HEIGHT * len(cases),
        shapes=shapes,
        annotations=names,
        showlegend=False,
    )
    plot.update_layout(margin={"l": 16, "r": 16, "t": 8, "b": 56})
    plot.update_xaxes(title="change of time, %", ticksuffix=" %", nticks=7)
    plot.update_yaxes(
        range=[len(cases) - 0.4, -0.75], showgrid=False, showticklabels=False, fixedrange=True
    )
    plot.add_vline(x=0, line={"color": GREY, "width": 1})
    return plot


def _short(case_id: str) -> str:
    """Both ends of a long name: cases of one op differ at either."""
    if len(case_id) <= NAME_WIDTH:
        return case_id
    half = (NAME_WIDTH - 3) // 2
    return f"{case_id[:half]}...{case_id[-half:]}"


def _add_rounds(
    plot: go.Figure,
    cases: Sequence[GateCase],
    name: str,
    symbol: str,
    offset: float,
    stage_of: Callable[[GateCase], Stage | None],
) -> None:
    x: list[float] = []
    y: list[float] = []
    text: list[str] = []
    for row, case in enumerate(cases):
        stage = stage_of(case)
        if stage is None or case.state is State.UNCHANGED:
            continue
        for place, (base_s, head_s) in enumerate(zip(stage.base_s, stage.head_s, strict=True), 1):
            x.append(_percent(head_s / base_s - 1))
            y.append(row + offset)
            text.append(f"{label(case.case_id, 60)}<br>round {place}: %{{x}}")
    if x:
        plot.add_scatter(
            x=x,
            y=y,
            mode="markers",
            name=name,
            marker={"size": 7, "color": GREY, "symbol": symbol},
            text=text,
            hovertemplate="%{text}<extra></extra>",
        )


def all_figure(cases: Sequence[GateCase]) -> go.Figure:
    """Every case that has a change, sorted by it, between its tolerances."""
    found = sorted(
        ((case.change.value, case) for case in cases if case.change is not None),
        key=lambda pair: pair[0],
    )
    plot = go.Figure()
    ranks = list(range(1, len(found) + 1))
    for sign in (1, -1):
        plot.add_scatter(
            x=ranks,
            y=[sign * _percent(case.tolerance) for _, case in found],
            mode="lines",
            line={"color": GREY, "width": 1, "shape": "hvh"},
            fill="tonexty" if sign < 0 else None,
            fillcolor=BAND,
            name="tolerance",
            showlegend=sign < 0,
            hoverinfo="skip",
        )
    for state in State:
        rows = [
            (rank, change, case)
            for rank, (change, case) in zip(ranks, found, strict=True)
            if case.state is state
        ]
        if not rows:
            continue
        plot.add_scatter(
            x=[rank for rank, _, _ in rows],
            y=[_percent(change) for _, change, _ in rows],
            mode="markers",
            name=state.value,
            marker={"size": 6, "color": COLOR[state]},
            text=[_hover(case) for _, _, case in rows],
            hovertemplate="%{text}<extra></extra>",
        )
    styled(plot, height=ALL_HEIGHT)
    plot.update_xaxes(title="cases, sorted by change", nticks=6)
    plot.update_yaxes(title="change of time", ticksuffix=" %")
    return plot
