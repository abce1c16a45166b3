"""A gate's result as Markdown: GitHub's step summary, one sticky comment, MLflow's description.

GitHub shows nothing of a summary that is longer than its limit, so rows are added while they fit,
worst first, and what does not fit is a number and the name of the file that has it.
"""

import re
from collections.abc import Iterable, Sequence
from html import escape

from harness.gate_result import GateCase, GateResult, State
from harness.report.gate_rows import (
    MEANING,
    change_text,
    clocks_text,
    exemption_text,
    facts,
    flagged,
    notes,
    num_unchanged,
    rounds_text,
    state_text,
    times_text,
    tolerance_text,
)

MAX_SUMMARY_BYTES = 900_000
"""GitHub refuses a step's summary above 1024 kB; another tool may add to the same step's.

Source: https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""
MAX_COMMENT_BYTES = 60_000
"""GitHub refuses a comment of more than 65,536 characters; whoever posts it may add a line."""
MAX_ROWS = 100
"""More rows than a person reads; the others are folded."""
MAX_TEXT = 400
"""Of a reason or a name: a traceback would hide the row below it."""
MAX_NOTES = 20
MAX_COMMANDS = 20
MIN_BYTES = 20_000
"""What the parts without a limit of rows may take."""
TAIL_BYTES = 2_000
"""Kept free for what closes the text and says how much was left out."""
HEADS = ("state", "case", "base -> head", "change [interval]", "tolerance", "why")
SAFE_CODE = re.compile(r"[^`|\\<>\n]*")


def shortened(text: str, limit: int = MAX_TEXT) -> str:
    """At most that many characters."""
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."


def plain(text: str, limit: int = MAX_TEXT) -> str:
    """The text on one line, with no markup, no name that is notified and no number that links."""
    line = " ".join(shortened(text, limit).split())
    line = re.sub(r"([\\`*\[<|&~]|(?<!\w)_|_(?!\w)|^[>#]|^[+-](?=\s))", r"\\\1", line)
    return re.sub(r"([@#])(?=\w)", r"\1<!-- -->", line)


def code(text: str, limit: int = MAX_TEXT) -> str:
    """The text as code, also inside a table."""
    line = " ".join(shortened(text, limit).split())
    if line and SAFE_CODE.fullmatch(line):
        return f"`{line}`"
    # Inside backticks neither a pipe after a backslash nor a backtick can be written in a table.
    entities = re.sub(r"[^\w\s./:=,-]|_", lambda found: f"&#{ord(found[0])};", line)
    return f"<code>{entities}</code>"


def marker(result: GateResult) -> str:
    """The line by which a later gate of that suite and chip finds the comment to replace."""
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", f"{result.suite}-{result.chip}").strip("-")
    return f"<!-- chipscale-gate: {name} -->"


def _row(case: GateCase) -> str:
    cells = (
        plain(state_text(case)),
        code(case.case_id),
        plain(times_text(case)),
        plain(change_text(case)),
        plain(tolerance_text(case)),
        plain(_why(case), 2 * MAX_TEXT),
    )
    return f"| {' | '.join(cells)} |"


def _why(case: GateCase) -> str:
    clocks = clocks_text(case)
    parts = (
        shortened(case.reason),
        f"Clock {clocks}." if clocks else "",
        f"{rounds_text(case)}." if case.confirm is not None else "",
        f"{exemption_text(case)}." if case.exemption is not None else "",
    )
    return " ".join(part for part in parts if part)


def _fitting(cases: Iterable[GateCase], room: int) -> list[str]:
    """The rows of the first cases, as many as are together no longer than that."""
    rows: list[str] = []
    for case in cases:
        row = _row(case)
        room -= size_bytes(row) + 1
        if room < 0:
            break
        rows.append(row)
    return rows


def size_bytes(text: str) -> int:
    """In UTF-8, as GitHub counts a summary."""
    return len(text.encode("utf-8", errors="replace"))


def _table_head() -> str:
    return f"| {' | '.join(HEADS)} |\n| --- | --- | ---: | ---: | --- | --- |"


def _links(result: GateResult) -> str:
    links = [f"[{plain(role)}]({_address(link)})" for role, link in result.ui_links]
    return f"In MLflow: {', '.join(links)}." if links else ""


def _address(link: str) -> str:
    return escape(re.sub(r"[\s<>()]", lambda found: f"%{ord(found[0]):02X}", link), quote=True)


def _commands(cases: Sequence[GateCase]) -> str:
    """A command for each failing case, folded; the fence is longer than any in the commands."""
    commands = [
        shortened(" ".join(case.reproduce.split()), 2000)
        for case in cases
        if case.reproduce and case.state in (State.REGRESSED, State.INVALID)
    ]
    if not commands:
        return ""
    told = commands[:MAX_COMMANDS]
    left = len(commands) - len(told)
    more = f"\n\nAnd {left} more in junit.xml and gate.html." if left else ""
    fence = "`" * max(3, *(len(run) + 1 for line in told for run in re.findall("`+", line)), 3)
    body = "\n".join(told)
    return (
        "<details><summary>Measure again</summary>\n\n"
        f"{fence}sh\n{body}\n{fence}{more}\n\n</details>"
    )


def _facts(result: GateResult) -> str:
    lines = "\n".join(f"- {name}: {plain(value)}" for name, value in facts(result))
    known = [state for state, _ in result.counts if state is not State.UNCHANGED]
    meanings = "".join(f"\n- {state.value}: {MEANING[state]}" for state in known)
    return f"<details><summary>What was compared</summary>\n\n{lines}{meanings}\n\n</details>"


def render(result: GateResult, *, max_bytes: int = MAX_SUMMARY_BYTES, heading: str = "") -> str:
    """The Markdown, no longer than asked for.

    Args:
        result: What the gate found.
        max_bytes: In UTF-8; at least 20,000, which the parts without a limit of rows take.
        heading: Put before the verdict: `## ` on GitHub; nothing where lists show the first line.
    """
    cases = flagged(result)
    found = notes(result)
    told = [f"- {plain(note)}" for note in found[:MAX_NOTES]]
    if len(found) > MAX_NOTES:
        told.append(f"- and {len(found) - MAX_NOTES} more in gate.html")
    same = num_unchanged(result)
    parts = [
        f"{heading}{plain(result.headline)}",
        f"{plain(_sides(result))} {_links(result)}".strip(),
        "\n".join(told),
        f"{same} unchanged." if same else "",
        _commands(cases),
        _facts(result),
    ]
    room = max_bytes - TAIL_BYTES - sum(size_bytes(part) + 2 for part in parts)
    if room < 0:
        # Commands can be long; gate.html has them.
        parts[-2] = ""
        room = max_bytes - TAIL_BYTES - sum(size_bytes(part) + 2 for part in parts)
    parts[3:3] = _tables(cases, room)
    return "\n\n".join(part for part in parts if part) + "\n"


def _sides(result: GateResult) -> str:
    values = dict(facts(result))
    return f"{values['base']} -> {values['head']}, suite {values['suite']}; {values['rounds']}."


def _tables(cases: Sequence[GateCase], room: int) -> list[str]:
    """The first rows, the others folded, and how many did not fit; nothing without room."""
    if room <= 0 or not cases:
        return []
    rows = _fitting(cases, room)
    left = len(cases) - len(rows)
    parts = []
    if rows:
        parts.append("\n".join([_table_head(), *rows[:MAX_ROWS]]))
    if len(rows) > MAX_ROWS:
        body = "\n".join([_table_head(), *rows[MAX_ROWS:]])
        count = len(rows) - MAX_ROWS
        parts.append(f"<details><summary>{count} more</summary>\n\n{body}\n\n</details>")
    if left:
        parts.append(f"And {left} more in gate.html and junit.xml.")
    return parts


def comment(result: GateResult) -> str:
    """The text of the one comment that each gate replaces; its first line is the marker."""
    head = marker(result) + "\n"
    return head + render(result, max_bytes=MAX_COMMENT_BYTES - size_bytes(head), heading="## ")
