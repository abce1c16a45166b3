"""What the rules do to the statistics, simulated: no device, only numbers."""

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import norm
from scipy.stats import t as student

from harness.measure.policy import MeasurePolicy
from harness.measure.stopping import CHECKS_IN_A_ROW, MedianIntervalRule
from harness.stats import median_interval

MEDIAN = 10.0


def series(
    generator: np.random.Generator, correlation: float, degrees: float, size: int = 3000
) -> list[float]:
    """Samples of 1 % noise whose neighbours are correlated: normal noise mapped to Student's t."""
    steps = generator.standard_normal(size) * np.sqrt(1 - correlation**2)
    noise = lfilter([1.0], [1.0, -correlation], steps)
    return (MEDIAN + 0.1 * student.ppf(norm.cdf(noise), degrees)).tolist()


def samples_until_stopped(policy: MeasurePolicy, samples_s: list[float]) -> list[float]:
    rule = MedianIntervalRule(policy)
    for number, sample_s in enumerate(samples_s, start=1):
        rule.add(sample_s)
        if rule.reason_to_stop(0.0):
            return samples_s[:number]
    raise AssertionError("the rule never stopped")


@pytest.mark.parametrize(
    ("correlation", "degrees", "least"),
    [
        (0.0, np.inf, 0.93),
        (0.0, 2.0, 0.93),
        (0.3, np.inf, 0.93),
        (0.3, 2.0, 0.93),
        (0.6, np.inf, 0.90),
        (0.6, 2.0, 0.90),
    ],
)
def test_an_interval_that_ended_its_run_still_holds_the_true_median(
    correlation: float, degrees: float, least: float
) -> None:
    # A run ends when its interval happens to be narrow, which makes it hold less often than the
    # interval of a series whose length was fixed before.
    generator = np.random.default_rng(23)
    policy = MeasurePolicy(relative_half_width=0.005)
    num_trials, held = 500, 0
    for _ in range(num_trials):
        taken = samples_until_stopped(policy, series(generator, correlation, degrees))
        low, high = median_interval(taken)
        held += low <= MEDIAN <= high
    # Two standard errors of 500 trials are 2 %.
    assert held / num_trials >= least - 0.02


def test_the_interval_at_the_end_is_as_narrow_as_was_asked() -> None:
    generator = np.random.default_rng(29)
    policy = MeasurePolicy(relative_half_width=0.005)
    for _ in range(20):
        taken = samples_until_stopped(policy, series(generator, 0.3, 2.0))
        low, high = median_interval(taken)
        assert (high - low) / 2 / np.median(taken) <= policy.relative_half_width


def test_one_narrow_interval_is_not_enough() -> None:
    policy = MeasurePolicy()
    rule = MedianIntervalRule(policy)
    reasons = []
    for _ in range(2 * policy.min_samples):
        rule.add(1.0)
        reasons.append(rule.reason_to_stop(0.0))
    num_taken = next(number for number, reason in enumerate(reasons, start=1) if reason)
    assert CHECKS_IN_A_ROW == 2
    assert num_taken == 28  # 20, and 1.4 times as many
