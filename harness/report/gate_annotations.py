"""A gate's result as GitHub's workflow commands, which a runner shows beside the change.

GitHub keeps 10 of each kind of one step, so at most 9 cases are told and then how many more.
Source: https://docs.github.com/actions/reference/workflow-commands-for-github-actions; the
characters to escape are those of `escapeData` and `escapeProperty` in actions/toolkit.
"""

from harness.gate_result import GateCase, GateResult, State
from harness.report.gate_rows import (
    change_text,
    flagged,
    state_text,
    times_text,
    tolerance_text,
)

MAX_CASES = 9
MAX_MESSAGE = 600
"""The page folds longer ones, and the case's reason may quote a whole traceback."""
LEVEL: dict[State, str] = {
    State.REGRESSED: "error",
    State.INVALID: "error",
    State.MISSING: "warning",
    State.INCONCLUSIVE: "warning",
    State.NOISY: "notice",
}
"""What is not here is no reason to look at the change, and the summary tells it."""


def escape_data(text: str) -> str:
    """The text as the message of a command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(text: str) -> str:
    """The text as the value of a property."""
    return escape_data(text).replace(":", "%3A").replace(",", "%2C")


def render(result: GateResult) -> tuple[str, ...]:
    """A line for each of the worst cases, and one for the others together."""
    cases = [case for case in flagged(result) if case.state in LEVEL]
    lines = [_line(result, case) for case in cases[:MAX_CASES]]
    left = len(cases) - MAX_CASES
    if left > 0:
        title = escape_property(f"chipscale gate: {result.headline}")
        lines.append(
            f"::notice title={title}::{escape_data(f'and {left} more; the step summary has them')}"
        )
    return tuple(lines)


def _line(result: GateResult, case: GateCase) -> str:
    level = LEVEL[case.state]
    if level == "error" and (result.is_advisory or case.exemption is not None):
        level = "warning"
    title = escape_property(f"{state_text(case)} {case.case_id} on {result.chip}"[:MAX_MESSAGE])
    numbers = (times_text(case), change_text(case))
    head = ", ".join(text for text in numbers if text)
    parts = [
        head,
        case.reason,
        f"Tolerance {tolerance_text(case)}" if case.change is not None else "",
    ]
    message = "\n".join(text for text in parts if text)[:MAX_MESSAGE]
    if case.reproduce:
        message += f"\n{case.reproduce}"[:MAX_MESSAGE]
    return f"::{level} title={title}::{escape_data(message)}"
