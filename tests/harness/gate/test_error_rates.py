"""Error rates that the documents state, on few suites with a fixed seed; `make bench-gate` has
them on many."""

import pytest

from harness.gate.policy import GatePolicy
from tests.benchmarks.gate_rates import error_rates, share
from tests.benchmarks.gate_rules import gate, median_rule, one_process_a_side, unconfirmed
from tests.benchmarks.gate_simulated import SimulatedSuites

SUITES = SimulatedSuites(num_cases=60, num_samples=9)
POLICY = GatePolicy()
RULE = gate("gate", POLICY)


def test_no_suite_of_equal_code_raises_an_alarm() -> None:
    rates = error_rates(RULE, SUITES.trials(12, 0.0, 1))
    assert (rates.alarms_per_case.count, rates.alarms_per_case.of) == (0, 720)
    assert (rates.alarms_per_suite.count, rates.alarms_per_suite.of) == (0, 12)


@pytest.mark.parametrize(("level", "least"), [(0.05, 0.9), (0.10, 1.0)])
def test_slow_downs_beyond_the_tolerance_are_found(level: float, least: float) -> None:
    rates = error_rates(RULE, SUITES.trials(6, level, 2))
    (power,) = rates.power
    assert power.found.of == 36
    assert power.found.value >= least
    assert rates.alarms_beside.count == 0


def test_one_run_of_each_side_raises_alarms_where_the_gate_does_not() -> None:
    rule = one_process_a_side("median:5%", median_rule)
    rates = error_rates(rule, SUITES.trials(6, 0.0, 3))
    assert rates.alarms_per_suite.of == 30
    assert rates.alarms_per_suite.value > 0.3


def test_disturbed_processes_pass_the_first_look_and_not_the_second() -> None:
    many = SimulatedSuites(num_cases=60, num_samples=9, num_rounds=3)
    policy = GatePolicy(rounds=3, tolerance=0.02)
    first = error_rates(unconfirmed("first", policy), many.trials(8, 0.0, 4)).alarms_per_case
    both = error_rates(gate("both", policy), many.trials(8, 0.0, 4)).alarms_per_case
    assert first.count > 5 * both.count


def test_no_alarm_in_so_many_cases_bounds_the_rate_and_does_not_make_it_none() -> None:
    none = share(0, 900)
    assert none.value == 0
    # One side of a two-sided 95 % interval: 1 - 0.025 ** (1 / 900).
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 900))
