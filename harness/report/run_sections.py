"""How a run was measured: its environment, its method, its devices and where its time went."""

from collections.abc import Sequence
from html import escape

from harness.closure import Closure
from harness.environment import Environment
from harness.proof import Proof
from harness.record import Record
from harness.report import closure_table, method
from harness.report.elements import Part, definitions, part, plain_table
from harness.report.power import power_tables
from harness.report.rows import environment_facts, wall_time_rows, wall_time_text
from harness.report.spread_table import (
    CASE_HEADS,
    DEVICE_HEADS,
    case_rows,
    device_rows,
    verdict,
)
from harness.results import ResultRow
from harness.spread import Spread
from harness.store.folder import RunInfo
from harness.wall_time import wall_time_of

FIRST_FACTS = ("run", "command", "started", "device", "memory", "driver", "host", "commit")
"""What tells two runs apart at a glance; the others are one click away."""


def environment_part(
    info: RunInfo | None, environment: Environment | None, records: Sequence[Record]
) -> Part | None:
    """What was measured on what; None where neither is known."""
    if info is None and environment is None:
        return None
    facts = environment_facts(info, environment, records)
    first = tuple(fact for fact in facts if fact[0] in FIRST_FACTS)
    others = tuple(fact for fact in facts if fact[0] not in FIRST_FACTS)
    body = definitions(first)
    if others:
        body += f'<details class="more"><summary>{len(others)} more facts: versions, variables'
        body += f" and settings</summary>{definitions(others)}</details>"
    note = "Where these numbers come from; records.jsonl beside this file has every sample."
    return part("environment", "Environment", note, body)


def method_part(records: Sequence[Record], proof: Proof | None) -> Part | None:
    """Timer, launch and cache, and what was proven of them; None where nothing is known."""
    facts = method.method_facts(records)
    if not facts and proof is None:
        return None
    body = definitions(facts)
    if proof is not None:
        heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in method.COLUMNS)
        lines = "".join(
            f'<tr><th scope="row">{escape(what)}</th><td>{escape(found)}</td>'
            f'<td class="reason">{escape(advice)}</td></tr>'
            for what, found, advice in method.proof_rows(proof)
        )
        body += (
            f'<h3>Proven before the first case</h3><div class="scroll"><table class="facts">'
            f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
        )
    return part("method", method.TITLE, method.NOTE, body)


def power_parts(rows: Sequence[ResultRow]) -> tuple[Part, ...]:
    """Energy and sustained speed, where any case has numbers for them."""
    return tuple(
        part(
            title.split()[0].lower(),
            title,
            content.note,
            plain_table(content.heads, content.lines, num_texts=2),
        )
        for title, content in power_tables(rows)
    )


def closure_part(closures: Sequence[Closure]) -> Part | None:
    """Whole layers against the sum of their ops; None in a run without both."""
    if not closures:
        return None
    body = f"<p>{escape(closure_table.verdict(closures))}</p>" + plain_table(
        closure_table.HEADS, closure_table.rows(closures), num_texts=closure_table.NUM_TEXTS
    )
    longest = closure_table.longest_ops(closures)
    if longest:
        body += "<h3>The longest ops of the first sum</h3>"
        body += plain_table(closure_table.OP_HEADS, longest, num_texts=2)
    return part("closure", closure_table.TITLE, closure_table.NOTE, body)


def devices_part(spread: Spread) -> Part:
    """How the devices that were measured at once compare."""
    note = (
        "Devices of this machine that ran the same cases at the same time. The middle is the "
        "median of all, case by case; the cases are those farthest apart, spread.json has all."
    )
    body = (
        f"<p>{escape(verdict(spread))}</p>"
        + plain_table(DEVICE_HEADS, device_rows(spread))
        + plain_table(CASE_HEADS, case_rows(spread))
    )
    return part("devices", "Devices at once", note, body)


def wall_time_part(records: Sequence[Record]) -> Part | None:
    """What the time of the run was spent on; None in runs of older versions."""
    wall_time = wall_time_of(records)
    if wall_time is None:
        return None
    table = plain_table(("what", "time", "share"), wall_time_rows(wall_time))
    return part("wall-time", "Where the time went", wall_time_text(wall_time), table)
