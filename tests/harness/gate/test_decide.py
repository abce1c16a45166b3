from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.gate.decide import judge, screen
from harness.gate.floors import CaseFloor, Floors
from harness.gate.policy import GatePolicy
from harness.gate.rounds import Round
from harness.gate_result import CommonShift, Exemption, GateCase, State
from harness.record import Status
from tests.harness.gate.rounds_of import (
    COPY,
    case_named,
    failed,
    record,
    rounds,
    slower,
    suite,
    with_base,
    with_head,
)

POLICY = GatePolicy()
TODAY = date(2026, 6, 15)


def judged(
    first: Sequence[Round],
    fresh: Sequence[Round] = (),
    policy: GatePolicy = POLICY,
    floors: Floors | None = None,
    exemptions: Sequence[Exemption] = (),
    is_interleaved: bool = True,
) -> tuple[tuple[GateCase, ...], CommonShift | None]:
    return judge(
        first,
        fresh,
        policy,
        floors,
        exemptions,
        today=TODAY,
        is_interleaved=is_interleaved,
    )


def only(first: Sequence[Round], fresh: Sequence[Round] = (), **options: object) -> GateCase:
    (case,), _ = judged(first, fresh, **options)  # type: ignore[arg-type]
    return case


def noisy_floors(deviation: float) -> Floors:
    return Floors(
        fingerprint="here",
        chip="x",
        num_rounds=5,
        cases=(CaseFloor(case_id=COPY, estimates=(deviation / 1.4826,) * 6),),
    )


def exemption(until: str = "2026-12-31", limit: float = 0.10) -> Exemption:
    return Exemption(case_id="copy.*", limit=limit, reason="The new driver.", until=until)


def test_a_slow_down_that_fresh_rounds_show_again_has_regressed() -> None:
    first = slower(0.06)
    assert screen(first, POLICY) == (COPY,)
    case = only(first, slower(0.05))
    assert case.state is State.REGRESSED
    assert case.fails
    assert case.reason == "Slower by more than 3 %: +6.0 %, and +5.0 % in fresh rounds."
    assert case.screen is not None
    assert case.confirm is not None
    assert case.screen.change.value == pytest.approx(0.06, abs=1e-3)
    assert case.screen.confidence == pytest.approx(0.9375)
    assert case.confidence == pytest.approx(1 - 50 / 1024)


def test_a_speed_up_that_fresh_rounds_show_again_has_improved() -> None:
    case = only(slower(-0.06), slower(-0.05))
    assert case.state is State.IMPROVED
    assert not case.fails


def test_a_slow_down_that_fresh_rounds_do_not_show_is_unchanged_and_says_both() -> None:
    case = only(slower(0.04), slower(0.001))
    assert case.state is State.UNCHANGED
    assert case.reason.startswith("+4.0 % in the first rounds and +0.1 % in the fresh ones: ")


def test_a_slow_down_that_turns_into_a_speed_up_is_no_change_that_counts() -> None:
    case = only(slower(0.06), slower(-0.06))
    assert case.state not in (State.REGRESSED, State.IMPROVED)


def test_fresh_rounds_count_by_themselves_and_not_in_a_heap_with_the_first() -> None:
    # All ten together are at 6 %, twice the tolerance.
    case = only(slower(0.10), slower(0.02))
    assert case.change is not None
    assert case.change.value > 0.03
    assert case.state is State.INCONCLUSIVE


def test_what_only_the_first_look_was_beyond_is_not_called_unchanged_beyond_the_tolerance() -> None:
    case = only(slower(0.05), slower(0.025))
    assert case.state is State.INCONCLUSIVE
    assert case.reason.endswith("over all rounds, beyond 3 %, which the fresh ones do not confirm.")


def dissenting(*changes: float) -> list[Round]:
    base_s = [1e-3] * len(changes)
    return rounds(base_s, [1e-3 * (1 + change) for change in changes])


def test_a_burst_in_most_of_the_fresh_rounds_is_the_machine_and_no_regression() -> None:
    case = only(slower(0.2), dissenting(-0.02, -0.001, 0.13, 0.27, 0.17))
    assert case.state is State.INCONCLUSIVE
    assert "only 3 of 5 are slower: the machine moved" in case.reason


def test_one_wild_process_does_not_hide_a_regression() -> None:
    case = only(slower(0.2), dissenting(0.2, 0.19, -0.3, 0.21, 0.2))
    assert case.state is State.REGRESSED


def test_a_small_change_is_unchanged_and_is_not_measured_again() -> None:
    first = slower(0.01)
    assert screen(first, POLICY) == ()
    case = only(first)
    assert case.state is State.UNCHANGED
    assert case.reason.endswith("and 3 % are no change.")
    assert (case.base_s, case.tolerance, case.tolerance_basis) == (1e-3, 0.03, "the policy")


def test_a_wide_interval_across_the_tolerance_is_inconclusive() -> None:
    case = only(slower(0.0, spread=0.03))
    assert case.state is State.INCONCLUSIVE
    assert "holds both a change by more than 3 % and none" in case.reason


def test_a_flagged_case_without_fresh_rounds_is_inconclusive() -> None:
    assert only(slower(0.06)).state is State.INCONCLUSIVE


def test_a_case_of_the_head_alone_is_new() -> None:
    first = [replace(one, base=()) for one in slower(0)]
    case = only(first)
    assert (case.state, case.reason) == (State.NEW, "The base does not have it.")


def test_a_case_of_the_base_alone_is_missing() -> None:
    first = [replace(one, head=()) for one in slower(0)]
    assert only(first).state is State.MISSING
    first = [replace(one, head=(failed(Status.UNSUPPORTED, "No tensor cores."),)) for one in first]
    case = only(first)
    assert (case.state, case.reason) == (
        State.MISSING,
        "The head cannot run it here: No tensor cores.",
    )


def test_a_case_that_neither_side_can_run_is_left_out() -> None:
    nothing = failed(Status.UNSUPPORTED)
    first = [replace(one, base=(nothing,), head=(nothing,)) for one in slower(0)]
    assert judged(first) == ((), None)
    assert screen(first, POLICY) == ()


def test_a_base_that_was_wrong_does_not_stop_the_head_that_mends_it() -> None:
    wrong = failed(Status.INCORRECT, "Output 1 is off.")
    first = [replace(one, base=(wrong,)) for one in slower(0)]
    case = only(first)
    assert (case.state, case.reason) == (
        State.NEW,
        "The base has no time of it (incorrect, Output 1 is off).",
    )


def test_a_wrong_head_is_invalid_and_not_measured_again() -> None:
    first = with_head(slower(0.5), 2, failed(Status.INCORRECT, "Output 1 is off."))
    assert screen(first, POLICY) == ()
    case = only(first)
    assert (case.state, case.reason) == (
        State.INVALID,
        "Round 3, head: incorrect, Output 1 is off.",
    )
    assert case.screen is None


def test_a_crash_is_measured_again_and_is_forgiven_where_nothing_has_changed() -> None:
    first = with_head(slower(0), 1, failed(Status.CRASHED, "Signal 11."))
    assert screen(first, POLICY) == (COPY,)
    case = only(first, slower(0.01))
    assert case.state is State.UNCHANGED
    assert "could not be judged (Round 2, head: crashed, Signal 11)" in case.reason


def test_what_crashed_and_then_shows_a_change_once_is_invalid() -> None:
    first = with_head(slower(0), 1, failed(Status.CRASHED))
    case = only(first, slower(0.10))
    assert case.state is State.INVALID
    assert case.reason.endswith("which nothing confirms. Gate it again.")


def test_what_cannot_be_judged_twice_is_invalid() -> None:
    first = with_head(slower(0), 1, failed(Status.TIMEOUT))
    case = only(first, with_base(slower(0), 0, None))
    assert case.state is State.INVALID
    assert case.reason.startswith("Round 1, base: the process left no record of it.")


def test_a_flagged_case_that_fresh_rounds_cannot_judge_is_invalid() -> None:
    case = only(slower(0.06), with_head(slower(0.06), 0, failed(Status.TIMEOUT, "60 s.")))
    assert case.state is State.INVALID
    assert case.reason.startswith("+6.0 %")


def test_a_machine_that_differs_from_itself_too_much_makes_a_case_noisy() -> None:
    floors = noisy_floors(0.05)
    assert screen(slower(0.5), POLICY, floors) == ()
    case = only(slower(0.5), floors=floors)
    assert case.state is State.NOISY
    assert case.reason.startswith("This machine differs from itself by 15 % (3 deviations of 6")
    assert not case.fails


def test_the_floor_of_the_machine_widens_the_tolerance() -> None:
    case = only(slower(0.06), slower(0.06), floors=noisy_floors(0.025))
    assert case.state is State.UNCHANGED
    assert case.tolerance == pytest.approx(0.075)
    assert case.tolerance_basis.startswith("this machine's A/A floor")


def test_cases_come_worst_first_and_the_largest_change_first() -> None:
    shares = {1: 0.0, 2: 0.05, 3: -0.2, 4: 0.2, 5: 0.1}
    first = suite(shares)
    accepted = replace(exemption(limit=0.3), case_id=case_named(4).id)
    cases, _ = judged(first, first, exemptions=[accepted])
    assert [case.case_id for case in cases] == [case_named(number).id for number in (5, 2, 4, 3, 1)]


def test_an_exemption_lets_a_regression_pass_and_is_named() -> None:
    case = only(slower(0.06), slower(0.06), exemptions=[exemption()])
    assert case.state is State.REGRESSED
    assert case.exemption == exemption()
    assert not case.fails
    assert case.reason.endswith("Accepted until 2026-12-31: The new driver.")


def test_an_exemption_smaller_than_the_regression_does_not_help() -> None:
    case = only(slower(0.06), slower(0.06), exemptions=[exemption(limit=0.05)])
    assert case.fails
    assert "the one until 2026-12-31 goes to 5 %" in case.reason


def test_an_expired_exemption_is_told_and_does_not_help() -> None:
    case = only(slower(0.06), slower(0.06), exemptions=[exemption(until="2026-06-14")])
    assert case.fails
    assert "the one until 2026-06-14 has expired (The new driver)" in case.reason


SHIFTED = dict.fromkeys(range(12), 0.05)


def test_a_suite_that_moves_together_is_measured_again_as_a_whole() -> None:
    first = suite({**SHIFTED, 3: 0.0})
    assert len(screen(first, POLICY)) == 12


def test_a_global_slow_down_fails_once_fresh_rounds_confirm_it() -> None:
    cases, shift = judged(suite(SHIFTED), suite(SHIFTED))
    assert shift is not None
    assert (shift.share, shift.is_confirmed) == (1.0, True)
    assert shift.shift == pytest.approx(0.05, abs=1e-3)
    assert {case.state for case in cases} == {State.REGRESSED}


def test_a_shift_that_fresh_rounds_do_not_show_fails_only_what_stands_out_of_it() -> None:
    # A neighbour slowed the first rounds down; one case is really slower.
    first = suite({**SHIFTED, 3: 0.10})
    fresh = suite({**dict.fromkeys(range(12), 0.0), 3: 0.05})
    cases, shift = judged(first, fresh)
    assert shift is not None
    assert not shift.is_confirmed
    assert [case.case_id for case in cases if case.fails] == [case_named(3).id]


def test_a_case_that_only_moved_with_an_unconfirmed_shift_does_not_fail() -> None:
    fresh = suite({**dict.fromkeys(range(12), 0.0), 3: 0.05})
    cases, _ = judged(suite(SHIFTED), fresh)
    assert not any(case.fails for case in cases)


def test_a_few_cases_have_no_common_shift() -> None:
    few = dict.fromkeys(range(9), 0.05)
    _, shift = judged(suite(few), suite(few))
    assert shift is None


def test_many_regressions_beside_as_many_quiet_cases_are_no_shift_of_the_suite() -> None:
    first = suite({number: 0.06 if number < 12 else 0.0 for number in range(24)})
    fresh = [replace(one, base=one.base[:12], head=one.head[:12]) for one in first]
    cases, shift = judged(first, fresh)
    assert shift is None
    assert sum(case.fails for case in cases) == 12


def test_against_a_stored_base_the_shift_of_the_session_is_taken_out() -> None:
    first = suite({**dict.fromkeys(range(12), 0.04), 3: 0.12})
    fresh = [replace(one, base=one.base[3:4], head=one.head[3:4]) for one in first]
    cases, shift = judged(first, fresh, is_interleaved=False)
    assert shift is not None
    assert not shift.is_confirmed
    assert [case.case_id for case in cases if case.fails] == [case_named(3).id]
    # The others were measured once: nothing is said of fresh rounds.
    assert "the suite moved by +4.0 %: it does not stand out of that" in cases[-1].reason


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-0.2, 0.2), min_size=5, max_size=5),
    st.lists(st.floats(-0.2, 0.2), min_size=5, max_size=5),
)
def test_swapping_the_arms_turns_regressions_into_improvements(
    first: list[float], fresh: list[float]
) -> None:
    def measured(changes: list[float], is_swapped: bool) -> list[Round]:
        # Around times so long that no absolute floor counts.
        sides = [1.0] * 5, [1.0 + change for change in changes]
        return rounds(*(reversed(sides) if is_swapped else sides))

    there = only(measured(first, False), measured(fresh, False)).state
    back = only(measured(first, True), measured(fresh, True)).state
    opposite = {State.REGRESSED: State.IMPROVED, State.IMPROVED: State.REGRESSED}
    assert back is opposite.get(there, there)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-0.1, 0.1), min_size=5, max_size=5), st.permutations(range(5)))
def test_the_order_of_the_rounds_does_not_matter(changes: list[float], order: list[int]) -> None:
    first = rounds([1e-3] * 5, [1e-3 * (1 + change) for change in changes])
    shuffled = [first[place] for place in order]
    assert only(shuffled, shuffled).state is only(first, first).state


def test_the_last_record_of_a_case_counts() -> None:
    first = [replace(one, head=(record(9.0), *one.head)) for one in slower(0.0)]
    assert only(first).state is State.UNCHANGED
