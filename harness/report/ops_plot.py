"""The compute of a projected step by op, coloured by where its time comes from."""

from html import escape

import plotly.graph_objects as go

from harness.projection import Projection, Source
from harness.report.theme import GREY, PALETTE, label, styled
from harness.units import duration

ROW_HEIGHT = 40
MAX_OPS = 25
"""The longest ones; the others would be hairlines."""
COLOURS = {
    Source.MEASURED: PALETTE[2],
    Source.INTERPOLATED: PALETTE[0],
    Source.EXTRAPOLATED: PALETTE[4],
    Source.ROOFLINE: PALETTE[1],
    Source.NETWORK: PALETTE[3],
    Source.MODEL: GREY,
}


def figure(projection: Projection) -> go.Figure:
    """Longest first; a legend entry for each source that occurs."""
    shown = sorted(projection.ops, key=lambda op: -op.seconds)[:MAX_OPS]
    labels = [f"{label(op.role)}<br>{label(op.op, 40)}" for op in shown]
    plot = go.Figure()
    for source, colour in COLOURS.items():
        of_source = [
            (op, label) for op, label in zip(shown, labels, strict=True) if op.source is source
        ]
        if not of_source:
            continue
        plot.add_bar(
            x=[op.seconds * 1e3 for op, _ in of_source],
            y=[label for _, label in of_source],
            orientation="h",
            name=str(source),
            marker={"color": colour},
            customdata=[[escape(op.problem_id), duration(op.seconds)] for op, _ in of_source],
            hovertemplate="%{y}<br>%{customdata[0]}<br>%{customdata[1]}<extra>"
            f"{source}</extra>",
        )
    styled(plot, height=120 + ROW_HEIGHT * len(set(labels)), barmode="stack", bargap=0.3)
    plot.update_xaxes(title="milliseconds")
    order = list(dict.fromkeys(labels))
    plot.update_yaxes(categoryorder="array", categoryarray=order[::-1], showgrid=False)
    return plot
