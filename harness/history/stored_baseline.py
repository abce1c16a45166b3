"""A new run against the stored ones: a state for each case, for advice.

Base and head of two sessions differ though nothing has changed: with the same code, a third of all
suites raise a false alarm when a stored baseline is compared naively. So each case is held against
the spread of the runs before it, after what all cases of the run have in common is taken off, and
the result advises unless somebody asks for more.

Source: modified z-score, Iglewicz and Hoaglin 1993, How to Detect and Handle Outliers.
"""

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.gate_result import CommonShift, GateCase, State
from harness.projection import Interval
from harness.stats import NORMAL_CONSISTENCY
from harness.trend import HistoryRun
from harness.units import percent, signed_percent

MIN_RUNS = 5
"""With fewer stored runs their spread is a guess."""
MAX_RUNS = 20
"""The newest; a machine of last year is another one."""
MAX_Z = 3.5
"""Iglewicz and Hoaglin's bound for an outlier."""
MIN_DEVIATION = 0.003
"""Runs that agree better did so by luck: medians of one session differ by 0.2 to 0.8 %."""
MIN_TOLERANCE = 0.05
"""Sessions of one machine differ by up to 4 %, so a stored baseline cannot judge less."""
MIN_COMMON_CASES = 5
"""With fewer cases what they have in common cannot be told from what one of them did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgainstHistory:
    """The cases, judged, and what was taken off all of them."""

    cases: tuple[GateCase, ...]
    common: float
    """Median change of all cases, as 0.04 for 4 % slower; 0 with too few of them."""
    shift: CommonShift | None
    """Where that is more than the tolerance: more than days of one machine differ by."""


_CASE_ID = re.compile(r"([^.]+)\.([^.]+)\.([^[]*)\[([^]]*)\]/(.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    """One case in the stored runs and in the new ones."""

    case_id: str
    before_s: tuple[float, ...]
    after_s: tuple[float, ...]
    is_equal_work: bool
    """As far as both protocols are known."""
    fault: str
    """Why the new code's times are not to be judged; empty where they are."""

    @property
    def is_comparable(self) -> bool:
        if self.fault:
            return False
        return len(self.before_s) >= MIN_RUNS and bool(self.after_s) and self.is_equal_work

    @property
    def shift(self) -> float:
        """Log of the new median over that of the stored runs."""
        return math.log(statistics.median(self.after_s) / statistics.median(self.before_s))

    @property
    def deviation(self) -> float:
        """Robust standard deviation of the logarithms of the stored runs."""
        logs = np.log(np.asarray(self.before_s))
        spread = float(NORMAL_CONSISTENCY * np.median(np.abs(logs - np.median(logs))))
        return max(spread, MIN_DEVIATION)


def judge_against(
    history: Sequence[HistoryRun],
    heads: Sequence[HistoryRun],
    tolerance: float,
    faults: Mapping[str, str] | None = None,
) -> AgainstHistory:
    """Hold new runs of one code against stored runs of another.

    Args:
        history: Stored runs of this machine, oldest first; the newest MAX_RUNS count.
        heads: One or more processes of the new code; the median of them counts.
        tolerance: A change that is none; less than MIN_TOLERANCE counts as that.
        faults: Cases of the new code that cannot be judged, whatever their times, and why.
    """
    wrong = faults or {}
    series = _series(history[-MAX_RUNS:], heads, wrong)
    shifts = [one.shift for one in series if one.is_comparable]
    common = statistics.median(shifts) if len(shifts) >= MIN_COMMON_CASES else 0.0
    allowed = max(tolerance, MIN_TOLERANCE)
    cases = (_judged(one, common, allowed) for one in series)
    shift = None
    if abs(common) > math.log1p(allowed):
        bound = math.log1p(allowed) / 2
        same = sum(one * common > 0 and abs(one) > bound for one in shifts)
        share = same / len(shifts)
        shift = CommonShift(share=share, shift=math.expm1(common), is_confirmed=False)
    return AgainstHistory(
        cases=tuple(sorted(cases, key=lambda case: case.place)),
        common=math.expm1(common),
        shift=shift,
    )


def _series(
    stored: Sequence[HistoryRun], heads: Sequence[HistoryRun], faults: Mapping[str, str]
) -> tuple[_Series, ...]:
    known, new = _protocols(stored), _protocols(heads)
    before, after = _times_s(stored, known), _times_s(heads, new)
    return tuple(
        _Series(
            case_id=case_id,
            before_s=tuple(before.get(case_id, ())),
            after_s=tuple(after.get(case_id, ())),
            is_equal_work=known.get(case_id) == new.get(case_id)
            or case_id not in known
            or case_id not in new,
            fault=faults.get(case_id, ""),
        )
        for case_id in dict.fromkeys((*after, *before, *faults))
    )


def _times_s(runs: Sequence[HistoryRun], newest: Mapping[str, str]) -> dict[str, list[float]]:
    """Medians of each case by its newest protocol: times of an earlier one are of other work."""
    times: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        protocols = dict(run.protocols)
        for case_id, median_s in run.medians_s:
            if protocols.get(case_id, newest.get(case_id)) == newest.get(case_id):
                times[case_id].append(median_s)
    return times


def _protocols(runs: Sequence[HistoryRun]) -> dict[str, str]:
    """The newest known protocol hash of each case."""
    return {case_id: text for run in runs for case_id, text in run.protocols}


def _judged(one: _Series, common: float, allowed: float) -> GateCase:
    found = _CASE_ID.fullmatch(one.case_id)
    op, dtype, mode, shape, impl = found.groups() if found else (one.case_id, "", "", "", "")
    state, reason = _state(one, common, allowed)
    change = None
    if one.is_comparable:
        own, reach = one.shift - common, MAX_Z * one.deviation
        change = Interval(
            value=math.expm1(own), low=math.expm1(own - reach), high=math.expm1(own + reach)
        )
    return GateCase(
        case_id=one.case_id,
        op=op,
        impl=impl,
        dtype=dtype,
        mode=mode.replace(".", " "),
        shape=shape.replace(",", " "),
        state=state,
        reason=reason,
        tolerance=allowed,
        tolerance_basis=f"stored runs, at least {percent(MIN_TOLERANCE)}",
        change=change,
        base_s=statistics.median(one.before_s) if one.before_s else None,
        head_s=statistics.median(one.after_s) if one.after_s else None,
    )


def _state(one: _Series, common: float, allowed: float) -> tuple[State, str]:
    """The state, and why in a sentence."""
    if one.fault:
        return State.INVALID, one.fault
    if not one.after_s:
        return State.MISSING, "Stored runs have a time for it, and the new one has none."
    if not one.before_s:
        return State.NEW, "No stored run has a time for it."
    if not one.is_equal_work:
        return State.INVALID, "Its protocol is not that of the stored runs, so it is other work."
    if not one.is_comparable:
        return State.INCONCLUSIVE, (
            f"{len(one.before_s)} stored runs have it; with fewer than {MIN_RUNS} their spread "
            "is not known."
        )
    own, reach, bound = one.shift - common, MAX_Z * one.deviation, math.log1p(allowed)
    reason = (
        f"{abs(own) / one.deviation:.1f} deviations from {len(one.before_s)} stored runs "
        f"({MAX_Z:g} are usual), once the {signed_percent(math.expm1(common))} of all cases "
        "are taken off."
    )
    if abs(own) > max(reach, bound):
        return (State.REGRESSED if own > 0 else State.IMPROVED), reason
    # As for rounds in turns: across the tolerance, and wider than twice of it.
    if abs(own) + reach > bound and reach > bound:
        return State.INCONCLUSIVE, reason
    return State.UNCHANGED, reason
