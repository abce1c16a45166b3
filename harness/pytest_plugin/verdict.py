"""How a test's time stands to its baseline, and when that is a failure; pure.

A baseline is of another session, so a difference is looked for twice: what this process finds slow
is measured again in fresh ones, and the estimate over those alone has to pass the same tolerance.
The statistics are those of the gate (`harness/gate/`, docs/gate.md).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.gate.estimate import Shift, log_ratios, shift_of
from harness.gate.floors import Floors
from harness.gate.policy import GatePolicy
from harness.gate.tolerance import CaseTolerance, tolerance_of
from harness.gate_result import State
from harness.units import duration, percent, signed_percent


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a test that has a time."""

    fullname: str
    state: State
    reason: str
    """A sentence."""
    change: float | None = None
    """Logarithm of head over base; None where they are not held against each other."""
    tolerance: float | None = None

    @property
    def is_failure(self) -> bool:
        """It fails the test."""
        return self.state is State.REGRESSED

    @property
    def line(self) -> str:
        """For the summary at the end of a session."""
        return f"{self.state} {self.fullname}: {self.reason}"


def asked_tolerance(
    name: str,
    base_s: float,
    asked: float,
    asked_by: str,
    timer_resolution_s: float,
    floors: Floors | None = None,
) -> CaseTolerance:
    """What the user asked for, unless the timer or the machine cannot tell so little.

    Args:
        name: of the case or the test.
        base_s: the baseline's median.
        asked: as 0.05 for 5 %.
        asked_by: the option or the mark, for people.
        timer_resolution_s: of the timer.
        floors: how far this machine differs from itself, where the gate was calibrated on it.
    """
    policy = GatePolicy(tolerance=asked, short_tolerance=asked)
    found = tolerance_of(name, base_s, timer_resolution_s, policy, floors)
    return replace(found, basis=asked_by) if found.value == asked else found


def change_of(base_s: float, head_s: Sequence[float]) -> Shift:
    """The Hodges-Lehmann estimate of head over base, and its interval.

    Args:
        base_s: the baseline's median.
        head_s: medians of one or more processes.
    """
    return shift_of(log_ratios([base_s] * len(head_s), head_s))


def side_of(change: Shift, tolerance: CaseTolerance) -> int:
    """1 for slower and -1 for faster beyond the tolerance; 0 for neither."""
    bound = math.log1p(tolerance.value)
    return (change.value > bound) - (change.value < -bound)


def change_text(base_s: float, change: Shift) -> str:
    """`1.2 ms -> 1.32 ms, +10 %`, with the interval where there is one."""
    head_s = base_s * math.exp(change.value)
    text = f"{duration(base_s)} -> {duration(head_s)}, {signed_percent(change.change.value)}"
    if change.low < change.high:
        text += f" [{signed_percent(change.change.low)}, {signed_percent(change.change.high)}]"
    return text


def tolerance_text(tolerance: CaseTolerance) -> str:
    """`5 % (--chip-tolerance)`."""
    return f"{percent(tolerance.value)} ({tolerance.basis})"
