import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats import geometric_mean, median_interval, outlier_labels, summarize

SAMPLES = st.lists(st.floats(1e-7, 1e3), min_size=1, max_size=60)


@given(SAMPLES)
def test_the_numbers_of_a_summary_are_in_order(samples: list[float]) -> None:
    summary = summarize(samples)
    assert summary.minimum <= summary.low <= summary.median <= summary.high <= summary.maximum
    assert summary.num_samples == len(samples)


@given(SAMPLES, st.sampled_from([2.0**-10, 8.0]))
def test_a_summary_scales_with_its_unit(samples: list[float], factor: float) -> None:
    # Powers of two, so that scaling rounds nothing.
    summary = summarize(samples)
    scaled = summarize([factor * sample for sample in samples])
    assert scaled.median == pytest.approx(factor * summary.median)
    assert scaled.low == pytest.approx(factor * summary.low)
    assert scaled.high == pytest.approx(factor * summary.high)
    assert scaled.num_outliers == summary.num_outliers


def test_the_interval_holds_the_true_median_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    num_trials = 400
    held = 0
    for _ in range(num_trials):
        low, high = median_interval(generator.lognormal(0.0, 0.05, size=40).tolist())
        held += low <= 1.0 <= high
    assert 0.91 <= held / num_trials <= 0.99


def test_few_samples_give_their_whole_range() -> None:
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)


def test_the_same_samples_give_the_same_interval() -> None:
    samples = [float(value) for value in range(1, 40)]
    assert median_interval(samples) == median_interval(samples)


def test_an_outlier_is_labelled_and_kept() -> None:
    samples = [1.0, 1.01, 0.99, 1.02, 0.98, 5.0]
    assert outlier_labels(samples) == (False,) * 5 + (True,)
    assert summarize(samples).maximum == 5.0


def test_equal_samples_have_no_outliers() -> None:
    assert not any(outlier_labels([2.0] * 9))


def test_ratios_average_to_one_when_they_cancel() -> None:
    assert geometric_mean([4.0, 0.25]) == pytest.approx(1.0)
