"""Throughput against the number of chips, and per chip of what it is where a chip gives most."""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from harness.projection import Projection, ScalePoint
from harness.report.rows import chips_text, percent_text, seconds_interval_text
from harness.report.theme import GREY, PALETTE, styled

HEIGHT = 620
BAND = "rgba(0,114,178,0.2)"


def scaling_points(projection: Projection) -> tuple[ScalePoint, ...]:
    """Every number of chips that was projected, the headline's among them."""
    points = {point.num_chips: point for point in projection.scaling}
    points.setdefault(projection.headline.num_chips, projection.headline)
    return tuple(points[number] for number in sorted(points))


def per_chip(point: ScalePoint) -> float:
    """Tokens per second of one of its chips."""
    return point.tokens_per_second.value / point.num_chips


def linear_from(points: Sequence[ScalePoint]) -> ScalePoint:
    """The point that linear scaling is drawn through: where a chip gives most.

    That need not be the smallest one, whose chips may have to recompute for want of memory; with it
    more than 100 % of linear would be shown.
    """
    return max(points, key=per_chip)


def figure(projection: Projection) -> go.Figure:
    """Above: tokens/s on logarithmic axes. Below: tokens/s per chip relative to the best point.

    Four decades hide any loss, so the lower half shows it on a plain axis.
    """
    points = scaling_points(projection)
    chips = [point.num_chips for point in points]
    best = linear_from(points)
    ideal = [per_chip(best) * number for number in chips]
    band = f"{100 * projection.interval_confidence:g} % interval"
    hover = [
        [
            chips_text(point),
            point.plan.label,
            seconds_interval_text(point.step_time_s),
            percent_text(point.mfu),
        ]
        for point in points
    ]
    plot = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[0.58, 0.42], vertical_spacing=0.07
    )
    for row in (1, 2):
        scale = [1.0 if row == 1 else 100 / one for one in ideal]
        for values, fill in (("high", None), ("low", "tonexty")):
            ends = [getattr(point.tokens_per_second, values) for point in points]
            plot.add_scatter(
                x=chips,
                y=[end * factor for end, factor in zip(ends, scale, strict=True)],
                mode="lines",
                line={"width": 0},
                fill=fill,
                fillcolor=BAND,
                name=band,
                showlegend=row == 1 and fill is not None,
                hoverinfo="skip",
                row=row,
                col=1,
            )
        plot.add_scatter(
            x=chips,
            y=[one * factor for one, factor in zip(ideal, scale, strict=True)],
            mode="lines",
            line={"color": GREY, "dash": "dash"},
            name=f"linear from {best.num_chips:,} chips",
            showlegend=row == 1,
            hoverinfo="skip",
            row=row,
            col=1,
        )
        plot.add_scatter(
            x=chips,
            y=[
                point.tokens_per_second.value * factor
                for point, factor in zip(points, scale, strict=True)
            ],
            mode="lines+markers",
            line={"color": PALETTE[0], "width": 2.5},
            marker={"size": 8},
            name="best plan at each number",
            showlegend=row == 1,
            customdata=hover,
            hovertemplate="<b>%{customdata[0]}</b><br>%{y:.3s} "
            + ("tokens/s" if row == 1 else "% of linear")
            + "<br>%{customdata[1]}<br>step %{customdata[2]}<br>MFU %{customdata[3]}"
            "<extra></extra>",
            row=row,
            col=1,
        )
    styled(plot, height=HEIGHT)
    plot.update_xaxes(type="log", dtick=1)
    plot.update_xaxes(title="chips", row=2, col=1)
    plot.update_yaxes(type="log", title="tokens/s", exponentformat="SI", dtick=1, row=1, col=1)
    plot.update_yaxes(title="% of linear", rangemode="tozero", row=2, col=1)
    return plot
