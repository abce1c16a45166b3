"""Whether a whole suite moved together, as by another clock, driver or neighbour."""

import math
import statistics
from collections.abc import Sequence

from harness.gate.policy import GatePolicy
from harness.gate_result import CommonShift

HALF = 0.5
"""Of its tolerance: a case counts as moved from there on, so that a shift shows before it fails."""


def common_shift(
    estimates: Sequence[float], tolerances: Sequence[float], policy: GatePolicy
) -> CommonShift | None:
    """The shift of the suite, or None where its cases do not move together or are too few.

    Args:
        estimates: logarithm of head over base of each case.
        tolerances: of each case, as 0.03 for 3 %.
        policy: how many of how many cases make a suite's shift.
    """
    if len(estimates) < policy.common_min_cases:
        return None
    bounds = [HALF * math.log1p(tolerance) for tolerance in tolerances]
    pairs = list(zip(estimates, bounds, strict=True))
    slower = sum(estimate > bound for estimate, bound in pairs)
    faster = sum(estimate < -bound for estimate, bound in pairs)
    share = max(slower, faster) / len(estimates)
    if share <= policy.common_share:
        return None
    return CommonShift(
        share=share, shift=math.expm1(statistics.median(estimates)), is_confirmed=False
    )
