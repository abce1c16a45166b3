"""The time of a problem on one chip, best source first: measured, from other sizes, roofline.

Measured      the fastest correct implementation's median, with its interval.
Interpolated  from other sizes of the same op, type and mode. A surface
                  t = a + b flops/roof + c bytes/roof + d waves,   a, b, c, d >= 0
              is fitted to the relative errors of the measured times, held between the largest
              measured time of a problem smaller in every axis and the smallest of a larger one,
              and never faster than the measured roof. Waves are what a product's last, partly
              filled wave of tiles costs, which grows with its depth alone. Each step keeps time
              growing with size, so a larger problem is never predicted to be faster. With fewer
              than three sizes the surface is the roof's time over the median efficiency.
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
from harness.extrapolate.constants import PRIOR, SPREADS, Constants
from harness.extrapolate.priors import (
    BEST_SHARE_OF_PEAK,
    FIXED_S_PER_KERNEL,
    MEMORY_SHARE_OF_PEAK,
    ROOF_TO_KERNEL,
)
from harness.projection import Source
from harness.record import Record, Status
from harness.roofline import Bound, Roofline, data_sheet_roofline
from harness.roofs import HOT, measured_roofs
from harness.stats import Summary, summarize
from harness.workload.step import SCAN, WorkItem
from kernels.op import Cost, Mode, Problem

CONFIDENCE_SIGMAS = 1.645
"""Standard deviations of a two-sided 90 % interval of a normal distribution."""
LEAST_INTERPOLATION_SPREAD = 1.05
"""Sizes between the measured ones may hit a tile boundary that none of them shows; assumed."""
SPREAD_PER_DOUBLING_OUTSIDE = 1.03
"""What the spread is multiplied by per doubling of the axis farthest outside the measured sizes;
assumed."""
MIN_SIZES_FOR_SURFACE = 3

WITHOUT_PRODUCTS = frozenset({"moe_route", "quantize", "sampling"})
"""Ops of vector arithmetic, whose FLOPs are few but not always few enough to be memory bound."""

CostFunction = Callable[[Problem], Cost]

ATTENTION_OPS = frozenset(
    {
        "attention",
        "mla_decode",
        "mla_prefill",
        "paged_decode",
        "paged_prefill",
        "varlen_attention",
        "window_attention",
    }
)
"""Ops whose two products per tile are joined by a softmax, which no plain product waits for."""
PRODUCTS = frozenset({"gemm", "scaled_gemm", "grouped_gemm"})
OUTPUTS_OF_A_WAVE = 4.2e6
"""Elements of output of one wave: 132 multiprocessors of an H100 with 128 x 256 each; the surface
finds how many of them a product loses."""
PERMUTING_OPS = frozenset({"moe_permute", "moe_unpermute", "moe_route"})
NARROW_TYPES = ("fp8", "int8", "fp4")

ROOF, MEMORY, BEST = "roof_to_kernel", "memory_share_of_products", "best_share_of_peak"
"""Names of what times rest on that is no calibrated constant."""
SPREAD_OF: Mapping[str, float] = {
    **SPREADS,
    ROOF: ROOF_TO_KERNEL.spread,
    MEMORY: MEMORY_SHARE_OF_PEAK.spread,
    BEST: BEST_SHARE_OF_PEAK.spread,
}
"""The 90 % ratio of each before anything is calibrated."""


def num_outputs(problem: Problem) -> float:
    """Elements that a product writes, of its gradients those of the gradient."""
    sizes = dict(problem.axes)
    if problem.op == "grouped_gemm":
        rows, columns, depth = sizes["R"], sizes["N"], sizes["K"]
        weights = sizes["E"] * columns * depth
    else:
        rows, columns, depth = sizes["M"], sizes["N"], sizes["K"]
        weights = columns * depth
    return {Mode.DGRAD: rows * depth, Mode.WGRAD: weights}.get(problem.mode, rows * columns)


def share_of_role(item: WorkItem, constants: Constants) -> float:
    """What a product reaches of its rate where it stands for work that no op does as such."""
    if item.problem.op not in PRODUCTS:
        return 1.0
    if item.num_experts:
        return constants.grouped_share
    return constants.scan_share if item.role.startswith(SCAN) else 1.0


@dataclass(frozen=True, slots=True)
class OpTime:
    """A time, the interval it lies in, and where it comes from."""

    seconds: float
    low: float
    high: float
    source: Source
    causes: tuple[str, ...] = ()
    """Of a time from rates, the constants that it is in proportion or in inverse proportion to."""


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
    coefficients: tuple[float, ...] = ()
    spread: float = LEAST_INTERPOLATION_SPREAD

    def __post_init__(self) -> None:
        seconds = np.array([point.seconds for point in self.points])
        if len(self.points) >= MIN_SIZES_FOR_SURFACE:
            terms = np.array([self._terms(point.problem, point.cost) for point in self.points])
            # Rows over their own time, so that each size counts alike, short or long.
            found, _ = nnls(terms / seconds[:, None], np.ones(len(self.points)))
            fitted = terms @ found
            self.coefficients = tuple(float(each) for each in found)
            error = float(np.std(np.log(seconds / np.maximum(fitted, 1e-12))))
        else:
            # One or two sizes: their median share of the roof holds for all.
            ratio = [
                point.seconds / attainable
                for point in self.points
                if (attainable := self._attainable(point)) is not None
            ]
            share = float(np.median(ratio)) if ratio else 1.0
            self.coefficients = (0.0, share, share, 0.0)
            error = math.log(ROOF_TO_KERNEL.spread) / CONFIDENCE_SIGMAS
        self.spread = max(LEAST_INTERPOLATION_SPREAD, math.exp(CONFIDENCE_SIGMAS * error))

    def _attainable(self, point: _Point) -> float | None:
        return self.roof.attainable_time_s(point.cost, point.problem.dtype)

    def _terms(self, problem: Problem, cost: Cost) -> tuple[float, float, float, float]:
        peak, bandwidth = self.roof.peak(problem.dtype), self.roof.bytes_per_s
        last_wave = 0.0
        if peak and problem.op in PRODUCTS:
            last_wave = cost.flops / num_outputs(problem) * OUTPUTS_OF_A_WAVE / peak
        return (
            1e-6,
            cost.flops / peak if peak else 0.0,
            cost.num_bytes / bandwidth if bandwidth else 0.0,
            last_wave,
        )

    def time(self, problem: Problem, cost: Cost) -> OpTime:
        terms = self._terms(problem, cost)
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
    constants: Constants = PRIOR
    """How well the software uses the chip, for what was not measured."""
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
        seconds, *causes = self._memory_time(problem, cost)
        if self._is_matrix_bound(problem, cost):
            matrix_s, *matrix_causes = self._matrix_time(problem, cost)
            if matrix_s > seconds:
                seconds, causes = matrix_s, matrix_causes
        spread = math.exp(math.fsum(abs(math.log(SPREAD_OF[name])) for name in causes))
        fixed = FIXED_S_PER_KERNEL
        return OpTime(
            seconds + fixed.value,
            seconds / spread + fixed.value / fixed.spread,
            seconds * spread + fixed.value * fixed.spread,
            Source.ROOFLINE,
            tuple(causes),
        )

    def _is_matrix_bound(self, problem: Problem, cost: Cost) -> bool:
        """Not bound by memory; an op without products is, where no rate of its type is known."""
        if problem.op in WITHOUT_PRODUCTS and self._limits().peak(problem.dtype) is None:
            return False
        return self._limits().bound(cost, problem.dtype) is not Bound.MEMORY

    def _memory_time(self, problem: Problem, cost: Cost) -> tuple[float, *tuple[str, ...]]:
        """Seconds at the memory's rate, and the names of what they rest on."""
        if self.roof.bytes_per_s is not None:
            return cost.num_bytes / (self.roof.bytes_per_s * ROOF_TO_KERNEL.value), ROOF
        if self.sheet.bytes_per_s is None:
            raise ConfigError(
                f"chip.memory_bandwidth_gb_per_s: that of {self.chip.name} is n/a, so {problem.id} "
                f"has no time. Write it into configs/chip/{self.chip.name}.yaml, or measure the "
                "chip (`chipscale run`)."
            )
        seconds = cost.num_bytes / self.sheet.bytes_per_s
        constants = self.constants
        if problem.op in PRODUCTS or problem.op in ATTENTION_OPS:
            return seconds / MEMORY_SHARE_OF_PEAK.value, MEMORY
        if problem.op == "quantize":
            factor = constants.quantize_factor / MEMORY_SHARE_OF_PEAK.value
            return seconds * factor, "quantize_factor"
        name = "permute_share" if problem.op in PERMUTING_OPS else "memory_share"
        return seconds / getattr(constants, name), name

    def _matrix_time(self, problem: Problem, cost: Cost) -> tuple[float, *tuple[str, ...]]:
        """Seconds at the matrix unit's rate, and the names of what they rest on."""
        dtype, constants = problem.dtype, self.constants
        measured = self.roof.peak(dtype)
        if measured is not None:
            return cost.flops / (measured * ROOF_TO_KERNEL.value), ROOF
        best, *causes = self._best_rate(problem)
        if problem.op in ATTENTION_OPS:
            # Where the best product is far below the peak, attention is as well.
            peak = self.sheet.peak(dtype) or best / BEST_SHARE_OF_PEAK.value
            rate = min(peak, best / BEST_SHARE_OF_PEAK.value)
            name = "attention_backward_share"
            if problem.mode is Mode.FORWARD:
                name = "attention_forward_share"
            return cost.flops / (rate * getattr(constants, name)), name, *causes
        narrow = dtype in NARROW_TYPES
        name = "matrix_share_8bit" if narrow else "matrix_share"
        seconds = cost.flops / (best * getattr(constants, name))
        if problem.op in PRODUCTS:
            half_wave = constants.half_wave_outputs_8bit if narrow else constants.half_wave_outputs
            seconds *= 1 + half_wave / num_outputs(problem)
        if problem.op == "grouped_gemm":
            return seconds / constants.grouped_share, name, "grouped_share", *causes
        return seconds, name, *causes

    def _best_rate(self, problem: Problem) -> tuple[float, *tuple[str, ...]]:
        """The best product of that type published for the chip, or a share of its peak."""
        dtype = problem.dtype
        published = self.chip.achievable(dtype)
        if published is None and dtype == "fp16":
            published = self.chip.achievable("bf16")  # One matrix unit serves both at one rate.
        if published is not None:
            return (published,)
        peak = self.sheet.peak(dtype)
        if peak is not None:
            return peak * BEST_SHARE_OF_PEAK.value, BEST
        raise ConfigError(
            f"chip.peak_tflops.{dtype}: that of {self.chip.name} is n/a, so {problem.id} has no "
            f"time. Measure the chip with {dtype} products (`chipscale run`), or set "
            f"parallel.dtype to one of {self._known_dtypes()}."
        )

    def _known_dtypes(self) -> str:
        known = [name for name, _ in (*self.roof.flops_per_s, *self.sheet.flops_per_s)]
        return ", ".join(sorted(set(known) & {"bf16", "fp16", "fp32"})) or "none; no rate is known"
