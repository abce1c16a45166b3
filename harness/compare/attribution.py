"""What makes one op slower on one chip than on another: causes that add up, in no order.

An op's time on a chip is written as

    t = l + (a / e) f

with `l` the launch, `a` the time that the chip's measured roofs allow for its work, `e` the
efficiency, which is what is left, and `f` the factor by which a slower implementation runs in place
of one that is missing. The difference of the products of two chips is taken apart by the
logarithmic mean L: with m = (a / e) f,

    m2 - m1 = L(m1, m2) (ln a2/a1 + ln e1/e2 + ln f2/f1),    L(x, y) = (y - x) / ln(y / x)

which is exact, leaves no remainder, treats both chips alike and adds up over ops. Where the two
chips are bound by different roofs, `ln a2/a1` is split between the two rates by the mean over both
orders of changing them (Shapley's value of two).

Source: Ang 2005, The LMDI approach to decomposition analysis: a practical guide, Energy Policy 33,
equations 3 to 5; Shorrocks 2013, Decomposition procedures for distributional analysis: a unified
framework based on the Shapley value, Journal of Economic Inequality 11, section 3.
"""

import math
from dataclasses import dataclass

from harness.comparison import Cause
from harness.roofline import Roofline, is_memory_bound
from harness.roofs import LAUNCH
from kernels.op import Cost

NEARLY_EQUAL = 1e-6
"""Below it the logarithmic mean is taken from its series, whose error is then under 1e-13."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """A chip's measured roofs for one type; what was not measured is None."""

    flops_per_s: float | None
    bytes_per_s: float | None
    launch_s: float | None = None
    """Of an empty launch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpOnChip:
    """One op on one chip."""

    seconds: float
    rates: Rates
    fallback: float = 1.0
    """Its time over that of the implementation which is missing; 1 where none is."""


def rates_of(roofs: Roofline, dtype: str) -> Rates:
    """The measured roofs of a chip for that type."""
    launch = roofs.roof(LAUNCH)
    return Rates(
        flops_per_s=roofs.peak(dtype),
        bytes_per_s=roofs.bytes_per_s,
        launch_s=None if launch is None else launch.value,
    )


def attainable_s(cost: Cost, flops_per_s: float | None, bytes_per_s: float | None) -> float | None:
    """The least time at those rates; None where one that could bind is unknown."""
    if bytes_per_s is None:
        return None
    memory_s = cost.num_bytes / bytes_per_s
    if is_memory_bound(cost):
        return memory_s or None
    if flops_per_s is None:
        return None
    return max(cost.flops / flops_per_s, memory_s)


def log_mean(x: float, y: float) -> float:
    """The logarithmic mean of two positive numbers: between their geometric mean and their mean."""
    log_ratio = math.log(y / x)
    if abs(log_ratio) < NEARLY_EQUAL:
        return x * (1 + log_ratio / 2 + log_ratio**2 / 6)
    return (y - x) / log_ratio


def attribute(cost: Cost, first: OpOnChip, second: OpOnChip) -> dict[Cause, float]:
    """Seconds by cause that add up to the second time less the first.

    Both times are positive. Without a roof on either chip all of it is unexplained but what a
    missing implementation costs.
    """
    firsts = attainable_s(cost, first.rates.flops_per_s, first.rates.bytes_per_s)
    seconds = attainable_s(cost, second.rates.flops_per_s, second.rates.bytes_per_s)
    launches = [0.0, 0.0]
    if firsts is not None and seconds is not None:
        launches = _launches((first, second), (firsts, seconds))
    work_1, work_2 = first.seconds - launches[0], second.seconds - launches[1]
    mean = log_mean(work_1, work_2)
    found = {
        Cause.LAUNCH: launches[1] - launches[0],
        Cause.FALLBACK: mean * math.log(second.fallback / first.fallback),
    }
    rest = math.log(work_2 / work_1) - math.log(second.fallback / first.fallback)
    if firsts is None or seconds is None:
        found[Cause.UNEXPLAINED] = mean * rest
        return found
    matrix, memory = _rate_shares(cost, first.rates, second.rates)
    found[Cause.MATRIX_RATE] = mean * matrix
    found[Cause.BANDWIDTH] = mean * memory
    # What neither the rates nor the fallback tell is how well the roofs are used.
    efficiency = mean * (rest - matrix - memory)
    share = _matrix_share(cost, first.rates, second.rates)
    found[Cause.MATRIX_EFFICIENCY] = share * efficiency
    found[Cause.MEMORY_EFFICIENCY] = (1 - share) * efficiency
    return found


def _launches(ops: tuple[OpOnChip, OpOnChip], attainable: tuple[float, float]) -> list[float]:
    """Of each time what an empty launch explains; nothing unless it was measured on both."""
    if any(op.rates.launch_s is None for op in ops):
        return [0.0, 0.0]
    return [
        launch_part_s(op.seconds, roof_s, op.rates.launch_s or 0.0)
        for op, roof_s in zip(ops, attainable, strict=True)
    ]


def launch_part_s(seconds: float, roof_s: float, launch_s: float) -> float:
    """What an empty launch explains of a time: no more than the time is above its roof."""
    return min(launch_s, max(seconds - roof_s, 0.0))


def fallback_factor(cost: Cost, slower_s: float, fastest_s: float, rates: Rates) -> float:
    """How much slower one implementation is than another on one chip, the launch left out."""
    roof_s = attainable_s(cost, rates.flops_per_s, rates.bytes_per_s)
    launch_s = rates.launch_s if roof_s is not None and rates.launch_s is not None else 0.0
    slower, fastest = (
        seconds - launch_part_s(seconds, roof_s or 0.0, launch_s)
        for seconds in (slower_s, fastest_s)
    )
    return max(1.0, slower / fastest)


def _rate_shares(cost: Cost, first: Rates, second: Rates) -> tuple[float, float]:
    """Logarithms by which the attainable time grows with the matrix rate and with the bandwidth.

    Each rate is changed before and after the other one, and the mean of both is taken.
    """

    def log_attainable(matrix: Rates, memory: Rates) -> float:
        found = attainable_s(cost, matrix.flops_per_s, memory.bytes_per_s)
        assert found is not None, "both chips have a roof"
        return math.log(found)

    both_1, both_2 = log_attainable(first, first), log_attainable(second, second)
    matrix_only, memory_only = log_attainable(second, first), log_attainable(first, second)
    matrix = (matrix_only - both_1 + both_2 - memory_only) / 2
    memory = (memory_only - both_1 + both_2 - matrix_only) / 2
    return matrix, memory


def _matrix_share(cost: Cost, first: Rates, second: Rates) -> float:
    """1 where the matrix rate binds on both chips, 0 where it binds on neither, else a half."""
    return sum(_is_matrix_bound(cost, rates) for rates in (first, second)) / 2


def _is_matrix_bound(cost: Cost, rates: Rates) -> bool:
    if is_memory_bound(cost) or rates.flops_per_s is None or rates.bytes_per_s is None:
        return False
    return cost.flops / rates.flops_per_s > cost.num_bytes / rates.bytes_per_s
