"""One training step taken apart: its parts end to end, each with its share of the step."""

import plotly.graph_objects as go

from harness.projection import Projection
from harness.report.rows import part_shares
from harness.report.theme import GREY, PALETTE, label, styled
from harness.units import duration, significant

ROW_HEIGHT = 40
ROOM_FOR_TEXT = 110
"""Pixels right of the longest bar, where the texts of the last ones stand."""


def figure(projection: Projection) -> go.Figure:
    """Each bar begins where the one above ends; the last is the whole."""
    parts = part_shares(projection)
    total = sum(seconds for _, seconds, _ in parts)
    starts = [sum(seconds for _, seconds, _ in parts[:index]) for index in range(len(parts))]
    texts = [f"{duration(seconds)}, {significant(100 * share, 2)} %" for _, seconds, share in parts]
    plot = go.Figure(
        go.Bar(
            x=[*(seconds for _, seconds, _ in parts), total],
            y=[*(label(name) for name, _, _ in parts), "one step"],
            base=[*starts, 0.0],
            orientation="h",
            text=[*texts, duration(total)],
            textposition="outside",
            cliponaxis=False,
            marker={"color": [PALETTE[i % len(PALETTE)] for i in range(len(parts))] + [GREY]},
            hovertemplate="%{y}<br>%{text}<extra></extra>",
        )
    )
    styled(plot, height=90 + ROW_HEIGHT * (len(parts) + 1), showlegend=False, bargap=0.3)
    plot.update_layout(margin_r=ROOM_FOR_TEXT)
    plot.update_xaxes(title="seconds", range=[0, 1.02 * total])
    plot.update_yaxes(autorange="reversed", showgrid=False)
    return plot
