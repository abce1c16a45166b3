"""Throughput per chip against what one user sees: the Pareto front of serving."""

import plotly.graph_objects as go

from harness.report.theme import GREY, PALETTE, SYMBOLS, styled
from harness.serving_projection import FrontPoint, ServingMode, ServingProjection

HEIGHT = 520
BAND = "rgba(0,114,178,0.2)"


def figure(projection: ServingProjection) -> go.Figure:
    """Tokens/s per chip over tokens/s per user, with the band of P10 to P90 and the limit."""
    points = projection.front
    across = [point.tokens_per_s_per_user.value for point in points]
    plot = go.Figure()
    for end, fill in (("high", None), ("low", "tonexty")):
        plot.add_scatter(
            x=across,
            y=[getattr(point.tokens_per_s_per_chip, end) for point in points],
            mode="lines",
            line={"width": 0},
            fill=fill,
            fillcolor=BAND,
            name="P10 to P90",
            showlegend=fill is not None,
            hoverinfo="skip",
        )
    plot.add_scatter(
        x=across,
        y=[point.tokens_per_s_per_chip.value for point in points],
        mode="lines",
        line={"color": GREY},
        showlegend=False,
        hoverinfo="skip",
    )
    for place, mode in enumerate(ServingMode):
        _points(plot, [point for point in points if point.mode is mode], mode, place)
    best = projection.best
    plot.add_scatter(
        x=[1 / best.tpot_s.value],
        y=[best.tokens_per_s_per_chip.value],
        mode="markers",
        marker={"size": 15, "color": PALETTE[4], "symbol": "star"},
        name="best within the limits",
        hovertemplate="best within the limits<br>%{y:.4s} tokens/s per chip<extra></extra>",
    )
    plot.add_vline(
        x=1 / projection.tpot_limit_s,
        line={"color": GREY, "dash": "dash"},
        annotation_text="limit per token",
        annotation_position="top right",
    )
    styled(plot, height=HEIGHT)
    plot.update_xaxes(title="tokens/s per user", rangemode="tozero")
    plot.update_yaxes(title="output tokens/s per chip", rangemode="tozero", exponentformat="SI")
    return plot


def _points(plot: go.Figure, points: list[FrontPoint], mode: ServingMode, place: int) -> None:
    if not points:
        return
    plot.add_scatter(
        x=[point.tokens_per_s_per_user.value for point in points],
        y=[point.tokens_per_s_per_chip.value for point in points],
        mode="markers",
        marker={"size": 8, "color": PALETTE[place], "symbol": SYMBOLS[place]},
        name=str(mode),
        customdata=[[point.label, f"{point.sequences_per_chip:.3g}"] for point in points],
        hovertemplate="<b>%{customdata[0]}</b><br>%{y:.4s} tokens/s per chip<br>"
        "%{x:.3s} tokens/s per user<br>%{customdata[1]} sequences per chip<extra></extra>",
    )
