"""Predicted against published step times, with P10 to P90, and the errors by source."""

from collections.abc import Sequence
from statistics import median

import plotly.graph_objects as go

from harness.report.theme import GREY, PALETTE, SYMBOLS, by_name, label, styled
from harness.units import duration, significant
from harness.validation.predict import Prediction

HEIGHT = 760
ROW_HEIGHT = 30
ROOM_FOR_AXIS = 110
MARGIN = 1.4
"""Room around the points, as a ratio."""


def _by_source(predictions: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    groups: dict[str, list[Prediction]] = {}
    for one in predictions:
        groups.setdefault(one.family, []).append(one)
    return dict(sorted(groups.items()))


def _hover(one: Prediction) -> list[str]:
    low, high = one.deciles
    return [
        one.id,
        f"{one.run.model.name} on {one.run.num_chips:,} {one.run.chip.title}, {one.run.software}",
        duration(one.run.step_time_s),
        duration(one.step.seconds),
        f"{duration(one.low_s)} to {duration(one.high_s)}",
        f"{one.error:+.1%}",
        f"{one.metric} {significant(one.published)}, predicted {significant(one.predicted)} "
        f"({significant(low)} to {significant(high)})",
    ]


HOVER = (
    "<b>%{customdata[0]}</b><br>%{customdata[1]}<br>published %{customdata[2]}<br>"
    "predicted %{customdata[3]} (%{customdata[4]})<br>error %{customdata[5]}<br>"
    "%{customdata[6]}<extra></extra>"
)


def agreement(predictions: Sequence[Prediction]) -> go.Figure:
    """A mark for each run on two logarithmic axes; on the line, model and run agree."""
    groups = _by_source(predictions)
    colors = by_name(list(groups), PALETTE)
    symbols = {name: SYMBOLS[place // len(PALETTE)] for place, name in enumerate(groups)}
    every = [value for one in predictions for value in (one.run.step_time_s, one.step.seconds)]
    ends = [min(every) / MARGIN, max(every) * MARGIN]
    plot = go.Figure()
    plot.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        line={"color": GREY, "dash": "dash"},
        name="as published",
        hoverinfo="skip",
    )
    for name, group in groups.items():
        plot.add_scatter(
            x=[one.run.step_time_s for one in group],
            y=[one.step.seconds for one in group],
            error_y={
                "array": [one.high_s - one.step.seconds for one in group],
                "arrayminus": [one.step.seconds - one.low_s for one in group],
                "symmetric": False,
                "thickness": 1,
                "width": 0,
            },
            mode="markers",
            name=name,
            marker={"color": colors[name], "symbol": symbols[name], "size": 7, "opacity": 0.8},
            customdata=[_hover(one) for one in group],
            hovertemplate=HOVER,
        )
    styled(plot, height=HEIGHT)
    plot.update_xaxes(title="published step, seconds", type="log")
    plot.update_yaxes(title="predicted step, seconds, with P10 to P90", type="log")
    return plot


def errors(predictions: Sequence[Prediction], held_out: frozenset[str]) -> go.Figure:
    """A box and all marks for each source, the smallest median error at the top."""
    groups = _by_source(predictions)
    colors = by_name(list(groups), PALETTE)
    order = sorted(groups, key=lambda name: -median(abs(one.error) for one in groups[name]))
    plot = go.Figure()
    for name in order:
        mark = " (held out)" if name in held_out else ""
        plot.add_box(
            x=[100 * one.error for one in groups[name]],
            name=label(f"{name}{mark}, {len(groups[name])}", width=40),
            orientation="h",
            boxpoints="all",
            jitter=0.6,
            pointpos=0,
            marker={"color": colors[name], "size": 4, "opacity": 0.7},
            line={"width": 1},
            customdata=[_hover(one) for one in groups[name]],
            hovertemplate=HOVER,
        )
    height = ROOM_FOR_AXIS + ROW_HEIGHT * len(groups)
    styled(plot, height=height, showlegend=False, margin={"l": 60, "r": 16, "t": 16, "b": 72})
    plot.add_vline(x=0, line={"color": GREY, "dash": "dash"})
    plot.update_xaxes(title="error of the step time, %; below zero the model is too fast")
    return plot
