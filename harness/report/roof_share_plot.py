"""Each op against its measured roof: the fastest implementation as a bar, every case as a mark."""

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from harness.report.rows import median_text
from harness.report.theme import PALETTE, SYMBOLS, by_name, label, styled
from harness.results import ResultRow, best_rows, geomean_roof_share

ROW_HEIGHT = 34
BAR = "rgba(128,128,128,0.28)"


def figure(rows: Sequence[ResultRow]) -> go.Figure:
    """Bars are geometric means over the sizes of the fastest implementation at each."""
    timed = [row for row in rows if row.roof_share is not None]
    groups = list(dict.fromkeys(row.group for row in timed))
    best = best_rows(timed)
    means = [
        100 * (geomean_roof_share([row for row in best if row.group == group]) or 0.0)
        for group in groups
    ]
    plot = go.Figure()
    plot.add_bar(
        x=means,
        y=[label(group) for group in groups],
        orientation="h",
        name="fastest, mean over sizes",
        marker={"color": BAR},
        hovertemplate="%{y}<br>fastest: %{x:.3g} % of the roof, geometric mean<extra></extra>",
    )
    colours = by_name([row.impl for row in timed], PALETTE)
    symbols = by_name([row.impl for row in timed], SYMBOLS)
    for impl, colour in colours.items():
        of_impl = [row for row in timed if row.impl == impl]
        plot.add_scatter(
            x=[100 * (row.roof_share or 0) for row in of_impl],
            y=[label(row.group) for row in of_impl],
            mode="markers",
            name=label(impl),
            marker={"color": colour, "symbol": symbols[impl], "size": 9, "opacity": 0.85},
            customdata=[[escape(row.case_id), median_text(row), row.rate] for row in of_impl],
            hovertemplate="<b>%{customdata[0]}</b><br>%{x:.3g} % of the roof<br>"
            "%{customdata[1]}, %{customdata[2]}<extra></extra>",
        )
    styled(plot, height=110 + ROW_HEIGHT * len(groups), barmode="overlay", bargap=0.35)
    plot.add_vline(x=100, line={"dash": "dash", "color": "rgba(128,128,128,0.8)"})
    plot.update_xaxes(title="% of the measured roof", rangemode="tozero")
    plot.update_yaxes(autorange="reversed", showgrid=False)
    return plot
