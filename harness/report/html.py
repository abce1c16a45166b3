"""One self-contained HTML file: what was measured, against which roof, and the projection.

Every text goes through `escape`, since names and reasons come from configs, kernels and drivers.
"""

from collections.abc import Sequence
from html import escape

from harness.closure import closures_of
from harness.comparison import ChipComparison
from harness.device.chip import ChipSpec
from harness.environment import Environment
from harness.judgement import proof_warnings
from harness.projection import Projection
from harness.proof import Proof
from harness.record import Record
from harness.report import distribution_plot
from harness.report.case_table import cases_part
from harness.report.comparison_section import comparison_parts
from harness.report.elements import Part, bullets, figures_list, frame, part, plot
from harness.report.projection_section import projection_part
from harness.report.roof_sections import roofline_parts, roofs_part
from harness.report.rows import environment_warnings, percent_text
from harness.report.run_sections import (
    closure_part,
    devices_part,
    environment_part,
    method_part,
    power_parts,
    wall_time_part,
)
from harness.results import (
    ResultRow,
    Roofs,
    accepted,
    geomean_roof_share,
    headline,
    projection_headline,
    result_rows,
)
from harness.roofs import measured_roofs
from harness.spread import Spread
from harness.store.folder import RunInfo
from harness.units import with_prefix


def render(
    *,
    records: Sequence[Record] = (),
    info: RunInfo | None = None,
    environment: Environment | None = None,
    projection: Projection | None = None,
    chip: ChipSpec | None = None,
    proof: Proof | None = None,
    spread: Spread | None = None,
    roofs: Roofs | None = None,
    comparison: ChipComparison | None = None,
) -> str:
    """The page for a run, a projection, or both; it loads nothing, so it works with no network.

    Args:
        records: All records of the run; empty for a projection alone.
        info: What the run is.
        environment: What it ran on.
        projection: What follows for a cluster.
        chip: The data sheet, drawn as dashed roofs; None where there is none.
        proof: What timer, launch and flush are worth; None in runs of older versions.
        spread: How the devices that were measured at once compare; None for a device alone.
        roofs: What the cases are held against; the records' own if none are given.
        comparison: The run against others, as another chip's; None shows it alone.
    """
    roofs = measured_roofs(records) if roofs is None else roofs
    rows = result_rows(records, roofs)
    parts: list[Part | None] = [environment_part(info, environment, records)]
    if rows:
        parts += roofline_parts(rows, roofs, chip)
        parts += [cases_part(rows, records), _distributions(rows, records)]
    parts += comparison_parts(comparison) if comparison is not None else ()
    parts.append(projection_part(projection) if projection is not None else None)
    parts.append(method_part(records, proof))
    if rows and roofs.roofs:
        parts.append(roofs_part(roofs, info.run_id if info is not None else ""))
    parts += power_parts(rows)
    parts.append(closure_part(closures_of(accepted(records, roofs))))
    parts.append(devices_part(spread) if spread is not None else None)
    parts.append(wall_time_part(records))
    shown = [one for one in parts if one is not None]

    suite, chip_name = (info.suite, info.chip) if info is not None else ("", "")
    if chip is not None and info is not None:
        chip_name = chip.title
    sentences = []
    if rows:
        sentences.append(headline(suite or "run", chip_name or "this chip", rows))
    if projection is not None:
        sentences.append(projection_headline(projection))
    warnings = (*environment_warnings(environment, rows), *proof_warnings(proof))
    return frame(
        f"{suite} on {chip_name}" if info is not None else "projection",
        sentences,
        figures_list(_figures(rows, roofs, projection)) + _notice(warnings),
        [(one.name, one.title) for one in shown],
        [one.html for one in shown],
    )


def _notice(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    return (
        '<aside class="warning" aria-labelledby="warnings-title">'
        f'<h2 id="warnings-title">Before building on these numbers</h2>{bullets(warnings)}</aside>'
    )


def _distributions(rows: Sequence[ResultRow], records: Sequence[Record]) -> Part | None:
    """The spread of every case's samples; the samples of one open from its row in the table."""
    spreads = distribution_plot.case_spreads(rows, records)
    if not spreads:
        return None
    said = distribution_plot.verdict(spreads)
    body = f"<p>{escape(said)}</p>" + plot(distribution_plot.figure(spreads), "spread", said)
    note = (
        "How far the samples of each case lie apart, over how long they last. A mark leads to its "
        "case, whose row opens its samples in the order they were taken."
    )
    return part("distributions", "Spread of the samples", note, body)


def _figures(
    rows: Sequence[ResultRow], roofs: Roofs, projection: Projection | None
) -> list[tuple[str, str]]:
    figures: list[tuple[str, str]] = []
    if rows:
        num_ok = sum(row.is_ok for row in rows)
        figures.append((f"{num_ok:,} of {len(rows):,}", "cases measured"))
        figures.append((percent_text(geomean_roof_share(rows)), "of the measured roof"))
        for dtype, rate in roofs.flops_per_s:
            figures.append((with_prefix(rate, "FLOP/s"), f"measured {dtype} matrix roof"))
        if roofs.bytes_per_s is not None:
            figures.append((with_prefix(roofs.bytes_per_s, "B/s"), "measured memory roof"))
    if projection is not None:
        point = projection.headline
        tokens = with_prefix(point.tokens_per_second.value, "tokens/s")
        figures.append((tokens, f"projected on {point.num_chips:,} chips"))
        figures.append((percent_text(projection.mfu), "projected MFU"))
        figures.append((percent_text(point.goodput), "projected goodput"))
        if point.energy is not None:
            figures.append((with_prefix(point.energy.site_w, "W"), "projected power of the site"))
    return figures
