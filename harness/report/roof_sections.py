"""The chip's roofs, and every case and op against them."""

from collections.abc import Sequence

from harness.device.chip import ChipSpec
from harness.report import roof_share_plot, roofline_plot
from harness.report.elements import Part, definitions, part, plain_table, plot
from harness.report.rows import (
    NOT_AVAILABLE,
    ROOF_HEADS,
    percent_text,
    roof_rows,
    roof_source_text,
)
from harness.results import ResultRow, Roofs, geomean_roof_share, roofs_text
from harness.units import with_prefix

NOTE = (
    "Achieved FLOP/s over FLOPs per byte: what lies under the slope is bound by memory, what lies "
    "under the flat part by the matrix rate. Problems without FLOPs, as copy, have no place here. "
    "A mark leads to its case."
)


def roofline_parts(
    rows: Sequence[ResultRow], roofs: Roofs, chip: ChipSpec | None
) -> tuple[Part, ...]:
    """The roofline, and each op against it; what has no case to show is left out."""
    shown = roofline_plot.plottable(rows)
    facts = _roofs_facts(roofs, chip)
    parts = []
    if shown:
        roofline = plot(
            roofline_plot.figure(rows, roofs, chip),
            "roofline",
            f"Roofline with {len(shown)} cases; measured roofs: {roofs_text(roofs)}",
        )
        parts.append(part("roofline", "Roofline", NOTE, facts + roofline))
    if any(row.roof_share is not None for row in rows):
        share = percent_text(geomean_roof_share(rows))
        bars = plot(
            roof_share_plot.figure(rows),
            "roof-share",
            f"Ops against the measured roof: {share} of it as the geometric mean",
        )
        note = "How much of what this chip can do each op gets: the fastest implementation as a "
        note += "bar, every case as a mark."
        parts.append(part("roof-share", "Ops against the roof", note, bars))
    return tuple(parts)


def _roofs_facts(roofs: Roofs, chip: ChipSpec | None) -> str:
    facts = [("measured", roofs_text(roofs))]
    if chip is not None:
        peaks = ", ".join(
            f"{dtype} {with_prefix(peak, 'FLOP/s')}" for dtype, peak in chip.peak_flops_per_s
        )
        bandwidth = chip.memory_bandwidth_bytes_per_s
        memory = f"memory {with_prefix(bandwidth, 'B/s')}" if bandwidth else ""
        sheet = ", ".join(text for text in (peaks, memory) if text)
        facts += [("data sheet", sheet or NOT_AVAILABLE), ("its source", chip.source)]
    return definitions(facts)


def roofs_part(roofs: Roofs, run_id: str) -> Part:
    """The table of measured roofs, and which runs found them."""
    source = roof_source_text(roofs, run_id)
    note = (
        "The best rates that were measured, with 95 % intervals. The best case is chosen by one "
        "half of the samples and timed by the other, so that luck in the search is no part of the "
        "rate; what the best case says of itself stands beside it. "
    ) + (f"{source}." if source else "")
    table = plain_table(ROOF_HEADS, roof_rows(roofs), num_texts=len(ROOF_HEADS))
    return part("roofs", "Roofs", note, table)
