"""Pure functions of samples: median with its interval, spread, outlier labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
COSINES = 0.4
"""Cosines over samples^(2/3): Lazarus, Lewis, Stock and Watson 2018, equation 4."""
MIN_COSINES = 4
"""With fewer, Student's t makes the interval of a short series several times as wide."""
MIN_SAMPLES_FOR_INTERVAL = 6
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
    """Lower end of the interval of the median."""
    high: float
    """Upper end of the interval of the median."""
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
    samples: Sequence[float] | Floats, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """The interval of the median of a series, its samples in the order they were taken.

    Its ends are two of the samples, `half` ranks below and above the middle, so that it holds for
    any distribution. How many ranks follows from the series of signs, above or below the median:
    its long-run variance is estimated from its slowest cosines, which see a drift or a slow
    rhythm that makes neighbours alike, and is never taken below that of independent samples.
    With fewer than MIN_SAMPLES_FOR_INTERVAL samples it is their whole range.

    In simulation it holds the true median in 94 to 99 % of series where 95 % is asked: normal and
    Student t (2 degrees), independent and with a correlation of neighbours up to 0.6, from 20
    samples on. A block bootstrap (Politis and White 2004) holds 80 to 93 % of the same.

    Source: ranks, Conover 1999, Practical Nonparametric Statistics, section 3.2; variance, Lazarus,
    Lewis, Stock and Watson 2018, HAR Inference: Recommendations for Practice, equations 6 and 9.
    """
    assert len(samples), "an interval needs samples"
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    size = ordered.size
    if size < MIN_SAMPLES_FOR_INTERVAL:
        return float(ordered[0]), float(ordered[-1])
    normal = NormalDist().inv_cdf((1 + confidence) / 2)
    signs = np.sign(np.asarray(samples) - np.median(ordered)) / 2
    num_cosines = max(MIN_COSINES, round(COSINES * size ** (2 / 3)))
    weights = _cosines(size, num_cosines) @ signs
    half = max(
        student_t(normal, num_cosines) * math.sqrt(size * float(np.mean(weights**2))),
        normal * math.sqrt(size / 4),
    )
    low = max(math.floor(size / 2 - half), 0)
    high = min(math.ceil(size / 2 + half) - 1, size - 1)
    return float(ordered[low]), float(ordered[high])


@lru_cache(maxsize=256)
def _cosines(size: int, count: int) -> Floats:
    """The slowest cosines over a series of that size, orthonormal, as [count,size]."""
    places = (np.arange(size) + 0.5) / size
    waves = np.arange(1, count + 1)
    return np.asarray(math.sqrt(2 / size) * np.cos(np.pi * np.outer(waves, places)))


def student_t(z: float, degrees: int) -> float:
    """The quantile of Student's t where that of the normal distribution is z, to 1 %.

    SciPy has it exactly, but this file runs on hosts without.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    first, second, third = terms
    return z + first / degrees + second / degrees**2 + third / degrees**3


def ratio_interval(
    first: Sequence[float], second: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """The interval of the ratio of two medians of positive samples, from that of each.

    The distances from median to end are added as independent errors, on a logarithmic scale.

    Source: Zou and Donner 2008, Construction of confidence limits about effect measures (MOVER),
    Statistics in Medicine 27.
    """
    logs = [np.log(np.asarray(samples, dtype=np.float64)) for samples in (first, second)]
    (low_1, high_1), (low_2, high_2) = (median_interval(series, confidence) for series in logs)
    middle_1, middle_2 = (float(np.median(series)) for series in logs)
    middle = middle_1 - middle_2
    low = middle - math.hypot(middle_1 - low_1, high_2 - middle_2)
    high = middle + math.hypot(high_1 - middle_1, middle_2 - low_2)
    return math.exp(low), math.exp(high)


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
