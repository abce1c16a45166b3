import numpy as np
import pytest

from harness.gate_result import State
from harness.history.stored_baseline import MIN_RUNS, judge_against
from tests.harness.history.history_sample import history, series

CASES = tuple(f"op{number}.bf16.forward[M=1]/torch" for number in range(12))


def times(factor: float = 1.0, slow: float = 1.0, num_runs: int = 20, seed: int = 0) -> dict:
    """All cases times a factor, and the first of them times another."""
    return {
        case: factor * (slow if case == CASES[0] else 1.0) * series(seed + at, num_runs, wild=0.0)
        for at, case in enumerate(CASES)
    }


def states(**head: float) -> dict[str, State]:
    new = history(times(num_runs=3, seed=100, **head))
    return {one.case_id: one.state for one in judge_against(history(times()), new, 0.03).cases}


def test_the_same_code_is_unchanged() -> None:
    assert set(states().values()) == {State.UNCHANGED}


@pytest.mark.parametrize(
    ("slow", "state"),
    [(1.12, State.REGRESSED), (0.88, State.IMPROVED), (1.03, State.UNCHANGED)],
)
def test_one_case_that_moved_is_told(slow: float, state: State) -> None:
    found = states(slow=slow)
    assert found[CASES[0]] is state
    assert {found[case] for case in CASES[1:]} == {State.UNCHANGED}


def test_a_session_in_which_all_cases_are_slower_is_no_regression() -> None:
    new = history(times(factor=1.08, num_runs=3, seed=100))
    found = judge_against(history(times()), new, 0.03)
    assert found.common == pytest.approx(0.08, abs=0.01)
    assert {case.state for case in found.cases} == {State.UNCHANGED}


def test_few_stored_runs_judge_nothing() -> None:
    stored = history(times(num_runs=MIN_RUNS - 1))
    found = judge_against(stored, history(times(slow=2.0, num_runs=3)), 0.03)
    assert {case.state for case in found.cases} == {State.INCONCLUSIVE}
    assert "4 stored runs" in found.cases[0].reason


def test_noisy_stored_runs_judge_nothing() -> None:
    stored = {case: series(at, 20, noise=0.2, wild=0.0) for at, case in enumerate(CASES)}
    found = judge_against(history(stored), history(times(num_runs=3)), 0.03)
    assert State.INCONCLUSIVE in {case.state for case in found.cases}
    assert State.REGRESSED not in {case.state for case in found.cases}


def test_new_missing_and_other_work_are_told_apart() -> None:
    stored = times()
    head = times(num_runs=3)
    only_old = stored.pop(CASES[1])
    gone = head.pop(CASES[2])
    assert only_old.size
    assert gone.size
    found = judge_against(history(stored), history(head, protocol="p"), 0.03)
    by_case = {case.case_id: case.state for case in found.cases}
    assert by_case[CASES[1]] is State.NEW
    assert by_case[CASES[2]] is State.MISSING
    other = judge_against(history(stored), history(head, protocol="q"), 0.03)
    assert {case.state for case in other.cases} == {State.INVALID, State.NEW, State.MISSING}


def test_cases_are_worst_first() -> None:
    new = times(num_runs=3, seed=100)
    new[CASES[3]] = new[CASES[3]] * 1.2
    new[CASES[4]] = new[CASES[4]] * 1.5
    new[CASES[5]] = new[CASES[5]] * 0.5
    found = judge_against(history(times()), history(new), 0.03).cases
    assert [case.case_id for case in found[:3]] == [CASES[4], CASES[3], CASES[5]]


def test_in_a_hundred_suites_of_the_same_code_and_another_session_none_regressed() -> None:
    alarms = 0
    for seed in range(0, 10_000, 100):
        session = float(np.exp(np.random.default_rng(seed).normal(0, 0.02)))
        new = history(times(factor=session, num_runs=3, seed=seed + 50_000))
        found = judge_against(history(times(seed=seed)), new, 0.03)
        alarms += any(case.state is State.REGRESSED for case in found.cases)
    assert alarms == 0


def test_stored_times_of_an_earlier_protocol_are_of_other_work() -> None:
    earlier = history(times(factor=3.0, num_runs=12), protocol="before")
    stored = (*earlier, *history(times(num_runs=8, seed=50)))
    found = judge_against(stored, history(times(num_runs=3, seed=100)), 0.03)
    assert [case.base_s for case in found.cases] == [pytest.approx(1e-3, rel=0.05)] * len(CASES)
    assert all("from 8 stored runs" in case.reason for case in found.cases)


def test_a_new_code_that_is_wrong_is_invalid_and_moves_no_other_case() -> None:
    head = times(num_runs=3, seed=100)
    del head[CASES[2]]
    faults = {CASES[1]: "Process 1: other programs held the device: a.", CASES[2]: "It crashed."}
    found = judge_against(history(times()), history(head), 0.03, faults).cases
    by_case = {case.case_id: case for case in found}
    for case_id, why in faults.items():
        assert (by_case[case_id].state, by_case[case_id].reason) == (State.INVALID, why)
    assert {by_case[case].state for case in CASES[3:]} == {State.UNCHANGED}
