"""What a difference from the baseline means."""

import pytest

from harness.pytest_plugin.verdict import (
    asked_tolerance,
    change_of,
    change_text,
    side_of,
    tolerance_text,
)


def test_the_estimate_is_not_moved_by_one_process_of_five() -> None:
    change = change_of(1e-3, [1.01e-3, 1.0e-3, 1.02e-3, 5e-3, 1.01e-3])
    tolerance = asked_tolerance("a", 1e-3, 0.05, "--chip-tolerance", 1e-9)
    assert side_of(change, tolerance) == 0


@pytest.mark.parametrize(("head_s", "side"), [(1.06e-3, 1), (1.04e-3, 0), (0.94e-3, -1)])
def test_sides_are_beyond_the_tolerance(head_s: float, side: int) -> None:
    tolerance = asked_tolerance("a", 1e-3, 0.05, "--chip-tolerance", 1e-9)
    assert side_of(change_of(1e-3, [head_s] * 5), tolerance) == side


def test_a_short_time_is_held_to_what_its_timer_can_tell() -> None:
    tolerance = asked_tolerance("a", 5e-6, 0.05, "--chip-tolerance", 0.5e-6)
    assert tolerance.value == pytest.approx(0.2)
    assert "timer" in tolerance_text(tolerance)


def test_the_change_is_told_with_its_interval() -> None:
    text = change_text(1e-3, change_of(1e-3, [1.1e-3, 1.11e-3, 1.09e-3, 1.1e-3, 1.1e-3]))
    assert text == "1.00 ms -> 1.10 ms, +10.0 % [+9.0 %, +11.0 %]"


def test_what_the_user_asked_for_is_named() -> None:
    tolerance = asked_tolerance("a", 1e-3, 0.05, "chip_tolerance", 1e-9)
    assert tolerance_text(tolerance) == "5 % (chip_tolerance)"
