"""Slow tools are asked seldom, and what they print is a number or nothing."""

import pytest

from harness.device.base import DeviceState
from harness.device.telemetry import (
    MAX_FAILURES,
    READ_EVERY_S,
    NoTelemetry,
    SlowReader,
    celsius,
    number,
    physical_index,
)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Tool:
    """Counts how often it is asked; raises or answers."""

    def __init__(self) -> None:
        self.calls = 0
        self.answer: DeviceState | Exception | None = DeviceState(power_w=50.0)

    def __call__(self) -> DeviceState | None:
        self.calls += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_slow_tool_is_asked_once_in_a_while_and_its_answer_grows_old() -> None:
    clock, tool = Clock(), Tool()
    reader = SlowReader("tool", tool, clock)
    assert reader.state() == DeviceState(power_w=50.0)
    clock.now_s += READ_EVERY_S / 2
    assert reader.state() == DeviceState(power_w=50.0, age_s=READ_EVERY_S / 2)
    assert tool.calls == 1
    tool.answer = DeviceState(power_w=60.0)
    clock.now_s += READ_EVERY_S / 2
    assert reader.state() == DeviceState(power_w=60.0)
    assert tool.calls == 2


@pytest.mark.parametrize("answer", [None, ValueError("nonsense"), KeyError("card0")])
def test_a_tool_that_keeps_failing_is_not_asked_again(answer: Exception | None) -> None:
    clock, tool = Clock(), Tool()
    tool.answer = answer
    reader = SlowReader("tool", tool, clock)
    for _ in range(3 * MAX_FAILURES):
        assert reader.state() == DeviceState()
        clock.now_s += READ_EVERY_S
    assert tool.calls == MAX_FAILURES
    assert reader.source == ""


def test_an_answer_after_a_failure_begins_the_count_again() -> None:
    clock, tool = Clock(), Tool()
    reader = SlowReader("tool", tool, clock)
    for index in range(3 * MAX_FAILURES):
        tool.answer = DeviceState(power_w=1.0) if index % 2 else None
        reader.state()
        clock.now_s += READ_EVERY_S
    assert tool.calls == 3 * MAX_FAILURES


def test_an_old_answer_is_not_kept_past_a_failure() -> None:
    clock, tool = Clock(), Tool()
    reader = SlowReader("tool", tool, clock)
    reader.state()
    tool.answer = None
    clock.now_s += READ_EVERY_S
    assert reader.state() == DeviceState()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("367.49W", 367.49),
        (" 42 C", 42.0),
        (0, 0.0),
        ("N/A", None),
        ("", None),
        ("-", None),
        (None, None),
        (True, None),
        ("-5", None),
        (float("nan"), None),
        (float("inf"), None),
        ("1e400", None),
    ],
)
def test_a_text_is_a_number_or_nothing(text: object, found: float | None) -> None:
    assert number(text) == found


def test_a_temperature_may_be_below_zero_and_not_below_all_sense() -> None:
    assert celsius("-4C") == -4.0
    assert celsius("-273") is None
    assert celsius(45_000, 1e-3) == pytest.approx(45.0)
    assert celsius(-32_768_000, 1e-3) is None


@pytest.mark.parametrize(
    ("visible", "index", "physical"),
    [(None, 2, 2), ("4,5,6", 1, 5), ("4", 1, None), ("GPU-12", 0, None), ("", 0, None)],
)
def test_the_environment_says_which_of_the_hosts_chips_it_is(
    visible: str | None, index: int, physical: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACME_VISIBLE", raising=False)
    if visible is not None:
        monkeypatch.setenv("ACME_VISIBLE", visible)
    assert physical_index(index, "ACME_VISIBLE") == physical


def test_a_device_without_telemetry_has_an_empty_state() -> None:
    assert NoTelemetry().state() == DeviceState()
