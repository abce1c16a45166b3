import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from scipy.stats import t as student

from harness import stats
from harness.stats import (
    geometric_mean,
    median_interval,
    outlier_labels,
    ratio_interval,
    summarize,
)

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


def series(
    generator: np.random.Generator, size: int, correlation: float, degrees: float
) -> list[float]:
    """A series of median 10 whose neighbours are correlated: normal noise mapped to Student's t."""
    noise = generator.standard_normal(size) * np.sqrt(1 - correlation**2)
    noise[0] /= np.sqrt(1 - correlation**2)
    for index in range(1, size):
        noise[index] += correlation * noise[index - 1]
    return (10 + 0.1 * student.ppf(norm.cdf(noise), degrees)).tolist()


@pytest.mark.parametrize("degrees", [2.0, np.inf], ids=["heavy-tailed", "normal"])
@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("size", [20, 100, 300])
def test_the_interval_holds_the_true_median_about_as_often_as_it_says(
    size: int, correlation: float, degrees: float
) -> None:
    generator = np.random.default_rng(7)
    num_trials = 1000
    held = 0
    for _ in range(num_trials):
        low, high = median_interval(series(generator, size, correlation, degrees))
        held += low <= 10.0 <= high
    # 95 % is asked; two standard errors of 1000 trials are 1.4 %.
    assert 0.93 - 0.014 <= held / num_trials <= 0.975 + 0.014


def test_a_drifting_series_has_a_wider_interval_than_the_same_samples_shuffled() -> None:
    generator = np.random.default_rng(3)
    drifting = (1 + 0.01 * np.arange(100) + 0.01 * generator.standard_normal(100)).tolist()
    shuffled = generator.permutation(drifting).tolist()
    wide, narrow = (high - low for low, high in map(median_interval, (drifting, shuffled)))
    assert wide > 2 * narrow


def test_the_interval_of_a_ratio_holds_the_true_ratio_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(11)
    held = 0
    for _ in range(500):
        first = generator.lognormal(np.log(2), 0.05, size=50).tolist()
        low, high = ratio_interval(first, generator.lognormal(0, 0.1, size=30).tolist())
        held += low <= 2.0 <= high
    assert 0.93 <= held / 500 <= 0.99


@pytest.mark.parametrize("degrees", [4, 9, 40])
def test_the_quantile_of_students_t_is_scipys(degrees: int) -> None:
    assert stats.student_t(norm.ppf(0.975), degrees) == pytest.approx(
        student.ppf(0.975, degrees), rel=0.01
    )


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
