"""Seen: one case in some rounds, with what its times say or why they say nothing."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.gate.estimate import Shift, log_ratios, shift_of
from harness.gate.floors import Floors
from harness.gate.pairs import CasePairs, pairs_by_case
from harness.gate.policy import GatePolicy
from harness.gate.rounds import Round
from harness.gate.tolerance import CaseTolerance, tolerance_of
from harness.gate.validity import Finding, coarse_timer, finding_of, is_left_out
from harness.gate_result import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One case in some rounds."""

    pairs: CasePairs
    tolerance: CaseTolerance | None
    """None where the base has no time to hold one against."""
    finding: Finding | None
    shift: Shift | None
    """None with a finding."""

    @property
    def can_fail(self) -> bool:
        """Its times may be judged, on a machine that can judge them."""
        return self.shift is not None and self.tolerance is not None and not self.tolerance.noise

    def num_on(self, side: int) -> int:
        """Rounds whose head is slower than its base (side 1), or faster (side -1)."""
        logs = log_ratios(self.pairs.base_s, self.pairs.head_s)
        return sum(bool(side * one > 0) for one in logs)

    @property
    def stage(self) -> Stage | None:
        """As the result tells it."""
        if self.shift is None:
            return None
        return Stage(
            base_s=self.pairs.base_s,
            head_s=self.pairs.head_s,
            change=self.shift.change,
            confidence=self.shift.confidence,
        )


def seen_in(
    rounds: Sequence[Round],
    policy: GatePolicy,
    floors: Floors | None,
    tolerances: Mapping[str, CaseTolerance] | None = None,
) -> dict[str, Seen]:
    """Every case of the rounds; fresh rounds are held against the tolerances of the first."""
    return {
        case_id: _seen(pairs, policy, floors, (tolerances or {}).get(case_id))
        for case_id, pairs in pairs_by_case(rounds).items()
        if not is_left_out(pairs)
    }


def _seen(
    pairs: CasePairs,
    policy: GatePolicy,
    floors: Floors | None,
    tolerance: CaseTolerance | None,
) -> Seen:
    finding = finding_of(pairs)
    if not pairs.is_timed:
        return Seen(pairs=pairs, tolerance=tolerance, finding=finding, shift=None)
    base_s, head_s = pairs.base_s, pairs.head_s
    median_s = statistics.median(base_s)
    step_s = max(
        record.measurement.timer_resolution_s
        for record in (*pairs.base, *pairs.head)
        if record is not None and record.measurement is not None
    )
    if min(*base_s, *head_s) <= 0:
        finding = finding or coarse_timer(0.0, step_s)
        return Seen(pairs=pairs, tolerance=tolerance, finding=finding, shift=None)
    if tolerance is None:
        tolerance = tolerance_of(pairs.case.id, median_s, step_s, policy, floors)
    finding = finding or coarse_timer(median_s, step_s)
    shift = shift_of(log_ratios(base_s, head_s)) if finding is None else None
    return Seen(pairs=pairs, tolerance=tolerance, finding=finding, shift=shift)


def side_of(one: Seen, limits: Seen, centre: float) -> int:
    """1 for slower and -1 for faster beyond the tolerance of `limits`; 0 for neither."""
    assert one.shift is not None, "asked of cases with an estimate"
    assert limits.tolerance is not None, "a case with an estimate has a tolerance"
    bound = math.log1p(limits.tolerance.value)
    estimate = one.shift.value
    if estimate > bound and estimate - centre > bound:
        return 1
    if estimate < -bound and estimate - centre < -bound:
        return -1
    return 0
