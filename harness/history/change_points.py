"""A series of run medians -> the places where its level changed.

Candidates come from a search that is exact for its cost (PELT's kernel form, by `ruptures`), with a
penalty low enough to miss little. Then the weakest is dropped again and again, until each that is
left is a difference that matters and one that the noise of the series does not make: the noise is
measured between the changes, robustly, and neighbouring runs of a machine are alike, which is
allowed for. A level counts once `MIN_RUNS` runs have it, so that one bad night is none.

Sources: Killick, Fearnhead and Eckley 2012, Optimal Detection of Changepoints With a Linear
Computational Cost; Truong, Oudre and Vayatis 2020, Selective review of offline change point
detection methods (ruptures).
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import ruptures
from numpy.typing import NDArray

from harness.stats import CONFIDENCE, NORMAL_CONSISTENCY

Floats = NDArray[np.float64]

MIN_RUNS = 3
"""Runs that a level needs on either side; nightly reports elsewhere ask for two or more, too."""
MIN_CHANGE = 0.05
"""Smaller changes are not reported: sessions of one machine differ by 1 to 3 %."""
MAX_Z = 4.5
"""Distance of two levels in deviations of their difference. In simulated series without a change
(60 runs, neighbours correlated by 0 to 0.6, 1 % wild runs; see the tests) it leaves about one false
change point in a hundred series at 2 % noise."""
MAX_CORRELATION = 0.7
"""A short series cannot tell a higher one from a slow drift."""
CANDIDATE_PENALTY = 2.0
"""Per change, in units of the noise's variance times the log of the length: Yao 1988 has 2."""
MAX_WINSOR = 4.0
"""Deviations beyond which a run is drawn in before the search, so that one wild run makes no level
of its own."""


def noise_of(series: Floats, boundaries: Sequence[int]) -> tuple[float, float]:
    """Robust standard deviation and lag-1 correlation of what the levels leave over."""
    rest = np.concatenate(
        [part - np.median(part) for part in np.split(series, list(boundaries)) if part.size]
    )
    spread = float(NORMAL_CONSISTENCY * np.median(np.abs(rest)))
    if spread == 0.0:
        spread = float(np.std(rest))
    limited = np.clip(rest, -MAX_WINSOR * spread, MAX_WINSOR * spread)
    power = float(limited @ limited)
    correlation = float(limited[1:] @ limited[:-1]) / power if power > 0 else 0.0
    return spread, min(max(correlation, 0.0), MAX_CORRELATION)


def first_noise(series: Floats) -> float:
    """Standard deviation from the steps between neighbours, which a change of level hardly moves.

    Source: Rice 1984, Bandwidth choice for nonparametric regression; here with the median.
    """
    steps = np.diff(series)
    return float(NORMAL_CONSISTENCY * np.median(np.abs(steps - np.median(steps))) / math.sqrt(2))


def levels_around(series: Floats, boundaries: Sequence[int], at: int) -> tuple[Floats, Floats]:
    """The runs from the boundary before `at` up to it, and from it to the boundary after."""
    edges = [0, *boundaries, series.size]
    place = edges.index(at)
    return series[edges[place - 1] : at], series[at : edges[place + 1]]


def level_difference(series: Floats, boundaries: Sequence[int], at: int) -> tuple[float, float]:
    """How far the level moves at that boundary, and the standard deviation of that number."""
    before, after = levels_around(series, boundaries, at)
    spread, correlation = noise_of(series, boundaries)
    # The variance of a mean of correlated neighbours, first order (Priestley 1981, section 5.3);
    # a median of normal numbers varies by pi / 2 as much as their mean.
    inflation = (1 + correlation) / (1 - correlation) * math.pi / 2
    deviation = spread * math.sqrt(inflation * (1 / before.size + 1 / after.size))
    return float(np.median(after) - np.median(before)), deviation


def change_points(medians_s: Sequence[float], min_change: float = MIN_CHANGE) -> tuple[int, ...]:
    """Indices of the first run of each new level; empty for a series that stays.

    Args:
        medians_s: One time a run, oldest first.
        min_change: The smallest change that is reported, as 0.05 for 5 %.
    """
    series = np.log(np.asarray(medians_s, dtype=np.float64))
    if series.size < 2 * MIN_RUNS:
        return ()
    found = _candidates(series)
    while found:
        strengths = [_strength(series, found, at, min_change) for at in found]
        weakest = int(np.argmin(strengths))
        if strengths[weakest] >= 1:
            break
        del found[weakest]
    return tuple(found)


def _candidates(series: Floats) -> list[int]:
    spread = first_noise(series)
    if spread == 0.0:
        spread = float(np.std(np.diff(series))) or 1e-12
    # A running median of three takes a lone wild run to its neighbours, and keeps steps.
    padded = np.pad(series, 1, mode="edge")
    calm = np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
    limit = MAX_WINSOR * spread
    held = np.clip(series, calm - limit, calm + limit)
    penalty = CANDIDATE_PENALTY * spread**2 * math.log(series.size)
    search = ruptures.KernelCPD(kernel="linear", min_size=MIN_RUNS).fit(held[:, None])
    return [int(at) for at in search.predict(pen=penalty)[:-1]]


def _strength(series: Floats, boundaries: Sequence[int], at: int, min_change: float) -> float:
    """At least 1 where the change matters, is more than noise, and enough runs are of it."""
    moved, deviation = level_difference(series, boundaries, at)
    if not _is_agreed(*levels_around(series, boundaries, at)):
        return 0.0
    matters = abs(moved) / math.log1p(min_change)
    surely = abs(moved) / (MAX_Z * deviation) if deviation > 0 else math.inf
    return min(matters, surely)


def _is_agreed(before: Floats, after: Floats) -> bool:
    """On either side most runs, and at least MIN_RUNS, are nearer to their own level.

    One wild run beside a usual one has a median in between, which neither of them is at.
    """
    first, second = np.median(before), np.median(after)
    middle, sign = (first + second) / 2, np.sign(second - first)
    own = (np.sum(sign * (before - middle) < 0), np.sum(sign * (after - middle) > 0))
    return all(
        count >= MIN_RUNS and 2 * count > side.size
        for count, side in zip(own, (before, after), strict=True)
    )


def change_interval(
    medians_s: Sequence[float], boundaries: Sequence[int], at: int
) -> tuple[float, float, float]:
    """After over before less 1 at that boundary, with the ends of its 95 % interval."""
    series = np.log(np.asarray(medians_s, dtype=np.float64))
    moved, deviation = level_difference(series, boundaries, at)
    reach = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * deviation
    return math.expm1(moved), math.expm1(moved - reach), math.expm1(moved + reach)
