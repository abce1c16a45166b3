"""A gate's result for the terminal: what fails first, what did not change as a number."""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from harness.gate_result import GateCase, GateResult, State
from harness.report.gate_rows import (
    arm_text,
    change_text,
    clocks_text,
    exemption_text,
    flagged,
    notes,
    num_unchanged,
    rounds_text,
    state_text,
    times_text,
    tolerance_text,
)
from harness.units import significant

MAX_CASES = 40
"""More would push the verdict off the screen; the other outputs have all of them."""
MAX_REASON = 300
STYLE: dict[State, str] = {
    State.REGRESSED: "bold red",
    State.INVALID: "red",
    State.MISSING: "yellow",
    State.INCONCLUSIVE: "yellow",
    State.NOISY: "yellow",
    State.IMPROVED: "green",
    State.NEW: "cyan",
    State.UNCHANGED: "dim",
}


def gate_view(result: GateResult) -> RenderableType:
    """The verdict, its cases worst first, and the number of those that did not change.

    A line that names each case and lines below it, since a table of all wraps in 80 columns.
    """
    style = "bold red" if result.num_failing else "bold green" if result.cases else "bold yellow"
    parts: list[RenderableType] = [
        Text(result.headline, style=style),
        Text(f"{arm_text(result.base)} -> {arm_text(result.head)}, suite {result.suite}"),
    ]
    parts += [Text(f"warning: {note}", style="yellow") for note in notes(result)]
    cases = flagged(result)
    for case in cases[:MAX_CASES]:
        parts += _case(case)
    if len(cases) > MAX_CASES:
        parts.append(Text(f"and {len(cases) - MAX_CASES} more in gate.html", style="dim"))
    same = num_unchanged(result)
    if same:
        parts.append(Text(f"{same} unchanged", style="dim"))
    alarms = result.expected_false_alarms
    if alarms is not None:
        words = f"Expected false alarms of a gate of this size: {significant(alarms, 2)}"
        parts.append(Text(words, style="dim"))
    parts += [
        Text(f"{role} in MLflow: {link}", style="dim", no_wrap=True, overflow="ignore")
        for role, link in result.ui_links
    ]
    return Group(*parts)


def _case(case: GateCase) -> list[RenderableType]:
    style = "yellow" if case.exemption is not None else STYLE[case.state]
    lines = [
        Text.assemble((state_text(case), style), "  ", (case.case_id, "bold")),
    ]
    numbers = "  ".join(text for text in (times_text(case), change_text(case)) if text)
    if numbers:
        lines.append(Text(numbers, style=style if case.change is not None else ""))
    why = case.reason if len(case.reason) <= MAX_REASON else case.reason[:MAX_REASON] + " ..."
    clocks = clocks_text(case)
    details = (
        why,
        f"tolerance {tolerance_text(case)}" if case.change is not None else "",
        ", ".join(
            text for text in (rounds_text(case), f"clock {clocks}" if clocks else "") if text
        ),
        exemption_text(case),
    )
    lines += [Text(text) for text in details if text]
    if case.reproduce:
        lines.append(Text(case.reproduce, style="cyan"))
    return [lines[0], *(Padding(line, (0, 0, 0, 2)) for line in lines[1:])]
