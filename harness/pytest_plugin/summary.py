"""What is told at the end of a session: the chip, what to know, and how tests stand."""

from collections import Counter
from collections.abc import Sequence, Set
from pathlib import Path

from harness.gate.common_mode import common_shift
from harness.gate.policy import GatePolicy
from harness.gate_result import State
from harness.pytest_plugin.baseline import Baseline
from harness.pytest_plugin.chip_session import ChipSession
from harness.pytest_plugin.verdict import Verdict
from harness.units import percent, signed_percent

MAX_LINES = 20
"""Of one state; the count in the first line is of all."""


def title_and_lines(
    session: ChipSession, collected: Set[str], root: Path, compared_chips: Sequence[str]
) -> tuple[str, tuple[str, ...]]:
    """The title of a section, and its lines; none where nothing is to tell.

    Args:
        session: after its tests.
        collected: names of all tests, those that were deselected among them.
        root: what the names of tests are relative to.
        compared_chips: those of the files that pytest-benchmark shows beside this session.
    """
    if session.opened is None or session.options.fresh_file is not None:
        return "chipscale", ()
    chip = session.opened.environment.device.name
    lines = list(session.notices)
    for other in dict.fromkeys(compared_chips):
        if other != chip:
            lines.append(f"--benchmark-compare: one of the files is of another chip, {other}.")
    if session.baseline is not None:
        lines += _baseline_lines(session, session.baseline, collected, root)
    return f"chipscale: {chip}", tuple(lines)


def _baseline_lines(
    session: ChipSession, baseline: Baseline, collected: Set[str], root: Path
) -> list[str]:
    verdicts = [*session.verdicts, *_missing(baseline, collected, root)]
    counts = Counter(verdict.state for verdict in verdicts)
    told = ", ".join(
        f"{counts[state]} {'not judged' if state is State.INVALID else state.lower()}"
        for state in State
        if counts[state]
    )
    commit = f" of commit {baseline.commit[:10]}" if baseline.commit else ""
    lines = [f"Against {baseline.label}{commit}: {told or 'no test was timed'}."]
    moved = [one for one in verdicts if one.change is not None and one.tolerance is not None]
    shift = common_shift(
        [one.change or 0.0 for one in moved], [one.tolerance or 0.0 for one in moved], GatePolicy()
    )
    if shift is not None:
        lines.append(
            f"{percent(shift.share)} of the tests moved the same way, by "
            f"{signed_percent(shift.shift)} in the median: clocks, a driver or other work may have "
            "done it. `chipscale gate` measures base and head in turns and tells the two apart."
        )
    for state in State:
        if state is State.UNCHANGED:
            continue
        of_state = [verdict for verdict in verdicts if verdict.state is state]
        lines += [verdict.line for verdict in of_state[:MAX_LINES]]
        if len(of_state) > MAX_LINES:
            lines.append(f"... and {len(of_state) - MAX_LINES} more {state.lower()}")
    return lines


def _missing(baseline: Baseline, collected: Set[str], root: Path) -> list[Verdict]:
    """Tests that the baseline has and this session's files have not.

    A file that was not collected says nothing of its tests, unless it is gone.
    """
    files = {name.partition("::")[0] for name in collected}
    names = [one.fullname for one in baseline.entries if one.fullname and one.is_ours]
    return [
        Verdict(
            fullname=name,
            state=State.MISSING,
            reason=f"it is in {baseline.label}, and there is no such test any more",
        )
        for name in names
        if name not in collected
        and (name.partition("::")[0] in files or not (root / name.partition("::")[0]).exists())
    ]
