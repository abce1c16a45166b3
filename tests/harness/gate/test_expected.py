from datetime import date

import pytest

from harness.gate.decide import judge
from harness.gate.expected import FALSE_ALARM_RATE, expected_false_alarms
from harness.gate.floors import Floors, floors_from
from harness.gate.policy import GatePolicy
from harness.gate_result import GateCase
from tests.harness.gate.rounds_of import suite


def cases(count: int) -> tuple[GateCase, ...]:
    first = suite(dict.fromkeys(range(count), 0.0))
    return judge(first, (), GatePolicy(), today=date(2026, 1, 1))[0]


def floors(count: int, num_suites: int = 5) -> Floors:
    return floors_from([suite(dict.fromkeys(range(count), 0.001))] * num_suites, "here", "x")


def test_a_calibrated_machine_has_the_measured_rate_for_each_case() -> None:
    found = expected_false_alarms(cases(4), floors(4))
    assert found == pytest.approx(4 * FALSE_ALARM_RATE)


@pytest.mark.parametrize("known", [None, floors(3), floors(4, num_suites=4)])
def test_without_a_floor_for_every_case_it_is_unknown(known: Floors | None) -> None:
    assert expected_false_alarms(cases(4), known) is None


@pytest.mark.parametrize("laxer", [{"rounds": 3}, {"tolerance": 0.01}, {"timer_steps": 0.0}])
def test_with_a_laxer_rule_than_the_measured_one_it_is_unknown(laxer: dict[str, float]) -> None:
    assert expected_false_alarms(cases(4), floors(4), GatePolicy(**laxer)) is None


def test_against_a_stored_base_it_is_unknown() -> None:
    assert expected_false_alarms(cases(4), floors(4), is_interleaved=False) is None
