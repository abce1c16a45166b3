import pytest

from harness.gate.floors import CaseFloor, Floors
from harness.gate.policy import GatePolicy
from harness.gate.tolerance import CaseTolerance, tolerance_of

POLICY = GatePolicy()


def of(
    median_s: float,
    resolution_s: float = 1e-9,
    policy: GatePolicy = POLICY,
    floors: Floors | None = None,
) -> CaseTolerance:
    return tolerance_of("case", median_s, resolution_s, policy, floors)


def floors(deviation: float, count: int = 6, num_rounds: int = 5) -> Floors:
    estimates = tuple((-1) ** each * deviation / 1.4826 for each in range(count))
    return Floors(
        fingerprint="here",
        chip="x",
        num_rounds=num_rounds,
        cases=(CaseFloor(case_id="case", estimates=estimates),),
    )


def test_the_policy_sets_it_for_a_long_case() -> None:
    assert of(1e-3) == CaseTolerance(value=0.03, basis="the policy")


def test_a_short_case_has_the_tolerance_of_short_ones() -> None:
    found = of(15e-6)
    assert (found.value, found.basis) == (0.05, "the policy for cases shorter than 20.0 us")


def test_a_policy_that_is_wider_than_that_of_short_cases_holds_for_them_too() -> None:
    assert of(15e-6, policy=GatePolicy(tolerance=0.08)).value == 0.08


def test_what_is_too_little_to_count_sets_it_for_a_very_short_case() -> None:
    found = of(5e-6)
    assert found.value == pytest.approx(0.10)
    assert found.basis == "500 ns of 5.00 us, the least that counts"


def test_two_steps_of_the_timer_set_it_where_the_timer_is_coarse() -> None:
    found = of(10e-6, 0.5e-6)
    assert found.value == pytest.approx(0.10)
    assert found.basis == "the timer: 2 of its steps of 500 ns"


def test_three_deviations_of_the_machine_set_it_where_they_are_more() -> None:
    found = of(1e-3, floors=floors(0.02))
    assert found.value == pytest.approx(0.06)
    assert found.basis == "this machine's A/A floor: 3 deviations of 6 A/A estimates"
    assert not found.noise


def test_a_quiet_machine_does_not_narrow_it() -> None:
    assert of(1e-3, floors=floors(0.001)).value == 0.03


def test_too_few_estimates_set_nothing() -> None:
    assert of(1e-3, floors=floors(0.02, count=4)).value == 0.03


def test_the_floor_is_capped_and_the_case_called_noisy_beyond() -> None:
    found = of(1e-3, floors=floors(0.05))
    assert found.value == pytest.approx(0.10)
    assert found.noise == (
        "this machine differs from itself by 15 % (3 deviations of 6 A/A estimates), and a gate "
        "may allow 10 %"
    )


def test_a_floor_of_more_rounds_is_widened_for_fewer() -> None:
    assert of(1e-3, floors=floors(0.01, num_rounds=20)).value == pytest.approx(0.06)
    assert of(1e-3, floors=floors(0.02, num_rounds=3)).value == pytest.approx(0.06)
