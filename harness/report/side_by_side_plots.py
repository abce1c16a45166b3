"""Plots of projections side by side: throughput, scaling, power and cost of each cluster."""

from collections.abc import Callable, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from harness.projection import Projection
from harness.report.rows import chips_text, percent_text, seconds_interval_text
from harness.report.scaling_plot import linear_from, per_chip, scaling_points
from harness.report.theme import GREY, PALETTE, SYMBOLS, by_name, label, styled
from harness.side_by_side import Outcome, SideBySide
from harness.units import MEGA

ROW_HEIGHT = 34
ROOM_FOR_AXIS = 90
SCALING_HEIGHT = 700


def colors(compared: SideBySide) -> dict[str, str]:
    """One colour for each cluster, the same in every plot."""
    return by_name([pair.cluster for pair in compared.pairs], PALETTE)


def _outcomes(compared: SideBySide, model: str) -> list[tuple[str, Outcome]]:
    return [(pair.cluster, pair.outcome) for pair in compared.of(model) if pair.outcome is not None]


def useful_figure(compared: SideBySide) -> go.Figure:
    """Useful tokens/s with whiskers from P10 to P90, a part of the plot for each model."""
    models = [model for model in compared.models if _outcomes(compared, model)]
    color = colors(compared)
    counts = [len(_outcomes(compared, model)) for model in models]
    plot = make_subplots(
        rows=len(models),
        cols=1,
        subplot_titles=[label(model, 40) for model in models],
        row_heights=[float(count) for count in counts],
        vertical_spacing=min(0.2, 60 / _height(counts)),
    )
    for row, model in enumerate(models, 1):
        found = _outcomes(compared, model)
        useful = [outcome.useful_tokens_per_second for _, outcome in found]
        plot.add_bar(
            x=[one.value for one in useful],
            y=[cluster for cluster, _ in found],
            orientation="h",
            marker={"color": [color[cluster] for cluster, _ in found]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [one.high - one.value for one in useful],
                "arrayminus": [one.value - one.low for one in useful],
                "color": GREY,
                "thickness": 2,
                "width": 6,
            },
            customdata=[[one.low, one.high] for one in useful],
            hovertemplate="<b>%{y}</b><br>%{x:.3s} useful tokens/s<br>"
            "P10 %{customdata[0]:.3s}, P90 %{customdata[1]:.3s}<extra></extra>",
            row=row,
            col=1,
        )
    styled(plot, height=_height(counts), showlegend=False, bargap=0.35)
    plot.update_layout(margin_t=56)
    plot.update_xaxes(exponentformat="SI", rangemode="tozero", nticks=6)
    plot.update_xaxes(title="useful tokens/s", row=len(models), col=1)
    plot.update_yaxes(autorange="reversed", showgrid=False)
    return plot


def _height(counts: Sequence[int]) -> int:
    return sum(ROOM_FOR_AXIS + ROW_HEIGHT * count for count in counts)


def scaling_figure(projections: Sequence[Projection], color: dict[str, str]) -> go.Figure:
    """Above: tokens/s of each cluster, both axes logarithmic. Below: per chip, of its best."""
    plot = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[0.58, 0.42], vertical_spacing=0.06
    )
    symbols = by_name([projection.cluster for projection in projections], SYMBOLS)
    for projection in projections:
        points = scaling_points(projection)
        best = linear_from(points)
        hover = [
            [
                chips_text(point),
                point.plan.label,
                seconds_interval_text(point.step_time_s),
                percent_text(point.mfu),
                f"{best.num_chips:,}",
            ]
            for point in points
        ]
        tokens = [point.tokens_per_second.value for point in points]
        linear = [100 * per_chip(point) / per_chip(best) for point in points]
        for row, values, unit in ((1, tokens, "tokens/s"), (2, linear, "% of linear")):
            since = " from %{customdata[4]} chips" if row == 2 else ""
            plot.add_scatter(
                x=[point.num_chips for point in points],
                y=values,
                mode="lines+markers",
                name=projection.cluster,
                legendgroup=projection.cluster,
                showlegend=row == 1,
                line={"color": color[projection.cluster], "width": 2},
                marker={"size": 7, "symbol": symbols[projection.cluster]},
                customdata=hover,
                hovertemplate=f"<b>{projection.cluster}</b>, %{{customdata[0]}}<br>%{{y:.3s}} "
                f"{unit}{since}<br>%{{customdata[1]}}<br>step %{{customdata[2]}}<br>"
                "MFU %{customdata[3]}<extra></extra>",
                row=row,
                col=1,
            )
    styled(plot, height=SCALING_HEIGHT)
    plot.update_xaxes(type="log", dtick=1)
    plot.update_xaxes(title="chips", row=2, col=1)
    plot.update_yaxes(type="log", title="tokens/s", exponentformat="SI", dtick=1, row=1, col=1)
    plot.update_yaxes(title="% of linear", rangemode="tozero", row=2, col=1)
    return plot


BILLS: tuple[tuple[str, Callable[[Outcome], float | None]], ...] = (
    ("MW at the site", lambda one: None if one.site_w is None else one.site_w / MEGA),
    ("J per token", lambda one: one.joules_per_token),
    ("cost of a million tokens", lambda one: one.cost_per_million_tokens),
)


def bill_figure(compared: SideBySide, model: str) -> go.Figure | None:
    """Power, energy and cost of each cluster; None where no file of a cluster has any."""
    found, color = _outcomes(compared, model), colors(compared)
    shown = [
        (title, value_of)
        for title, value_of in BILLS
        if any(value_of(outcome) is not None for _, outcome in found)
    ]
    if not shown:
        return None
    counts = [len(found)] * len(shown)
    plot = make_subplots(
        rows=len(shown),
        cols=1,
        subplot_titles=[title for title, _ in shown],
        vertical_spacing=min(0.2, 60 / _height(counts)),
    )
    for row, (title, value_of) in enumerate(shown, 1):
        plot.add_bar(
            x=[value_of(outcome) for _, outcome in found],
            y=[cluster for cluster, _ in found],
            orientation="h",
            marker={"color": [color[cluster] for cluster, _ in found]},
            hovertemplate=f"<b>%{{y}}</b><br>%{{x:.3g}} {title}<extra></extra>",
            row=row,
            col=1,
        )
    styled(plot, height=_height(counts), showlegend=False, bargap=0.35)
    plot.update_layout(margin_t=56)
    plot.update_xaxes(rangemode="tozero", nticks=6)
    plot.update_yaxes(autorange="reversed", showgrid=False)
    return plot
