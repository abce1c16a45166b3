"""The roofline: achieved FLOP/s of every timed case over its FLOPs per byte.

Source: Williams, Waterman and Patterson, Roofline, CACM 52(4), 2009.
"""

from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

from harness.device.chip import ChipSpec
from harness.report.rows import median_text, roof_text
from harness.report.theme import GREY, PALETTE, SYMBOLS, by_name, label, styled
from harness.results import ResultRow, Roofs
from harness.units import TERA

HEIGHT = 520
NUM_POINTS = 60


def plottable(rows: Sequence[ResultRow]) -> tuple[ResultRow, ...]:
    """Rows with a time and FLOPs; a copy has no place on this plot."""
    return tuple(row for row in rows if row.flops_per_s is not None and row.intensity)


def sheet_roofs(chip: ChipSpec, dtypes: Sequence[str]) -> Roofs:
    """The data sheet's roofs for those types; what the sheet does not give is absent."""
    peaks = ((dtype, chip.peak(dtype)) for dtype in dtypes)
    return Roofs(
        flops_per_s=tuple((dtype, peak) for dtype, peak in peaks if peak is not None),
        bytes_per_s=chip.memory_bandwidth_bytes_per_s,
    )


def _roof_lines(figure: go.Figure, roofs: Roofs, span: tuple[float, float], kind: str) -> None:
    if roofs.bytes_per_s is None:
        return
    is_measured = kind == "measured"
    for dtype, peak in roofs.flops_per_s:
        knee = peak / roofs.bytes_per_s
        inside = np.geomspace(*span, NUM_POINTS)
        intensity = np.unique(np.append(inside, np.clip(knee, *span)))
        figure.add_scatter(
            x=intensity,
            y=np.minimum(intensity * roofs.bytes_per_s, peak) / TERA,
            mode="lines",
            line={"color": GREY, "width": 2.5 if is_measured else 1.5}
            | ({} if is_measured else {"dash": "dash"}),
            name=f"{kind} roof, {dtype}",
            hovertemplate=f"{kind} roof, {dtype}<br>%{{x:.3g}} FLOP/byte<br>%{{y:.3g}} TFLOP/s"
            "<extra></extra>",
        )


def figure(rows: Sequence[ResultRow], roofs: Roofs, chip: ChipSpec | None = None) -> go.Figure:
    """Colour is the op, symbol the implementation; roofs are grey, data-sheet ones dashed."""
    shown = plottable(rows)
    plot = go.Figure()
    intensities = [row.intensity for row in shown if row.intensity] or [1.0, 1000.0]
    span = (min(*intensities, 1.0) / 2, max(*intensities, 100.0) * 2)
    _roof_lines(plot, roofs, span, "measured")
    if chip is not None:
        dtypes = sorted({row.dtype for row in shown})
        _roof_lines(plot, sheet_roofs(chip, dtypes), span, "data-sheet")
    colours = by_name([row.op for row in shown], PALETTE)
    symbols = by_name([row.impl for row in shown], SYMBOLS)
    for op, colour in colours.items():
        of_op = [row for row in shown if row.op == op]
        plot.add_scatter(
            x=[row.intensity for row in of_op],
            y=[(row.flops_per_s or 0) / TERA for row in of_op],
            mode="markers",
            name=label(op),
            marker={
                "color": colour,
                "size": 9,
                "opacity": 0.85,
                "symbol": [symbols[row.impl] for row in of_op],
                "line": {"width": 1, "color": "rgba(255,255,255,0.7)"},
            },
            customdata=[
                [escape(row.case_id), median_text(row), row.rate, roof_text(row)] for row in of_op
            ],
            hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]}, "
            "%{customdata[3]} of the roof<br>%{x:.3g} FLOP/byte<extra></extra>",
        )
    for impl, symbol in symbols.items():
        marker = {"color": GREY, "size": 9, "symbol": symbol}
        plot.add_scatter(x=[None], y=[None], mode="markers", name=label(impl), marker=marker)
    styled(plot, height=HEIGHT)
    plot.update_xaxes(
        title="FLOPs per byte of least traffic",
        type="log",
        dtick=1,
        range=[np.log10(x) for x in span],
    )
    plot.update_yaxes(title="TFLOP/s", type="log", exponentformat="none", dtick=1)
    return plot
