"""One self-contained HTML file: what was measured, against which roof, and the projection.

Every text goes through `escape`, since names and reasons come from configs, kernels and drivers.
"""

from collections.abc import Sequence
from html import escape

from harness.closure import Closure, closures_of
from harness.device.chip import ChipSpec
from harness.environment import Environment
from harness.judgement import proof_warnings
from harness.projection import Projection
from harness.proof import Proof
from harness.record import Record, Status
from harness.report import (
    breakdown_plot,
    causes_plot,
    closure_table,
    method,
    ops_plot,
    roof_share_plot,
    roofline_plot,
    scaling_plot,
    wall_time_plot,
)
from harness.report.at_scale import goodput_rows, power_rows
from harness.report.elements import (
    bullets,
    definitions,
    frame,
    plain_table,
    plot,
    section,
)
from harness.report.power import power_tables
from harness.report.rows import (
    ALTERNATIVE_HEADS,
    ALTERNATIVES_TITLE,
    CAUSE_HEADS,
    CAUSES_TITLE,
    NOT_AVAILABLE,
    ROOF_HEADS,
    alternative_rows,
    cause_rows,
    confidence_text,
    environment_facts,
    environment_warnings,
    next_measurement,
    percent_text,
    projection_facts,
    reasons,
    roof_rows,
    roof_source_text,
    roof_text,
    spread_text,
    status_text,
    wall_time_rows,
    wall_time_text,
)
from harness.report.spread_table import (
    CASE_HEADS,
    DEVICE_HEADS,
    case_rows,
    device_rows,
    verdict,
)
from harness.results import (
    ResultRow,
    Roofs,
    accepted,
    best_rows,
    geomean_roof_share,
    headline,
    projection_headline,
    result_rows,
    roofs_text,
    status_counts,
)
from harness.roofs import measured_roofs
from harness.spread import Spread
from harness.store.folder import RunInfo
from harness.units import capacity, duration, with_prefix
from harness.wall_time import wall_time_of

COLUMNS = (
    ("op", ""),
    ("shape", ""),
    ("type", ""),
    ("implementation", ""),
    ("median", "number"),
    ("interval", "number"),
    ("rate", "number"),
    ("of roof", "number"),
    ("status", ""),
)


def _cell(text: str, kind: str = "", value: float | None = None, style: str = "") -> str:
    sort = f' data-value="{"" if value is None else repr(value)}"' if "number" in kind else ""
    look = f' style="{style}"' if style else ""
    name = f' class="{kind}"' if kind else ""
    return f"<td{name}{sort}{look}>{escape(text)}</td>"


def _table_row(row: ResultRow, is_best: bool) -> str:
    best = " best" if is_best else ""
    share = min(row.roof_share or 0.0, 1.0)
    kind = "ok" if row.is_ok else "" if row.status is Status.UNSUPPORTED else "bad"
    median, interval, width = "", "", None
    if row.median_s and row.low_s is not None and row.high_s is not None:
        median = duration(row.median_s)
        interval = spread_text(row.median_s, row.low_s, row.high_s)
        width = (row.high_s - row.low_s) / row.median_s
    has_share = row.roof_share is not None
    # What cannot run here says the same on every line, so the list above the table says it once.
    has_own_reason = row.reason and row.status is not Status.UNSUPPORTED
    reason = f'<div class="reason">{escape(row.reason)}</div>' if has_own_reason else ""
    cells = (
        _cell(row.title),
        _cell(row.shape, "shape"),
        _cell(row.dtype),
        _cell(row.impl, best.strip()),
        _cell(median, f"number{best}", row.median_s),
        _cell(interval, "number", width),
        _cell(row.rate, "number", row.flops_per_s or row.bytes_per_s),
        _cell(
            roof_text(row),
            "number share" if has_share else "number",
            row.roof_share,
            f"--share: {100 * share:.1f}%" if has_share else "",
        ),
        f'<td><span class="{kind}">{escape(status_text(row))}</span>{reason}</td>',
    )
    title = ""
    if row.is_ok:
        launch = f", launch {row.launch}" if row.launch else ""
        title = f"{row.num_samples} samples, {row.num_outliers} of them outliers{launch}"
        title = f' title="{escape(title)}"'
    return f"<tr{title}>{''.join(cells)}</tr>"


def _cases(rows: Sequence[ResultRow]) -> str:
    best = {row.case_id for row in best_rows(rows)}
    heads = "".join(
        f'<th scope="col"{" class=" + kind if kind else ""}>'
        f'<button type="button">{escape(name)}</button></th>'
        for name, kind in COLUMNS
    )
    body = "".join(_table_row(row, row.case_id in best) for row in rows)
    table = (
        '<input type="search" id="filter" placeholder="Filter: gemm triton ..." '
        'aria-label="Show only cases with all of these words">'
        '<div class="scroll"><table data-sortable data-filter="filter">'
        f"<caption>{escape(status_counts(rows))}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )
    cannot_run = [
        f"{len(cases)} {status}: {reason}"
        for status, reason, cases in reasons(rows)
        if status == Status.UNSUPPORTED
    ]
    table = (bullets(cannot_run) if cannot_run else "") + table
    note = (
        "Median of the samples with the half-width of its 95 % interval. "
        "Of roof: the attainable time over the median; n/a where no roof was measured, "
        "! where the case beat its roof. The fastest implementation of each problem is bold; "
        "a heading sorts."
    )
    return section("cases", "All cases", note, table)


def _method(records: Sequence[Record], proof: Proof | None) -> str:
    """The section on timer, launch and cache; empty where nothing is known of them."""
    facts = method.method_facts(records)
    if not facts and proof is None:
        return ""
    body = definitions(facts)
    if proof is not None:
        heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in method.COLUMNS)
        lines = "".join(
            f'<tr><th scope="row">{escape(what)}</th>{_cell(found)}{_cell(advice, "reason")}</tr>'
            for what, found, advice in method.proof_rows(proof)
        )
        body += (
            f'<h3>Proven before the first case</h3><div class="scroll"><table class="facts">'
            f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
        )
    return section("method", method.TITLE, method.NOTE, body)


def _figures(rows: Sequence[ResultRow], roofs: Roofs, projection: Projection | None) -> str:
    figures: list[tuple[str, str]] = []
    if rows:
        num_ok = sum(row.is_ok for row in rows)
        figures.append((f"{num_ok} of {len(rows)}", "cases measured"))
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
    items = "".join(
        f"<li><b>{escape(value)}</b><span>{escape(name)}</span></li>" for value, name in figures
    )
    return f'<ul class="figures">{items}</ul>'


def _projection(projection: Projection) -> str:
    point = projection.headline
    scaling = plot(
        scaling_plot.figure(projection),
        "scaling",
        f"Throughput against the number of chips, up to {point.num_chips} chips: "
        f"{projection_headline(projection)}",
    )
    parts = ", ".join(f"{part.name} {duration(part.seconds)}" for part in projection.parts)
    body = [
        definitions(projection_facts(projection)),
        "<h3>Throughput against the number of chips</h3>",
        scaling,
        "<h3>One step, taken apart</h3>",
        plot(breakdown_plot.figure(projection), "breakdown", f"One step: {parts}"),
    ]
    if projection.ops:
        body += [
            "<h3>Compute by op, and where each time comes from</h3>",
            plot(ops_plot.figure(projection), "ops", "Compute of a step by op and source"),
        ]
    body += _at_scale(projection)
    if projection.memory_parts:
        memory = tuple((name, capacity(size)) for name, size in projection.memory_parts)
        body += ["<h3>Memory per chip</h3>", definitions(memory)]
    if projection.search is not None and projection.search.alternatives:
        rows = [(name, margin, time) for name, time, margin in alternative_rows(projection.search)]
        heads = (ALTERNATIVE_HEADS[0], ALTERNATIVE_HEADS[2], ALTERNATIVE_HEADS[1])
        body += [f"<h3>{ALTERNATIVES_TITLE}</h3>", plain_table(heads, rows, num_texts=2)]
    if projection.causes:
        ends = ", ".join(f"{title} {share}" for title, share, *_ in cause_rows(projection))
        body += [
            f"<h3>{CAUSES_TITLE}</h3>",
            plot(causes_plot.figure(projection), "causes", f"Shares of the variance: {ends}"),
            plain_table(
                (CAUSE_HEADS[0], CAUSE_HEADS[3], *CAUSE_HEADS[1:3]),
                [(title, advice, *rest) for title, *rest, advice in cause_rows(projection)],
                num_texts=2,
            ),
        ]
        advice = next_measurement(projection)
        body += [f"<p>{escape(advice)}</p>"] if advice else []
    if projection.assumptions:
        body += ["<h3>Taken on trust</h3>", bullets(projection.assumptions)]
    note = (
        f"A model of one training step, with its {confidence_text(projection)}. "
        "It is an expectation, not a measurement of a cluster."
    )
    return section("projection", "Projection", note, "".join(body))


def _at_scale(projection: Projection) -> list[str]:
    """Wall time and power, where the cluster's file says enough for them."""
    point = projection.headline
    body = []
    if point.wall_time is not None:
        shares = ", ".join(" ".join(row) for row in goodput_rows(point))
        body += [
            "<h3>Wall time, taken apart</h3>",
            definitions(goodput_rows(point)),
            plot(wall_time_plot.figure(projection), "wall-time", f"The wall time: {shares}"),
        ]
    if point.energy is not None:
        body += ["<h3>Power of the site</h3>", definitions(power_rows(point))]
    return body


def _roofs(roofs: Roofs, info: RunInfo | None) -> str:
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in ROOF_HEADS)
    body = "".join(
        "<tr>" + "".join(_cell(text) for text in row) + "</tr>" for row in roof_rows(roofs)
    )
    source = roof_source_text(roofs, info.run_id if info is not None else "")
    note = (
        "The best rates that were measured, with 95 % intervals. The best case is chosen by one "
        "half of the samples and timed by the other, so that luck in the search is no part of the "
        "rate; what the best case says of itself stands beside it. "
    ) + (f"{source}." if source else "")
    table = f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>{body}</table></div>'
    return section("roofs", "Measured roofs", note, table)


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


def _plots(rows: Sequence[ResultRow], roofs: Roofs, chip: ChipSpec | None) -> str:
    share = percent_text(geomean_roof_share(rows))
    roofline = plot(
        roofline_plot.figure(rows, roofs, chip),
        "roofline",
        f"Roofline with {len(roofline_plot.plottable(rows))} cases; measured roofs: "
        f"{roofs_text(roofs)}",
    )
    sections = [
        section(
            "roofline",
            "Roofline",
            "Achieved FLOP/s over FLOPs per byte: what lies under the slope is bound by memory, "
            "what lies under the flat part by the matrix rate. Problems without FLOPs, as copy, "
            "have no place here.",
            _roofs_facts(roofs, chip) + roofline,
        )
    ]
    if any(row.roof_share is not None for row in rows):
        bars = plot(
            roof_share_plot.figure(rows),
            "roof-share",
            f"Ops against the measured roof: {share} of it as the geometric mean",
        )
        note = "How much of what this chip can do each op gets: the fastest implementation as a "
        note += "bar, every case as a mark."
        sections.append(section("roof-share", "Ops against the roof", note, bars))
    return "".join(sections)


def _closure(closures: Sequence[Closure]) -> str:
    body = f"<p>{escape(closure_table.verdict(closures))}</p>" + plain_table(
        closure_table.HEADS, closure_table.rows(closures), num_texts=closure_table.NUM_TEXTS
    )
    longest = closure_table.longest_ops(closures)
    if longest:
        body += "<h3>The longest ops of the first sum</h3>"
        body += plain_table(closure_table.OP_HEADS, longest, num_texts=2)
    return section("closure", closure_table.TITLE, closure_table.NOTE, body)


def _spread(spread: Spread) -> str:
    note = (
        "Devices of this machine that ran the same cases at the same time. The middle is the "
        "median of all, case by case; the cases are those farthest apart, spread.json has all."
    )
    body = (
        f"<p>{escape(verdict(spread))}</p>"
        + plain_table(DEVICE_HEADS, device_rows(spread))
        + plain_table(CASE_HEADS, case_rows(spread))
    )
    return section("devices", "Devices at once", note, body)


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
    """
    roofs = measured_roofs(records) if roofs is None else roofs
    rows = result_rows(records, roofs)
    suite, chip_name = (info.suite, info.chip) if info is not None else ("", "")
    if chip is not None and info is not None:
        chip_name = chip.title
    sentences = []
    if rows:
        sentences.append(headline(suite or "run", chip_name or "this chip", rows))
    if projection is not None:
        sentences.append(projection_headline(projection))
    sections, links = [], []
    if projection is not None:
        sections.append(_projection(projection))
        links.append(("projection", "Projection"))
    if rows:
        found = [_roofs(roofs, info)] if roofs.roofs else []
        sections = [_plots(rows, roofs, chip), *found, *sections, _cases(rows)]
        if found:
            links.insert(0, ("roofs", "Roofs"))
        links = [("roofline", "Roofline"), *links, ("cases", "All cases")]
        for title, content in power_tables(rows):
            name = title.split()[0].lower()
            table = plain_table(content.heads, content.lines, num_texts=2)
            sections.append(section(name, title, content.note, table))
            links.append((name, title))
    closures = closures_of(accepted(records, roofs))
    if closures:
        sections.append(_closure(closures))
        links.append(("closure", closure_table.TITLE))
    how = _method(records, proof)
    if how:
        sections.append(how)
        links.append(("method", method.TITLE))
    if spread is not None:
        sections.append(_spread(spread))
        links.append(("devices", "Devices at once"))
    wall_time = wall_time_of(records)
    if wall_time is not None:
        table = plain_table(("what", "time", "share"), wall_time_rows(wall_time))
        note = wall_time_text(wall_time)
        sections.append(section("wall-time", "Where the time went", note, table))
        links.append(("wall-time", "Where the time went"))
    warnings = (*environment_warnings(environment, rows), *proof_warnings(proof))
    if info is not None or environment is not None:
        facts = environment_facts(info, environment, records)
        note = "Where these numbers come from; records.jsonl beside this file has every sample."
        sections.append(section("environment", "Environment", note, definitions(facts)))
        links.append(("environment", "Environment"))
    title = f"{suite} on {chip_name}" if info is not None else "projection"
    notice = f'<div class="warning" role="note">{bullets(warnings)}</div>' if warnings else ""
    return frame(
        title,
        sentences,
        f"{_figures(rows, roofs, projection)}{notice}",
        links,
        sections,
    )
