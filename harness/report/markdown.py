"""The report as Markdown: `report.md`, and the description of the run in MLflow.

The first line is plain text, since MLflow's lists show it as it is; MLflow folds a description
after a few lines, so what matters most comes first.
"""

from collections.abc import Sequence

from harness.closure import Closure, closures_of
from harness.environment import Environment
from harness.judgement import proof_warnings
from harness.projection import Projection
from harness.proof import Proof
from harness.record import Record
from harness.report import closure_table, method
from harness.report.power import power_tables
from harness.report.rows import (
    ALTERNATIVE_HEADS,
    ALTERNATIVES_TITLE,
    CAUSE_HEADS,
    CAUSES_TITLE,
    ROOF_HEADS,
    alternative_rows,
    cause_rows,
    environment_facts,
    environment_warnings,
    median_text,
    part_shares,
    projection_facts,
    reasons,
    roof_rows,
    roof_source_text,
    roof_text,
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
    headline,
    projection_headline,
    result_rows,
    roofs_text,
    status_counts,
)
from harness.roofs import measured_roofs
from harness.spread import Spread
from harness.store.folder import RunInfo
from harness.units import duration, significant
from harness.wall_time import wall_time_of

MAX_ROWS = 60
"""More rows than a person reads; the HTML report and results.csv have all."""
MAX_CASES_OF_A_REASON = 3


def cell(text: str) -> str:
    """The text so that it stays in one cell of a table, with no markup of its own."""
    plain = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return " ".join(plain.replace("*", "\\*").replace("_", "\\_").replace("`", "\\`").split())


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str] = ()) -> str:
    """A Markdown table; the columns named in `numbers` are aligned right."""
    rule = ["---:" if head in numbers else "---" for head in heads]
    lines = [heads, rule, *([cell(text) for text in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _results(rows: Sequence[ResultRow]) -> list[str]:
    best = sorted(best_rows(rows), key=lambda row: row.roof_share or 0.0)
    heads = ("op", "shape", "type", "fastest", "median", "rate", "of roof", "remarks")
    lines = [
        (
            row.title,
            row.shape,
            row.dtype,
            row.impl,
            median_text(row),
            row.rate,
            roof_text(row),
            ", ".join(row.remarks),
        )
        for row in best[:MAX_ROWS]
    ]
    parts = ["## Fastest implementation of each problem, farthest from its roof first"]
    parts.append(table(heads, lines, numbers=("median", "rate", "of roof")))
    if len(best) > MAX_ROWS:
        parts.append(f"And {len(best) - MAX_ROWS} more problems in results.csv.")
    return parts


def _reasons(rows: Sequence[ResultRow]) -> list[str]:
    lines = [
        (str(len(cases)), status, reason, ", ".join(cases[:MAX_CASES_OF_A_REASON]))
        for status, reason, cases in reasons(rows)
    ]
    return ["## No time, because", table(("cases", "status", "reason", "as"), lines)]


def _roofs(roofs: Roofs, run_id: str) -> list[str]:
    numbers = tuple(head for head in ROOF_HEADS if head not in ("roof", "found by"))
    parts = ["## Measured roofs", table(ROOF_HEADS, roof_rows(roofs), numbers=numbers)]
    source = roof_source_text(roofs, run_id)
    return [*parts, f"{cell(source)}."] if source else parts


def _projection(projection: Projection) -> list[str]:
    shares = [
        (name, duration(seconds), f"{significant(100 * share, 2)} %")
        for name, seconds, share in part_shares(projection)
    ]
    parts = [
        "## Projection",
        table(("what", "value"), projection_facts(projection)),
        table(("part of a step", "time", "share"), shares, numbers=("time", "share")),
    ]
    if projection.search is not None and projection.search.alternatives:
        rows = alternative_rows(projection.search)
        parts += [f"{ALTERNATIVES_TITLE}:", table(ALTERNATIVE_HEADS, rows, numbers=("step time",))]
    if projection.causes:
        parts += [f"{CAUSES_TITLE}:", table(CAUSE_HEADS, cause_rows(projection))]
    if projection.assumptions:
        parts.append("Taken on trust:")
        parts.append("\n".join(f"- {cell(text)}" for text in projection.assumptions))
    return parts


def _method(records: Sequence[Record], proof: Proof | None) -> list[str]:
    facts = method.method_facts(records)
    if not facts and proof is None:
        return []
    parts = [f"## {method.TITLE}"]
    if facts:
        parts.append(table(("what", "value"), facts))
    if proof is not None:
        parts += [method.NOTE, table(method.COLUMNS, method.proof_rows(proof))]
    return parts


def _closure(closures: Sequence[Closure]) -> list[str]:
    heads = closure_table.HEADS
    return [
        f"## {closure_table.TITLE}",
        closure_table.verdict(closures),
        table(heads, closure_table.rows(closures), numbers=heads[closure_table.NUM_TEXTS :]),
    ]


def _spread(spread: Spread) -> list[str]:
    return [
        "## Devices at once",
        verdict(spread),
        table(DEVICE_HEADS, device_rows(spread), numbers=DEVICE_HEADS[1:]),
        table(CASE_HEADS, case_rows(spread), numbers=CASE_HEADS[1:]),
    ]


def render(
    *,
    records: Sequence[Record] = (),
    info: RunInfo | None = None,
    environment: Environment | None = None,
    projection: Projection | None = None,
    proof: Proof | None = None,
    spread: Spread | None = None,
    roofs: Roofs | None = None,
) -> str:
    """The Markdown of a run, a projection, or both.

    Cases are held against the roofs given, or against those of their own records.
    """
    roofs = measured_roofs(records) if roofs is None else roofs
    rows = result_rows(records, roofs)
    parts: list[str] = []
    if rows:
        suite, chip = (info.suite, info.chip) if info is not None else ("run", "this chip")
        parts.append(headline(suite, chip, rows))
    if projection is not None:
        parts.append(projection_headline(projection))
    warnings = (*environment_warnings(environment, rows), *proof_warnings(proof))
    if warnings:
        parts.append("\n".join(f"- {cell(text)}" for text in warnings))
    if rows:
        parts.append(f"Measured roofs: {roofs_text(roofs)}. Cases: {status_counts(rows)}.")
        parts += _results(rows) if best_rows(rows) else []
        parts += _reasons(rows) if any(not row.is_ok for row in rows) else []
        for title, content in power_tables(rows):
            parts += [f"## {title}", table(content.heads, content.lines, content.numbers)]
        parts += _roofs(roofs, info.run_id if info is not None else "") if roofs.roofs else []
    if projection is not None:
        parts += _projection(projection)
    closures = closures_of(accepted(records, roofs))
    parts += _closure(closures) if closures else []
    parts += _method(records, proof)
    if spread is not None:
        parts += _spread(spread)
    wall_time = wall_time_of(records)
    if wall_time is not None:
        heads = ("what", "time", "share")
        parts += ["## Where the time went", wall_time_text(wall_time)]
        parts.append(table(heads, wall_time_rows(wall_time), numbers=heads[1:]))
    facts = environment_facts(info, environment, records)
    if facts:
        parts += ["## Environment", table(("what", "value"), facts)]
    return "\n\n".join(parts) + "\n"
