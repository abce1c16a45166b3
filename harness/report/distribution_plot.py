"""How far the samples of every case lie apart, over how long they last."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import plotly.graph_objects as go

from harness.record import Record
from harness.report.rows import median_text
from harness.report.theme import PALETTE, SYMBOLS, by_name, label, styled
from harness.results import ResultRow
from harness.units import duration, significant

HEIGHT = 420
INNER = (10.0, 90.0)
"""Percentiles of the samples whose distance is called their spread: few outliers change it."""
LEAST_PERCENT = 1e-3
"""Where a case without any spread is drawn, since the axis is logarithmic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSpread:
    """A case with a time and the spread of its samples."""

    row: ResultRow
    median_s: float
    spread: float
    """P10 to P90 over the median."""


def case_spreads(rows: Sequence[ResultRow], records: Sequence[Record]) -> tuple[CaseSpread, ...]:
    """Every case with a time, in the order of the rows."""
    last = {record.case.id: record.measurement for record in records}
    found = []
    for row in rows:
        measurement = last.get(row.case_id)
        if measurement is None or not row.median_s:
            continue
        low, high = np.percentile(measurement.steady_samples_s, INNER)
        spread = float(high - low) / row.median_s
        if np.isfinite(spread):
            found.append(CaseSpread(row=row, median_s=row.median_s, spread=spread))
    return tuple(found)


def verdict(spreads: Sequence[CaseSpread]) -> str:
    """The middle and the widest in two sentences."""
    middle = float(np.median([one.spread for one in spreads]))
    widest = max(spreads, key=lambda one: one.spread)
    return (
        f"P10 to P90 of the samples are {significant(100 * middle, 2)} % of the median in the "
        f"middle case. The widest is {widest.row.case_id} with "
        f"{significant(100 * widest.spread, 2)} %."
    )


def figure(spreads: Sequence[CaseSpread]) -> go.Figure:
    """A mark for each case: colour is the op, symbol the implementation, as in the roofline."""
    plot = go.Figure()
    colours = by_name([one.row.op for one in spreads], PALETTE)
    symbols = by_name([one.row.impl for one in spreads], SYMBOLS)
    for op, colour in colours.items():
        of_op = [one for one in spreads if one.row.op == op]
        plot.add_scatter(
            x=[one.median_s for one in of_op],
            y=[max(100 * one.spread, LEAST_PERCENT) for one in of_op],
            mode="markers",
            name=label(op),
            marker={
                "color": colour,
                "size": 8,
                "opacity": 0.8,
                "symbol": [symbols[one.row.impl] for one in of_op],
            },
            customdata=[
                [
                    escape(one.row.case_id),
                    median_text(one.row),
                    f"{one.row.num_samples:,} samples, {one.row.num_outliers:,} outliers",
                ]
                for one in of_op
            ],
            hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<br>P10 to P90: %{y:.3g} % "
            "of the median<br>%{customdata[2]}<extra></extra>",
        )
    styled(plot, height=HEIGHT)
    decades = range(*_decades([one.median_s for one in spreads]))
    plot.update_xaxes(
        title="median",
        type="log",
        tickvals=[10.0**power for power in decades],
        ticktext=[duration(10.0**power, 1) for power in decades],
    )
    plot.update_yaxes(title="P10 to P90, % of the median", type="log", dtick=1)
    return plot


def _decades(times_s: Sequence[float]) -> tuple[int, int]:
    """First and one after the last power of ten around the times."""
    return math.floor(math.log10(min(times_s))), math.ceil(math.log10(max(times_s))) + 1
