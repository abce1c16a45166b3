"""Spread: how far apart devices of one kind are that measured the same cases; records in.

A device's ratio is its time over that of the device in the middle, above 1 for a slow one: case by
case over the median of all devices, and over all cases as the geometric mean.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from harness.record import Record, Status
from harness.stats import CONFIDENCE, NORMAL_CONSISTENCY, ratio_interval, student_t

Floats = NDArray[np.float64]

MIN_DEVICES = 4
"""With fewer, the deviation of most devices from the middle says nothing of the one in question."""
FALSE_ALARMS = 0.01
"""Share of fleets of equal devices in which one would be named slow."""
MIN_SLOWNESS = 0.01
"""A device is named slow only if it surely is slower than the middle by more than this share: with
enough cases any two chips differ significantly, and one per cent matters to nobody."""
SIMULATED_FLEETS = 40_000
"""So that the share of false alarms is met within 0.1 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRun:
    """What one device measured."""

    label: str
    """What tells the devices apart for people: their number, with the host where there are more."""
    run_id: str
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSpread:
    """One case on every device."""

    case_id: str
    ratios: tuple[float, ...]
    """Time over the median of all devices, in their order."""
    z_scores: tuple[float, ...]
    """Robust: deviations of the ratio's logarithm; empty with fewer than MIN_DEVICES."""
    slowest: str
    fastest: str
    spread: float
    """Time of the slowest over that of the fastest, less 1."""
    low: float
    high: float
    """The 95 % interval of the spread, from that of both medians."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpeed:
    """One device over all cases."""

    label: str
    run_id: str
    ratio: float
    """Geometric mean of its ratios: 1.03 takes 3 % longer than the device in the middle."""
    low: float
    high: float
    """Its 95 % interval, from how its ratios differ between cases."""
    z_score: float | None
    """Robust; None with fewer than MIN_DEVICES."""
    num_slowest: int
    """Cases in which it was the slowest of all."""
    is_slow: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Several devices held against each other, by the cases that all of them have a time of."""

    sweep: str
    devices: tuple[DeviceSpeed, ...]
    cases: tuple[CaseSpread, ...]
    slowest: str
    fastest: str
    spread: float
    """Ratio of the slowest over that of the fastest, less 1. A little too wide where devices are
    nearly equal, since noise then decides which two these are."""
    low: float
    high: float
    critical_z: float | None
    """Above it a device may be named slow; exceeded by one of so many equal devices in one per cent
    of fleets."""

    @property
    def slow(self) -> tuple[DeviceSpeed, ...]:
        """The devices named slow, slowest first."""
        return tuple(
            sorted((one for one in self.devices if one.is_slow), key=lambda one: -one.ratio)
        )

    @property
    def middle(self) -> DeviceSpeed:
        """The device nearest to the middle."""
        return min(self.devices, key=lambda one: abs(math.log(one.ratio)))

    def of_run(self, run_id: str) -> DeviceSpeed | None:
        """The device that the run was of."""
        return next((one for one in self.devices if one.run_id == run_id), None)


def spread_of(runs: Sequence[DeviceRun], sweep: str = "") -> Spread | None:
    """The devices held against each other, or None with fewer than two or no case in common."""
    samples = [_samples(run.records) for run in runs]
    shared = [case for case in samples[0] if all(case in of for of in samples)] if samples else []
    if len(runs) < 2 or not shared:
        return None
    medians = np.array([[np.median(of[case]) for case in shared] for of in samples])
    logs = np.log(medians)
    deviations = logs - np.median(logs, axis=0)
    means = deviations.mean(axis=1)
    means -= np.median(means)
    slowest, fastest = int(np.argmax(means)), int(np.argmin(means))
    scores = _z_scores(means) if len(runs) >= MIN_DEVICES else None
    critical_z = critical_score(len(runs)) if scores is not None else None
    cases = tuple(
        _case_spread(case, deviations[:, place], [of[case] for of in samples], runs)
        for place, case in enumerate(shared)
    )
    # One case has no spread between cases: its own samples say how sure it is.
    if len(shared) > 1:
        halves = [_half_width(row - row.mean()) for row in deviations]
        apart = _half_width(deviations[slowest] - deviations[fastest])
    else:
        middle = int(np.argmin(np.abs(means)))
        halves = [_ratio_half_width(of[shared[0]], samples[middle][shared[0]]) for of in samples]
        apart = _ratio_half_width(samples[slowest][shared[0]], samples[fastest][shared[0]])
    difference = float(means[slowest] - means[fastest])
    return Spread(
        sweep=sweep,
        devices=tuple(
            DeviceSpeed(
                label=run.label,
                run_id=run.run_id,
                ratio=math.exp(means[place]),
                low=math.exp(means[place] - halves[place]),
                high=math.exp(means[place] + halves[place]),
                z_score=None if scores is None else float(scores[place]),
                num_slowest=sum(case.slowest == run.label for case in cases),
                is_slow=scores is not None
                and critical_z is not None
                and bool(scores[place] > critical_z)
                and math.exp(means[place] - halves[place]) > 1 + MIN_SLOWNESS,
            )
            for place, run in enumerate(runs)
        ),
        cases=cases,
        slowest=runs[slowest].label,
        fastest=runs[fastest].label,
        spread=math.expm1(difference),
        low=math.expm1(max(difference - apart, 0.0)),
        high=math.expm1(difference + apart),
        critical_z=critical_z,
    )


def _samples(records: Sequence[Record]) -> dict[str, tuple[float, ...]]:
    """The steady samples of every case that has a time; its last record counts."""
    last = {record.case.id: record for record in records}
    return {
        case: record.measurement.steady_samples_s
        for case, record in last.items()
        if record.status is Status.OK and record.measurement is not None
    }


def _case_spread(
    case: str,
    deviations: Floats,
    samples: Sequence[tuple[float, ...]],
    runs: Sequence[DeviceRun],
) -> CaseSpread:
    slowest, fastest = int(np.argmax(deviations)), int(np.argmin(deviations))
    low, high = ratio_interval(samples[slowest], samples[fastest])
    scores = _z_scores(deviations) if len(runs) >= MIN_DEVICES else np.empty(0)
    return CaseSpread(
        case_id=case,
        ratios=tuple(float(ratio) for ratio in np.exp(deviations)),
        z_scores=tuple(float(score) for score in scores),
        slowest=runs[slowest].label,
        fastest=runs[fastest].label,
        spread=math.expm1(float(deviations[slowest] - deviations[fastest])),
        low=low - 1,
        high=high - 1,
    )


def _z_scores(values: Floats) -> Floats:
    """Deviations from the median in units of the scaled median absolute deviation.

    Source: Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993), section 3.
    """
    distance = values - np.median(values)
    mad = NORMAL_CONSISTENCY * np.median(np.abs(distance))
    # Devices that are equal to the last digit, as fake ones without noise, are all in the middle.
    return distance / mad if mad > 0 else np.zeros_like(distance)


def _half_width(values: Floats) -> float:
    """Half the 95 % interval of the mean of at least two values, by Student's t."""
    normal = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    error = float(np.std(values, ddof=1)) / math.sqrt(values.size)
    return student_t(normal, values.size - 1) * error


def _ratio_half_width(first: Sequence[float], second: Sequence[float]) -> float:
    """Half the 95 % interval of the logarithm of the ratio of two medians."""
    low, high = ratio_interval(first, second)
    return math.log(high / low) / 2


@lru_cache(maxsize=64)
def critical_score(num_devices: int, false_alarms: float = FALSE_ALARMS) -> float:
    """The highest robust z-score that equal devices reach in all but that share of fleets.

    Simulated with normal deviations, since the median absolute deviation of a few devices is far
    from normal: 3.5, which is usual for outliers, would name one in 8 of 100 fleets of eight.
    """
    generator = np.random.default_rng(num_devices)
    values = generator.normal(size=(SIMULATED_FLEETS, num_devices))
    distance = values - np.median(values, axis=1, keepdims=True)
    mads = NORMAL_CONSISTENCY * np.median(np.abs(distance), axis=1)
    return float(np.quantile(distance.max(axis=1) / mads, 1 - false_alarms))
