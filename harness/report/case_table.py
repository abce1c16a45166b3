"""All cases as a table that sorts, filters by words and facets, and opens a case's samples."""

from collections.abc import Sequence
from html import escape

from harness.record import Record, Status
from harness.report.case_samples import samples_json
from harness.report.elements import Part, bullets, data_script, part
from harness.report.rows import reasons, roof_text, spread_text, status_text
from harness.results import ResultRow, best_rows, status_counts
from harness.units import duration

COLUMNS = (
    ("op", "", 16),
    ("shape", "shape", 18),
    ("type", "", 5),
    ("implementation", "", 13),
    ("median", "number", 8),
    ("interval", "number", 8),
    ("rate", "number", 10),
    ("of roof", "number", 8),
    ("status", "", 14),
)
"""Name, kind and per cent of the table's width."""
FACETS = "op implementation type mode status remark"
"""The data attributes of a row that can be chosen from; a `|` stands between several values."""
NOTE = (
    "Median of the samples with the half-width of its 95 % interval. Of roof: the attainable time "
    "over the median; n/a where no roof was measured, ! where the case beat its roof. The fastest "
    "implementation of each problem is bold. A heading sorts; a row opens its samples."
)
MOST_REASONS = 8
"""Of what cannot run here, told above the table; a rarer one stands in its row."""
THROTTLED_REMARK = "some throttled"
"""Some samples of the case were taken while throttled, and left out of its median."""


def cases_part(rows: Sequence[ResultRow], records: Sequence[Record]) -> Part:
    """The section with the table and the samples that its rows open."""
    best = {row.case_id for row in best_rows(rows)}
    widths = "".join(f'<col style="width: {width}%">' for _, _, width in COLUMNS)
    heads = "".join(
        f'<th scope="col"{" class=" + kind if kind else ""}>'
        f'<button type="button">{escape(name)}</button></th>'
        for name, kind, _ in COLUMNS
    )
    cannot_run = [
        (reason, f"{len(cases):,} {status}: {reason}")
        for status, reason, cases in reasons(rows)
        if status == Status.UNSUPPORTED
    ][:MOST_REASONS]
    told = {reason for reason, _ in cannot_run}
    body = "".join(
        _table_row(row, number, is_best=row.case_id in best, has_told=row.reason in told)
        for number, row in enumerate(rows)
    )
    table = (
        '<div class="scroll" tabindex="0" role="region" aria-label="Table of all cases">'
        '<table id="case-table" class="fixed" data-sortable data-noun="cases" '
        f'data-facets="{FACETS}" data-example="Filter: gemm triton ...">'
        f"<caption class=hidden>{escape(status_counts(rows))}</caption>"
        f"<colgroup>{widths}</colgroup><thead><tr>{heads}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )
    counts = f"<p>{escape(status_counts(rows))}.</p>"
    unsupported = bullets([sentence for _, sentence in cannot_run]) if cannot_run else ""
    samples = data_script(samples_json(rows, records), ' id="samples"')
    return part("cases", "All cases", NOTE, counts + unsupported + table + samples)


def _table_row(row: ResultRow, number: int, *, is_best: bool, has_told: bool) -> str:
    best = "best" if is_best else ""
    share = min(row.roof_share or 0.0, 1.0)
    kind = "ok" if row.is_ok else "" if row.status is Status.UNSUPPORTED else "bad"
    median, interval, width = "", "", None
    if row.median_s and row.low_s is not None and row.high_s is not None:
        median = duration(row.median_s)
        interval = spread_text(row.median_s, row.low_s, row.high_s)
        width = (row.high_s - row.low_s) / row.median_s
    has_share = row.roof_share is not None
    # What cannot run here says the same on every line, so the list above the table says it once.
    has_own_reason = row.reason and not has_told
    reason = f'<div class="reason">{escape(row.reason)}</div>' if has_own_reason else ""
    cells = (
        f'<th scope="row">{escape(row.title)}</th>',
        _cell(row.shape, "shape"),
        _cell(row.dtype),
        _cell(row.impl, best),
        _cell(median, f"number {best}".strip(), row.median_s),
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
    values = (row.op, row.impl, row.dtype, row.mode, row.status_word, "|".join(_remarks(row)))
    facets = " ".join(
        f'data-{name}="{escape(value)}"'
        for name, value in zip(FACETS.split(), values, strict=True)
        if value
    )
    return f'<tr data-case="{number}" {facets}>{"".join(cells)}</tr>'


def _cell(text: str, kind: str = "", value: float | None = None, style: str = "") -> str:
    sort = f' data-value="{"" if value is None else repr(value)}"' if "number" in kind else ""
    look = f' style="{style}"' if style else ""
    name = f' class="{kind}"' if kind else ""
    return f"<td{name}{sort}{look}>{escape(text)}</td>"


def _remarks(row: ResultRow) -> tuple[str, ...]:
    """What to know of a time, in words that many cases share."""
    found = {
        "noisy": row.is_noisy,
        "throttled": row.is_throttled,
        THROTTLED_REMARK: row.num_throttled > 0 and not row.is_throttled,
        "power capped": row.is_power_capped,
        "short": row.is_short,
        "above the roof": row.is_above_roof,
        "not alone": bool(row.foreign_processes),
    }
    return tuple(words for words, is_so in found.items() if is_so)
