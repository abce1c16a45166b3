import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.history.change_points import MIN_RUNS, change_interval, change_points, noise_of
from tests.harness.history.history_sample import series


def test_a_step_is_found_at_its_first_run() -> None:
    assert change_points(series(1, 40, steps=[(25, 0.2)])) == (25,)


def test_several_levels_are_found_each() -> None:
    times = series(2, 60, steps=[(20, 0.15), (40, -0.2)])
    assert change_points(times) == (20, 40)


def test_a_lone_wild_run_is_no_level() -> None:
    times = series(3, 30, wild=0.0)
    times[15] *= 1.5
    times[25:27] *= 1.4
    assert change_points(times) == ()


def test_a_change_shows_after_three_runs_and_not_before() -> None:
    times = series(4, 20, wild=0.0, steps=[(17, 0.2)])
    assert change_points(times[:19]) == ()
    assert change_points(times) == (17,)


def test_a_change_below_the_smallest_that_matters_is_left_out() -> None:
    times = series(5, 60, noise=0.002, wild=0.0, steps=[(30, 0.03)])
    assert change_points(times) == ()
    assert change_points(times, min_change=0.02) == (30,)


@pytest.mark.parametrize("num_runs", [0, 1, 2 * MIN_RUNS - 1])
def test_a_short_history_has_no_change(num_runs: int) -> None:
    assert change_points(list(series(6, 8, steps=[(4, 1.0)])[:num_runs])) == ()


def test_equal_times_have_no_noise_and_a_clean_step_is_one() -> None:
    assert change_points([1e-3] * 12) == ()
    assert change_points([1e-3] * 6 + [2e-3] * 6) == (6,)


@pytest.mark.parametrize(("noise", "correlation"), [(0.01, 0.0), (0.02, 0.3), (0.02, 0.6)])
def test_of_a_hundred_histories_without_a_change_at_most_three_show_one(
    noise: float, correlation: float
) -> None:
    found = [
        change_points(series(seed, 60, noise=noise, correlation=correlation)) for seed in range(100)
    ]
    assert sum(bool(one) for one in found) <= 3


@pytest.mark.parametrize(("size", "least"), [(0.10, 0.9), (0.20, 0.95)])
def test_a_change_is_found_a_week_later(size: float, least: float) -> None:
    hits = [
        any(
            abs(at - 52) <= 1
            for at in change_points(series(seed, 60, noise=0.02, steps=[(52, size)]))
        )
        for seed in range(100)
    ]
    assert np.mean(hits) >= least


def test_the_interval_holds_the_step() -> None:
    times = series(8, 60, noise=0.02, steps=[(30, 0.12)])
    value, low, high = change_interval(times, (30,), 30)
    assert low < 0.12 < high
    assert value == pytest.approx(0.12, abs=0.02)


def test_noise_is_measured_between_the_changes() -> None:
    times = np.log(series(9, 200, noise=0.02, wild=0.0, steps=[(100, 0.5)]))
    spread, correlation = noise_of(times, (100,))
    assert spread == pytest.approx(0.02, rel=0.25)
    assert correlation < 0.2


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-9, 1e3), st.integers(0, 1000))
def test_the_unit_of_time_does_not_matter(factor: float, seed: int) -> None:
    times = series(seed, 30, noise=0.02, steps=[(15, 0.3)])
    assert change_points(times) == change_points(times * factor)
