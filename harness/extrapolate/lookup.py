"""The time of a problem on one chip, best source first: measured, from other sizes, roofline.

Measured      the fastest correct implementation's median, with its interval.
Interpolated  from other sizes of the same op, type and mode. A surface
                  t = a + b flops/roof + c bytes/roof,   a, b, c >= 0
              is fitted to the relative errors of the measured times, held between the largest
              measured time of a problem smaller in every axis and the smallest of a larger one,
              and never faster than the measured roof. Each step keeps time growing with size, so
              a larger problem is never predicted to be faster. With fewer than three sizes the
              surface is the roof's time over the median efficiency.
Roofline      max(flops / rate, bytes / rate) + a fixed time per kernel, with the measured roofs
              where there are some, else what was published as achieved, else a share of the data
              sheet's peak (`priors`).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import nnls

from harness.device.chip import ChipSpec
from harness.errors import ConfigError
from harness.extrapolate.priors import (
    BEST_SHARE_OF_PEAK,
    FIXED_S_PER_KERNEL,
    MEMORY_SHARE_OF_PEAK,
    ROOF_TO_KERNEL,
    matrix_share,
)
from harness.projection import Source
from harness.record import Record, Status
from harness.roofline import Bound, Roofline, data_sheet_roofline
from harness.roofs import HOT, measured_roofs
from harness.stats import Summary, summarize
from kernels.op import Cost, Problem

CONFIDENCE_SIGMAS = 1.645
"""Standard deviations of a two-sided 90 % interval of a normal distribution."""
LEAST_INTERPOLATION_SPREAD = 1.05
"""Sizes between the measured ones may hit a tile boundary that none of them shows; assumed."""
SPREAD_PER_DOUBLING_OUTSIDE = 1.03
"""What the spread is multiplied by per doubling of the axis farthest outside the measured sizes;
assumed."""
MIN_SIZES_FOR_SURFACE = 3

CostFunction = Callable[[Problem], Cost]


@dataclass(frozen=True, slots=True)
class OpTime:
    """A time, the interval it lies in, and where it comes from."""

    seconds: float
    low: float
    high: float
    source: Source


@dataclass(frozen=True, slots=True)
class _Point:
    """One measured size of an op."""

    problem: Problem
    cost: Cost
    seconds: float
    low: float
    high: float


@dataclass(slots=True)
class _Surface:
    """What is known of one op, type, mode and variant, from its measured sizes."""

    points: tuple[_Point, ...]
    roof: Roofline
    coefficients: tuple[float, float, float] = (0.0, 0.0, 0.0)
    spread: float = LEAST_INTERPOLATION_SPREAD

    def __post_init__(self) -> None:
        seconds = np.array([point.seconds for point in self.points])
        if len(self.points) >= MIN_SIZES_FOR_SURFACE:
            terms = np.array([self._terms(point.cost) for point in self.points])
            # Rows over their own time, so that each size counts alike, short or long.
            found, _ = nnls(terms / seconds[:, None], np.ones(len(self.points)))
            fitted = terms @ found
            self.coefficients = (float(found[0]), float(found[1]), float(found[2]))
            error = float(np.std(np.log(seconds / np.maximum(fitted, 1e-12))))
        else:
            # One or two sizes: their median share of the roof holds for all.
            ratio = [
                point.seconds / attainable
                for point in self.points
                if (attainable := self._attainable(point)) is not None
            ]
            share = float(np.median(ratio)) if ratio else 1.0
            self.coefficients = (0.0, share, share)
            error = math.log(ROOF_TO_KERNEL.spread) / CONFIDENCE_SIGMAS
        self.spread = max(LEAST_INTERPOLATION_SPREAD, math.exp(CONFIDENCE_SIGMAS * error))

    def _attainable(self, point: _Point) -> float | None:
        return self.roof.attainable_time_s(point.cost, point.problem.dtype)

    def _terms(self, cost: Cost) -> tuple[float, float, float]:
        dtype = self.points[0].problem.dtype
        peak, bandwidth = self.roof.peak(dtype), self.roof.bytes_per_s
        return (
            1e-6,
            cost.flops / peak if peak else 0.0,
            cost.num_bytes / bandwidth if bandwidth else 0.0,
        )

    def time(self, problem: Problem, cost: Cost) -> OpTime:
        terms = self._terms(cost)
        if len(self.points) >= MIN_SIZES_FOR_SURFACE:
            seconds = sum(a * b for a, b in zip(self.coefficients, terms, strict=True))
        else:
            seconds = max(a * b for a, b in zip(self.coefficients, terms, strict=True))
        # Where measured times are not in order themselves, the larger problem's floor wins.
        least = max((p.seconds for p in self.points if _is_within(p, problem)), default=0.0)
        most = min((p.seconds for p in self.points if _covers(p, problem)), default=math.inf)
        seconds = max(min(seconds, most), least)
        roof_s = self.roof.attainable_time_s(cost, problem.dtype) or 0.0
        seconds = max(seconds, roof_s)
        doublings_outside = self._doublings_outside(problem)
        spread = self.spread * SPREAD_PER_DOUBLING_OUTSIDE**doublings_outside
        low, high = max(roof_s, seconds / spread), seconds * spread
        source = Source.EXTRAPOLATED if doublings_outside > 0 else Source.INTERPOLATED
        return OpTime(seconds, low, high, source)

    def _doublings_outside(self, problem: Problem) -> float:
        """How far the problem's farthest axis is from the measured sizes, in doublings."""
        farthest = 0.0
        for index, (_, size) in enumerate(problem.axes):
            measured = [point.problem.axes[index][1] for point in self.points]
            above, below = size / max(measured), min(measured) / size
            farthest = max(farthest, math.log2(above), math.log2(below))
        return farthest


def _is_within(point: _Point, problem: Problem) -> bool:
    """The point is no larger than the problem in any axis."""
    return all(a <= b for (_, a), (_, b) in zip(point.problem.axes, problem.axes, strict=True))


def _covers(point: _Point, problem: Problem) -> bool:
    return all(a >= b for (_, a), (_, b) in zip(point.problem.axes, problem.axes, strict=True))


def _best(records: Iterable[Record]) -> Mapping[Problem, Summary]:
    """The fastest correct implementation of each problem; a case run again counts by its last.

    In a step the data of an op was written long before, so a case with a hot cache is none of it.
    """
    last = {record.case.id: record for record in records}
    best: dict[Problem, Summary] = {}
    for record in last.values():
        if record.status is not Status.OK or record.measurement is None:
            continue
        if record.case.cache == HOT:
            continue
        summary = summarize(record.measurement.steady_samples_s)
        held = best.get(record.case.problem)
        if summary.median > 0 and (held is None or summary.median < held.median):
            best[record.case.problem] = summary
    return best


@dataclass(slots=True)
class Lookup:
    """Times of problems on one chip, from its records and its data sheet."""

    chip: ChipSpec
    cost: CostFunction
    records: Sequence[Record] = ()
    roofs: Roofline | None = None
    """The measured roofs where they are known already; else those of the records."""
    roof: Roofline = field(init=False)
    """The measured roof; empty where nothing was measured."""
    sheet: Roofline = field(init=False)
    _times: dict[Problem, OpTime] = field(init=False, default_factory=dict)
    _surfaces: dict[str, _Surface] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.roof = measured_roofs(self.records) if self.roofs is None else self.roofs
        self.sheet = data_sheet_roofline(self.chip)
        groups: dict[str, list[_Point]] = {}
        for problem, summary in _best(self.records).items():
            groups.setdefault(problem.group, []).append(
                _Point(problem, self.cost(problem), summary.median, summary.low, summary.high)
            )
            self._times[problem] = OpTime(
                summary.median, summary.low, summary.high, Source.MEASURED
            )
        limits = self._limits()
        for group, points in groups.items():
            self._surfaces[group] = _Surface(tuple(points), limits)

    def _limits(self) -> Roofline:
        """The measured roof, with the data sheet's rates where no roof was measured."""
        rates = dict(self.sheet.flops_per_s) | dict(self.roof.flops_per_s)
        bandwidth = self.roof.bytes_per_s or self.sheet.bytes_per_s
        return Roofline(title="limits", flops_per_s=tuple(rates.items()), bytes_per_s=bandwidth)

    def time(self, problem: Problem) -> OpTime:
        """The time of the problem.

        Raises:
            ConfigError: when no rate that it needs is measured, published or on the data sheet.
        """
        known = self._times.get(problem)
        if known is None:
            known = self._estimated(problem)
            self._times[problem] = known
        return known

    def _estimated(self, problem: Problem) -> OpTime:
        cost = self.cost(problem)
        surface = self._surfaces.get(problem.group)
        if surface is not None:
            return surface.time(problem, cost)
        memory_s, memory_spread = self._memory_time(problem, cost)
        seconds, spread = memory_s, memory_spread
        if self._limits().bound(cost, problem.dtype) is not Bound.MEMORY:
            matrix_s, matrix_spread = self._matrix_time(problem, cost)
            if matrix_s > memory_s:
                seconds, spread = matrix_s, matrix_spread
        fixed = FIXED_S_PER_KERNEL
        return OpTime(
            seconds + fixed.value,
            seconds / spread + fixed.value / fixed.spread,
            seconds * spread + fixed.value * fixed.spread,
            Source.ROOFLINE,
        )

    def _memory_time(self, problem: Problem, cost: Cost) -> tuple[float, float]:
        if self.roof.bytes_per_s is not None:
            rate = self.roof.bytes_per_s * ROOF_TO_KERNEL.value
            return cost.num_bytes / rate, ROOF_TO_KERNEL.spread
        if self.sheet.bytes_per_s is not None:
            rate = self.sheet.bytes_per_s * MEMORY_SHARE_OF_PEAK.value
            return cost.num_bytes / rate, MEMORY_SHARE_OF_PEAK.spread
        raise ConfigError(
            f"chip.memory_bandwidth_gb_per_s: that of {self.chip.name} is n/a, so {problem.id} has "
            f"no time. Write it into configs/chip/{self.chip.name}.yaml, or measure the chip "
            "(`chipscale run`)."
        )

    def _matrix_time(self, problem: Problem, cost: Cost) -> tuple[float, float]:
        dtype = problem.dtype
        share, is_of_peak = matrix_share(problem)
        measured = self.roof.peak(dtype)
        if measured is not None:
            return cost.flops / (measured * ROOF_TO_KERNEL.value), ROOF_TO_KERNEL.spread
        peak = self.sheet.peak(dtype)
        published = self.chip.achievable(dtype)
        if published is None and dtype == "fp16":
            published = self.chip.achievable("bf16")  # One matrix unit serves both at one rate.
        if peak is not None and is_of_peak:
            rate, spread = peak * share.value, share.spread
            if published is not None:
                # Where the best product is far below the peak, attention is as well.
                rate = min(rate, published * share.value / BEST_SHARE_OF_PEAK.value)
            return cost.flops / rate, spread
        if published is not None:
            return cost.flops / (published * share.value), share.spread
        if peak is not None:
            rate = peak * BEST_SHARE_OF_PEAK.value * share.value
            return cost.flops / rate, share.spread * BEST_SHARE_OF_PEAK.spread
        raise ConfigError(
            f"chip.peak_tflops.{dtype}: that of {self.chip.name} is n/a, so {problem.id} has no "
            f"time. Measure the chip with {dtype} products (`chipscale run`), or set "
            f"parallel.dtype to one of {self._known_dtypes()}."
        )

    def _known_dtypes(self) -> str:
        known = [name for name, _ in (*self.roof.flops_per_s, *self.sheet.flops_per_s)]
        return ", ".join(sorted(set(known) & {"bf16", "fp16", "fp32"})) or "none; no rate is known"
