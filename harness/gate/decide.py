"""The verdict: rounds in, a state for every case out.

`screen` says which cases have to be measured again with fresh processes, `judge` what they all
come to. A change counts only if the fresh rounds, by themselves, show it again: on the same side,
and beyond the same tolerance. That second look is what keeps a suite of hundreds of cases from
crying wolf, where any single bound would be passed by one of them by chance.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date

from harness.gate.common_mode import common_shift
from harness.gate.exemptions import exemption_of
from harness.gate.floors import Floors
from harness.gate.policy import GatePolicy
from harness.gate.rounds import Round
from harness.gate.seen import Seen, seen_in, side_of
from harness.gate.verdict import Judgement
from harness.gate_result import CommonShift, Exemption, GateCase, State


def screen(
    rounds: Sequence[Round], policy: GatePolicy, floors: Floors | None = None
) -> tuple[str, ...]:
    """The cases to be measured again in as many fresh rounds, in their order.

    Those beyond their tolerance; those that could not be judged for a reason that may pass; and,
    where the suite moved together, all that have a time, since a shift of a suite is confirmed or
    refuted by the suite.
    """
    seen = seen_in(rounds, policy, floors)
    has_shifted = _suite_shift(seen, policy) is not None
    return tuple(
        case_id
        for case_id, one in seen.items()
        if (one.can_fail and (has_shifted or side_of(one, one, 0.0) != 0))
        or (one.finding is not None and one.finding.is_passing)
    )


def judge(
    screen_rounds: Sequence[Round],
    confirm_rounds: Sequence[Round],
    policy: GatePolicy,
    floors: Floors | None = None,
    exemptions: Sequence[Exemption] = (),
    *,
    today: date,
    is_interleaved: bool = True,
) -> tuple[tuple[GateCase, ...], CommonShift | None]:
    """Every case with its state, worst first, and the shift of the suite where there is one.

    Args:
        screen_rounds: the rounds that every case has.
        confirm_rounds: the fresh ones of what `screen` named; empty where it named nothing.
        policy: how much difference is none.
        floors: the A/A floors of this machine.
        exemptions: all there are; those that apply are named in their cases.
        today: the day that their expiry is asked of.
        is_interleaved: base and head took turns. Where they did not, a case has to differ from
            the median of the suite as well, since any two sessions differ by something.
    """
    first = seen_in(screen_rounds, policy, floors)
    tolerances = {
        case_id: one.tolerance for case_id, one in first.items() if one.tolerance is not None
    }
    fresh = seen_in(confirm_rounds, policy, floors, tolerances)
    shift = _suite_shift(first, policy)
    again = _suite_shift(fresh, policy)
    if shift is not None:
        is_same = again is not None and again.shift * shift.shift > 0
        shift = replace(shift, is_confirmed=is_same and is_interleaved)
    centre = _centre(first, policy, shift, is_interleaved)
    # Where fresh rounds are of the flagged cases alone, their median is that of the flagged.
    is_whole = len(_estimates(fresh)) >= len(_estimates(first))
    fresh_centre = _centre(fresh, policy, again, is_interleaved) if is_whole else centre
    if shift is not None and shift.is_confirmed:
        centre = fresh_centre = 0.0
    judged = []
    for case_id, one in first.items():
        judgement = Judgement(
            first=one, fresh=fresh.get(case_id), centre=centre, fresh_centre=fresh_centre
        )
        judged.append(with_exemption(judgement.gate_case(), exemptions, today))
    return tuple(sorted(judged, key=lambda case: case.place)), shift


def _estimates(seen: Mapping[str, Seen]) -> list[float]:
    return [one.shift.value for one in seen.values() if one.can_fail and one.shift is not None]


def _suite_shift(seen: Mapping[str, Seen], policy: GatePolicy) -> CommonShift | None:
    tolerances = [
        one.tolerance.value for one in seen.values() if one.can_fail and one.tolerance is not None
    ]
    return common_shift(_estimates(seen), tolerances, policy)


def _centre(
    seen: Mapping[str, Seen],
    policy: GatePolicy,
    shift: CommonShift | None,
    is_interleaved: bool,
) -> float:
    """What the cases are held against beside 0: the suite's median where that has a meaning."""
    estimates = _estimates(seen)
    if shift is not None or (not is_interleaved and len(estimates) >= policy.common_min_cases):
        return statistics.median(estimates)
    return 0.0


def with_exemption(case: GateCase, exemptions: Sequence[Exemption], today: date) -> GateCase:
    """The case, with the exemption that lets its regression pass, or what an expired one was."""
    if case.state is not State.REGRESSED or case.change is None:
        return case
    found, told = exemption_of(case.case_id, case.change.value, exemptions, today)
    if found is not None:
        reason = f"{case.reason} Accepted until {found.until}: {found.reason}"
        return replace(case, exemption=found, reason=reason)
    return replace(case, reason=f"{case.reason} {told}".rstrip())
