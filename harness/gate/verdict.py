"""The state of one case, from its first rounds and the fresh ones."""

import math
import statistics
from dataclasses import dataclass

from harness.gate.estimate import Shift, log_ratios, shift_of
from harness.gate.pairs import CasePairs, clock_hz
from harness.gate.seen import Seen, side_of
from harness.gate.validity import Finding
from harness.gate.words import with_interval
from harness.gate_result import GateCase, State
from harness.units import percent, signed_percent

MAX_DISSENTING = 1
"""Fresh rounds that may be on the other side of a change. One wild process must not hide a
regression; of two, the machine changed its speed while it was measured, as a neighbour makes it do:
with rounds of -2, 0, +13, +27 and +17 % unchanged code was once called slower on a loaded host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One case on its way to a state."""

    first: Seen
    fresh: Seen | None
    """None where it was not measured again."""
    centre: float
    """Where not 0, a change has to be one against this as well: the suite's median logarithm."""
    fresh_centre: float
    """The same in the fresh rounds."""

    def gate_case(self) -> GateCase:
        """The case with its state."""
        state, reason = self._state()
        problem = self.first.pairs.case.problem
        tolerance = self.first.tolerance or (self.fresh.tolerance if self.fresh else None)
        pooled, pairs = self._pooled()
        return GateCase(
            case_id=self.first.pairs.case.id,
            op=problem.op,
            impl=self.first.pairs.case.impl,
            dtype=problem.dtype,
            mode=f"{problem.mode} {problem.variant}".rstrip(),
            shape=problem.shape,
            state=state,
            reason=reason,
            tolerance=tolerance.value if tolerance else 0.0,
            tolerance_basis=tolerance.basis if tolerance else "",
            screen=self.first.stage,
            confirm=self.fresh.stage if self.fresh is not None else None,
            change=pooled.change if pooled is not None else None,
            confidence=pooled.confidence if pooled is not None else None,
            base_s=None if pairs is None else statistics.median(pairs.base_s),
            head_s=None if pairs is None else statistics.median(pairs.head_s),
            base_clock_hz=clock_hz(self.first.pairs.base),
            head_clock_hz=clock_hz(self.first.pairs.head),
        )

    def _pooled(self) -> tuple[Shift | None, CasePairs | None]:
        """The shift over all rounds that could be judged, and these."""
        seen = [one for one in (self.first, self.fresh) if one is not None and one.shift]
        if not seen:
            return None, None
        pairs = seen[0].pairs if len(seen) == 1 else seen[0].pairs.joined(seen[1].pairs)
        return shift_of(log_ratios(pairs.base_s, pairs.head_s)), pairs

    def _state(self) -> tuple[State, str]:
        first, fresh = self.first, self.fresh
        if first.finding is not None:
            return self._retried(first.finding)
        assert first.tolerance is not None, "a case without a finding has a tolerance"
        assert first.shift is not None, "and an estimate"
        seen = with_interval(first.shift.change)
        if first.tolerance.noise:
            return State.NOISY, f"{_sentence(first.tolerance.noise)} Seen: {seen}."
        side = side_of(first, first, self.centre)
        if side == 0:
            return self._quiet("")
        if fresh is None:
            return (
                State.INCONCLUSIVE,
                f"{seen}, beyond {percent(first.tolerance.value)}, and not measured again.",
            )
        if fresh.finding is not None:
            # Whatever the fresh rounds lack, the first ones had it.
            return (
                State.INVALID,
                f"{seen}, and the fresh rounds cannot be judged. {fresh.finding.reason}",
            )
        return self._confirmed(side, fresh)

    def _confirmed(self, side: int, fresh: Seen) -> tuple[State, str]:
        """The state of a case that the first rounds flagged."""
        first = self.first
        assert first.tolerance is not None, "a flagged case has a tolerance"
        assert first.shift is not None, "a flagged case has an estimate"
        assert fresh.shift is not None, "rounds without a finding have an estimate"
        once, again = (
            signed_percent(first.shift.change.value),
            signed_percent(fresh.shift.change.value),
        )
        within = percent(first.tolerance.value)
        if side_of(fresh, first, self.fresh_centre) != side:
            return self._quiet(f"{once} in the first rounds and {again} in the fresh ones: ")
        word = "Slower" if side > 0 else "Faster"
        agreeing, count = fresh.num_on(side), len(fresh.pairs.base)
        if agreeing < count - MAX_DISSENTING:
            return (
                State.INCONCLUSIVE,
                f"{once} in the first rounds and {again} in the fresh ones, of which only "
                f"{agreeing} of {count} are {word.lower()}: the machine moved.",
            )
        state = State.REGRESSED if side > 0 else State.IMPROVED
        return state, f"{word} by more than {within}: {once}, and {again} in fresh rounds."

    def _quiet(self, before: str) -> tuple[State, str]:
        """No change that the fresh rounds bear out: unchanged, or not to be told."""
        pooled, _ = self._pooled()
        assert pooled is not None, "asked of cases with an estimate"
        tolerance = self.first.tolerance or (self.fresh.tolerance if self.fresh else None)
        assert tolerance is not None, "a case with an estimate has a tolerance"
        bound = math.log1p(tolerance.value)
        is_across = pooled.high > bound or pooled.low < -bound
        words = f"{before}{with_interval(pooled.change)}"
        within = percent(tolerance.value)
        if abs(pooled.value) > bound and self.centre:
            return (
                State.INCONCLUSIVE,
                f"{words} over all rounds, beyond {within}, and the suite moved by "
                f"{signed_percent(math.expm1(self.centre))}: it does not stand out of that.",
            )
        if abs(pooled.value) > bound:
            # One look was beyond by more than the other was within.
            return (
                State.INCONCLUSIVE,
                f"{words} over all rounds, beyond {within}, which the fresh ones do not confirm.",
            )
        if is_across and pooled.high - pooled.low > 2 * bound:
            return (
                State.INCONCLUSIVE,
                f"{words}, which holds both a change by more than {within} and none.",
            )
        return State.UNCHANGED, f"{words}, and {within} are no change."

    def _retried(self, finding: Finding) -> tuple[State, str]:
        """The state of a case whose first rounds could not be judged."""
        fresh = self.fresh
        if not finding.is_passing or fresh is None:
            return finding.state, finding.reason
        if fresh.finding is not None:
            return (
                State.INVALID,
                f"{fresh.finding.reason} Nor could the first rounds be judged. {finding.reason}",
            )
        assert fresh.tolerance is not None, "rounds without a finding have a tolerance"
        assert fresh.shift is not None, "rounds without a finding have an estimate"
        before = f"The first rounds could not be judged ({finding.reason.rstrip('.')}). "
        if fresh.tolerance.noise:
            return State.NOISY, f"{before}{_sentence(fresh.tolerance.noise)}"
        if side_of(fresh, fresh, self.fresh_centre) != 0:
            # One look is none: it must neither fail as a regression nor pass as unchanged.
            return (
                State.INVALID,
                f"{before}Fresh ones show {with_interval(fresh.shift.change)}, which nothing "
                "confirms. Gate it again.",
            )
        return self._quiet(before)


def _sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}."
