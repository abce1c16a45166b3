"""What a run is warned of before it begins."""

import os

import pytest

from harness import environment
from harness.device.base import DeviceInfo, DeviceState
from harness.environment import named, read_environment

CPU = DeviceInfo(name="a processor", torch_device_type="cpu")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "busy", lambda: ())
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))


def test_a_quiet_host_is_no_warning() -> None:
    assert read_environment(CPU, DeviceState()).warnings == ()


def test_programs_that_hold_the_device_are_named() -> None:
    state = DeviceState(foreign_processes=("trainer (4711)",))
    assert read_environment(CPU, state).warnings == (
        "The device was held by trainer (4711) before measuring; their work may show in the "
        "samples.",
    )


def test_busy_programs_are_named_in_place_of_the_load_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environment, "busy", lambda: ("python (12) 98 %",))
    monkeypatch.setattr(environment, "num_usable_cores", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (3.25, 0.0, 0.0))
    (warning,) = read_environment(CPU, DeviceState()).warnings
    assert "python (12) 98 %; the load was 3.2 on 4 cores" in warning


def test_a_load_that_nobody_can_be_named_for_is_still_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (64.0, 0.0, 0.0))
    monkeypatch.setattr(environment, "num_usable_cores", lambda: 2)
    (warning,) = read_environment(CPU, DeviceState()).warnings
    assert warning.startswith("The host's load was 64.0 on 2 cores before measuring")


def test_a_virtual_clock_knows_nothing_of_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "busy", lambda: ("python (12) 98 %",))
    fake = DeviceInfo(name="fake", torch_device_type="fake")
    assert read_environment(fake, DeviceState(foreign_processes=("x (1)",))).warnings == ()


def test_many_programs_are_counted_behind_the_first_few() -> None:
    assert named(["a", "b"]) == "a, b"
    assert named(list("abcdefg")) == "a, b, c, d, e and 2 more"
