"""Plots of a comparison: a waterfall of a step, and the op groups with their intervals."""

from collections.abc import Sequence

import plotly.graph_objects as go

from harness.comparison import (
    ChipComparison,
    GroupComparison,
    RunPair,
    Verdict,
    Waterfall,
)
from harness.report.comparison_rows import (
    bar_ops,
    heights,
    impls_text,
    interval_text,
    ratio_text,
    shares_text,
    signed,
    signed_percent,
    sorted_groups,
)
from harness.report.theme import GREY, label, styled
from harness.units import duration

FASTER, SLOWER, SAME, AMBIGUOUS = "#009E73", "#D55E00", "#7F7F7F", "#E69F00"
"""Okabe and Ito's green and vermilion, which colour-blind readers can tell apart."""
COLORS = {
    Verdict.FASTER: FASTER,
    Verdict.SLOWER: SLOWER,
    Verdict.SAME: SAME,
    Verdict.AMBIGUOUS: AMBIGUOUS,
}
SYMBOLS = {
    Verdict.FASTER: "triangle-right",
    Verdict.SLOWER: "triangle-left",
    Verdict.SAME: "circle",
    Verdict.AMBIGUOUS: "x",
}
TOTAL = "#0072B2"
BAR_HEIGHT = 34
ROOM_FOR_AXIS = 90
ROW_HEIGHT = 24
MAX_TICK_LABEL = 30
MAX_CAUSE_LABEL = 18
"""Longer names are wrapped, so that a phone has room for the bars."""
ROOM_FOR_TEXT = 0.3
"""Of the axis beyond the longest bar, for the number beside it."""


def waterfall_figure(comparison: ChipComparison, pair: RunPair, waterfall: Waterfall) -> go.Figure:
    """From the time of the reference down to that of the other, one bar for each cause.

    The bars lie, so that their names have room on a phone.
    """
    first, other = comparison.reference.title, comparison.run(pair.label).title
    bars = waterfall.bars
    scale, unit = _scale(max(waterfall.first_s, waterfall.second_s))
    names = [first, *(str(bar.cause) for bar in bars), other]
    values = [waterfall.first_s, *(bar.seconds for bar in bars), waterfall.second_s]
    hover = [
        f"<b>{first}</b><br>{duration(waterfall.first_s)}",
        *(
            f"<b>{bar.cause}</b><br>{signed(bar.seconds)}, "
            f"{signed_percent(bar.seconds / waterfall.first_s)} of A's step<br>"
            f"{bar_ops(bar, 5).replace(', ', '<br>')}"
            for bar in bars
        ),
        f"<b>{other}</b><br>{duration(waterfall.second_s)}",
    ]
    texts = [
        duration(waterfall.first_s),
        *(signed(bar.seconds) for bar in bars),
        duration(waterfall.second_s),
    ]
    figure = go.Figure(
        go.Waterfall(
            orientation="h",
            y=[label(name, MAX_CAUSE_LABEL) for name in names],
            x=[value / scale for value in values],
            measure=["absolute", *("relative" for _ in bars), "total"],
            text=texts,
            textposition="outside",
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
            decreasing={"marker": {"color": FASTER}},
            increasing={"marker": {"color": SLOWER}},
            totals={"marker": {"color": TOTAL}},
            connector={"line": {"color": GREY, "width": 1, "dash": "dot"}},
        )
    )
    styled(figure, height=ROOM_FOR_AXIS + BAR_HEIGHT * len(names), showlegend=False)
    figure.update_layout(bargap=0.3)
    reached = heights(waterfall)
    low, high = min(0.0, *reached) / scale, max(reached) / scale
    ends = [low - (ROOM_FOR_TEXT * high if low < 0 else 0.0), high * (1 + ROOM_FOR_TEXT)]
    figure.update_xaxes(title=f"{waterfall.phase}, {unit}", range=ends, nticks=6)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def _scale(seconds: float) -> tuple[float, str]:
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= scale:
            return scale, unit
    return 1e-9, "ns"


def forest_figure(pair: RunPair, groups: Sequence[GroupComparison], tolerance: float) -> go.Figure:
    """The speedup of each op group with its interval, the band of what is called same in grey."""
    ordered = list(groups)
    names = [f"{label(group.group, MAX_TICK_LABEL)}" for group in ordered]
    figure = go.Figure()
    figure.add_vrect(
        x0=1 / (1 + tolerance), x1=1 + tolerance, fillcolor=GREY, opacity=0.25, line_width=0
    )
    figure.add_vline(x=1, line={"color": GREY, "width": 1})
    for verdict in Verdict:
        members = [
            (name, group)
            for name, group in zip(names, ordered, strict=True)
            if group.verdict is verdict
        ]
        if not members:
            continue
        figure.add_scatter(
            x=[group.speedup.value for _, group in members],
            y=[name for name, _ in members],
            mode="markers",
            name=str(verdict),
            marker={"color": COLORS[verdict], "size": 11, "symbol": SYMBOLS[verdict]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [group.speedup.high - group.speedup.value for _, group in members],
                "arrayminus": [group.speedup.value - group.speedup.low for _, group in members],
                "color": COLORS[verdict],
                "thickness": 2,
                "width": 5,
            },
            customdata=[_group_hover(pair, group) for _, group in members],
            hovertemplate="%{customdata}<extra></extra>",
        )
    styled(figure, height=ROOM_FOR_AXIS + 30 + ROW_HEIGHT * max(2, len(ordered)))
    figure.update_xaxes(type="log", title=f"{pair.label} over A", **_ticks(ordered))
    figure.update_yaxes(
        categoryorder="array", categoryarray=names, autorange="reversed", showgrid=True
    )
    return figure


def _ticks(groups: Sequence[GroupComparison]) -> dict[str, list[float] | list[str]]:
    """Ratios that people read, on a logarithmic axis."""
    ends = [1.0, *(end for one in groups for end in (one.speedup.low, one.speedup.high))]
    low, high = min(ends), max(ends)
    fine = (0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.4)
    coarse = (0.02, 0.05, 0.1, 0.2, 0.33, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)
    shown = fine if low > 0.65 and high < 1.5 else coarse
    kept = [tick for tick in shown if low / 1.3 <= tick <= high * 1.3]
    return {"tickvals": kept, "ticktext": [f"{tick:g} x" for tick in kept]}


def _group_hover(pair: RunPair, group: GroupComparison) -> str:
    lines = [
        f"<b>{label(group.group, 60)}</b>, {group.phase}",
        f"{ratio_text(group.speedup.value)} ({interval_text(group.speedup)}), {group.verdict}",
        f"A {duration(group.first_s)}, {pair.label} {duration(group.second_s)}",
        impls_text(group),
    ]
    shares = shares_text(group.first_roof_share, group.second_roof_share)
    lines += [f"of its own roof: {shares}"] if shares else []
    lines += list(group.remarks)
    return "<br>".join(lines)


def phases_of(pair: RunPair) -> dict[str, list[GroupComparison]]:
    """The groups of each phase, those first that lose most."""
    found: dict[str, list[GroupComparison]] = {}
    for group in sorted_groups(pair):
        found.setdefault(group.phase, []).append(group)
    return found
