"""One length of a hold, for the samples and for the proof."""

import pytest

from harness.measure.holding import hold_s


def test_a_slow_host_is_waited_for_twice_its_time() -> None:
    assert hold_s(1e-3) == pytest.approx(2e-3)


def test_a_fast_host_still_has_time_to_start_and_stop_the_timer() -> None:
    assert hold_s(1e-6) == hold_s(0.0) == pytest.approx(50e-6)
