"""How a test's time stands to its baseline, and when that is a failure; pure.

A baseline is of another day, so a difference is looked for twice: what this process finds slow is
measured again in fresh ones, and the estimate over those alone has to pass the same tolerance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.gate.policy import GatePolicy
from harness.gate_result import State
from harness.units import duration, significant


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """The largest change that is none."""

    value: float
    """As 0.05 for 5 %."""
    basis: str
    """What set it, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a test that has a time."""

    fullname: str
    state: State
    reason: str
    """A sentence."""
    base_s: float | None = None
    head_s: float | None = None

    @property
    def is_failure(self) -> bool:
        """It fails the test."""
        return self.state is State.REGRESSED

    @property
    def line(self) -> str:
        """For the summary at the end of a session."""
        return f"{self.state} {self.fullname}: {self.reason}"


def tolerance_of(
    base_s: float, asked: float, basis: str, timer_resolution_s: float, policy: GatePolicy
) -> Tolerance:
    """What the user asked for, unless the timer cannot tell so little of so short a time."""
    floors = (
        Tolerance(value=asked, basis=basis),
        Tolerance(
            value=policy.absolute_floor_s / base_s if base_s else math.inf,
            basis=f"{duration(policy.absolute_floor_s)} of {duration(base_s)}",
        ),
        Tolerance(
            value=policy.timer_steps * timer_resolution_s / base_s if base_s else math.inf,
            basis=f"{policy.timer_steps:g} steps of the timer",
        ),
    )
    return max(floors, key=lambda one: one.value)


def is_slower(base_s: float, head_s: float, tolerance: Tolerance) -> bool:
    """Slower by more than the tolerance."""
    return head_s > base_s * (1 + tolerance.value)


def is_faster(base_s: float, head_s: float, tolerance: Tolerance) -> bool:
    """Faster by more than the tolerance."""
    return head_s * (1 + tolerance.value) < base_s


def hodges_lehmann_s(medians_s: Sequence[float]) -> float:
    """One time for those of several processes: on the log scale, the median of the means of pairs.

    Source: Hodges and Lehmann 1963, Annals of Mathematical Statistics 34.
    """
    logs = np.log(np.asarray(medians_s, dtype=np.float64))
    first, second = np.triu_indices(logs.size)
    return float(np.exp(np.median((logs[first] + logs[second]) / 2)))


def change_text(base_s: float, head_s: float) -> str:
    """`1.2 ms -> 1.32 ms, +10 %`."""
    percent = 100 * (head_s / base_s - 1)
    sign = "+" if percent >= 0 else "-"
    return f"{duration(base_s)} -> {duration(head_s)}, {sign}{significant(abs(percent), 2)} %"


def tolerance_text(tolerance: Tolerance) -> str:
    """`5 % (--chip-tolerance)`."""
    return f"{significant(100 * tolerance.value, 2)} % ({tolerance.basis})"
