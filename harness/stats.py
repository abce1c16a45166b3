"""Pure functions of samples: median with its interval, spread, outlier labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ranks = NDArray[np.int64]

NUM_RESAMPLES = 1000
"""Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 14.3."""
BOOTSTRAP_SEED = 20231
"""Fixed, so that the same samples always give the same interval."""
CONFIDENCE = 0.95
MIN_SAMPLES_FOR_BOOTSTRAP = 6
"""Below it the median's 95 % interval is wider than the samples' range (order statistics)."""
NORMAL_CONSISTENCY = 1.4826
"""MAD times this estimates the standard deviation of a normal distribution (1 / 0.6745)."""
OUTLIER_MADS = 3.5
"""Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993): modified z-score above 3.5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What is said of a set of samples; always computed from them, never stored in their place."""

    median: float
    low: float
    """Lower end of the bootstrap interval of the median."""
    high: float
    """Upper end of the bootstrap interval of the median."""
    mad: float
    """Median absolute deviation, scaled to estimate a standard deviation."""
    minimum: float
    maximum: float
    num_samples: int
    num_outliers: int

    @property
    def relative_half_width(self) -> float:
        """Half the interval's width over the median."""
        return (self.high - self.low) / 2 / self.median if self.median > 0 else float("inf")


def median_interval(
    samples: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Percentile-bootstrap interval of the median.

    With fewer than MIN_SAMPLES_FOR_BOOTSTRAP samples it is their whole range.

    Source: Efron and Tibshirani (1993), section 13.3.
    """
    if len(samples) < MIN_SAMPLES_FOR_BOOTSTRAP:
        assert samples, "an interval needs samples"
        return min(samples), max(samples)
    tail = (1 - confidence) / 2
    low, high = np.quantile(bootstrap_medians(samples), [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_medians(samples: Sequence[float], seed: int = BOOTSTRAP_SEED) -> Floats:
    """The medians of NUM_RESAMPLES resamples.

    Two sets of samples that are held against each other need two seeds: with one, their resamples
    would rise and fall together.
    """
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    below, above = _middle_ranks(ordered.size, seed)
    return np.asarray((ordered[below] + ordered[above]) / 2)


@lru_cache(maxsize=1024)
def _middle_ranks(num_samples: int, seed: int) -> tuple[Ranks, Ranks]:
    """Which two order statistics each resample's median lies between.

    They depend on the number of samples alone, so the costly part is done once for each number:
    asking the stop rule a hundred times, or reading a thousand records, costs as much as sorting.
    """
    generator = np.random.default_rng(seed)
    ranks = generator.integers(num_samples, size=(NUM_RESAMPLES, num_samples))
    lower, upper = (num_samples - 1) // 2, num_samples // 2
    ranks.partition([lower, upper], axis=1)
    return ranks[:, lower].copy(), ranks[:, upper].copy()


def outlier_labels(samples: Sequence[float]) -> tuple[bool, ...]:
    """True for each sample more than OUTLIER_MADS scaled deviations from the median."""
    values = np.asarray(samples, dtype=np.float64)
    distance = np.abs(values - np.median(values))
    mad = NORMAL_CONSISTENCY * np.median(distance)
    if mad == 0:
        return (False,) * values.size
    return tuple(bool(label) for label in distance > OUTLIER_MADS * mad)


def summarize(samples: Sequence[float], confidence: float = CONFIDENCE) -> Summary:
    """Median, interval, spread and outlier count of at least one sample."""
    values = np.asarray(samples, dtype=np.float64)
    low, high = median_interval(samples, confidence)
    median = float(np.median(values))
    return Summary(
        median=median,
        low=low,
        high=high,
        mad=float(NORMAL_CONSISTENCY * np.median(np.abs(values - median))),
        minimum=float(values.min()),
        maximum=float(values.max()),
        num_samples=int(values.size),
        num_outliers=sum(outlier_labels(samples)),
    )


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean of positive values: the mean for ratios (Fleming and Wallace 1986)."""
    return float(np.exp(np.mean(np.log(np.asarray(values, dtype=np.float64)))))
