"""Latency and bandwidth of a cluster's tiers, fitted to collectives that were measured.

The time of a collective is piecewise linear in the latencies a and the inverse rates 1/W: where
the fastest algorithm and protocol stay the same it is a base and so many steps of each tier and
so many bytes over each. So the fit takes the slopes at its latest constants, solves for all of
them at once with non-negative least squares of the relative errors, and repeats until the
algorithms stay the same. The slopes are differences of the model itself: no algorithm is written
twice.

What no sample shows keeps the value that the cluster's file gives.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from harness.errors import ConfigError
from harness.extrapolate import collectives
from harness.extrapolate.cluster import ClusterSpec, NetworkTier
from harness.extrapolate.lookup import CONFIDENCE_SIGMAS
from harness.extrapolate.placement import Span, placed

MAX_ROUNDS = 40
LEAST_RATIO = 1e-3
"""Constants do not fall below this share of their start, so that every rate stays finite."""
STEP = 1e-6
"""Relative step of the slopes; within one linear piece any step gives the same."""
WEIGHT_OF_START = 1e-3
"""Of a constant's start, against one of a sample's relative error: only what no sample shows."""

Floats = NDArray[np.float64]


class Operation(StrEnum):
    """Collectives that can be measured."""

    ALL_GATHER = "all_gather"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_REDUCE = "all_reduce"
    RING_ALL_REDUCE = "ring_all_reduce"
    """An all-reduce with the ring forced, as with NCCL_ALGO=Ring."""
    ALL_TO_ALL = "all_to_all"


_SECONDS: dict[Operation, collectives.Collective] = {
    Operation.ALL_GATHER: collectives.all_gather_s,
    Operation.REDUCE_SCATTER: collectives.reduce_scatter_s,
    Operation.ALL_REDUCE: collectives.all_reduce_s,
    Operation.RING_ALL_REDUCE: collectives.ring_all_reduce_s,
    Operation.ALL_TO_ALL: collectives.all_to_all_s,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCollective:
    """One size of a collective on one group of chips, as it was measured."""

    operation: Operation
    num_chips: int
    num_bytes: float
    """The full, gathered size; of an all-to-all what each chip sends in all."""
    seconds: float
    stride: int = 1
    """Chips from one member to the next, in the order of the cables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierFit:
    """What was found for a tier, and whether the samples show it."""

    name: str
    latency_s: float
    bytes_per_s_per_chip: float
    is_latency_seen: bool
    """Some sample's time depends on the latency; else it is the one of the cluster's file."""
    is_bandwidth_seen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveFit:
    """A cluster with the constants that fit best, and how well they do."""

    cluster: ClusterSpec
    tiers: tuple[TierFit, ...]
    residuals: tuple[float, ...]
    """ln(measured / fitted) of each sample, in their order."""
    spread: float
    """As a ratio: 90 % of a normal distribution with the residuals' deviation lie within it."""

    @property
    def mape(self) -> float:
        """Mean absolute relative error of the fitted times."""
        return float(np.mean(np.abs(np.expm1(-np.array(self.residuals)))))


def fit(measured: Sequence[MeasuredCollective], cluster: ClusterSpec) -> CollectiveFit:
    """The tiers' latencies and bandwidths with which the model is closest to what was measured.

    Args:
        measured: collectives over at least two chips each.
        cluster: where they were measured; its constants are the start.

    Raises:
        ConfigError: naming the sample that cannot be one.
    """
    _check(measured, cluster)
    seconds_of = _model(measured, cluster)
    target = np.array([sample.seconds for sample in measured])
    ratios = np.ones(2 * len(cluster.tiers))
    best_ratios, best_error = ratios, _error(seconds_of(ratios), target)
    damping = 1.0
    for _ in range(MAX_ROUNDS):
        proposed = _solved(seconds_of, best_ratios, target)
        ratios = np.maximum(LEAST_RATIO, best_ratios + damping * (proposed - best_ratios))
        error = _error(seconds_of(ratios), target)
        if error < best_error * (1 - 1e-9):
            best_ratios, best_error, damping = ratios, error, 1.0
        elif damping < 1e-3:
            break
        else:
            damping /= 2  # The fastest algorithms changed on the way.
    fitted = seconds_of(best_ratios)
    slopes = _slopes(seconds_of, best_ratios, fitted)
    is_seen = np.any(slopes > 0, axis=0)
    residuals = np.log(target / fitted)
    found = _with_ratios(cluster, best_ratios)
    freedom = max(1, len(target) - int(is_seen.sum()))
    deviation = float(np.sqrt(np.sum(residuals**2) / freedom))
    return CollectiveFit(
        cluster=found,
        tiers=tuple(
            TierFit(
                name=tier.name,
                latency_s=tier.latency_s,
                bytes_per_s_per_chip=tier.achieved_bytes_per_s_per_chip,
                is_latency_seen=bool(is_seen[place]),
                is_bandwidth_seen=bool(is_seen[len(found.tiers) + place]),
            )
            for place, tier in enumerate(found.tiers)
        ),
        residuals=tuple(float(value) for value in residuals),
        spread=float(np.exp(CONFIDENCE_SIGMAS * deviation)),
    )


def _check(measured: Sequence[MeasuredCollective], cluster: ClusterSpec) -> None:
    if not measured:
        raise ConfigError(
            "collectives: none was measured, so nothing can be fitted. Give at least one sample."
        )
    most = cluster.tiers[-1].chips
    for place, sample in enumerate(measured):
        name = f"collectives[{place}]"
        if not 2 <= sample.num_chips <= most:
            raise ConfigError(
                f"{name}.num_chips: {sample.num_chips} is not between 2 and the {most} chips that "
                f"{cluster.name} joins. Leave the sample out, or correct it."
            )
        for key, value in (("num_bytes", sample.num_bytes), ("seconds", sample.seconds)):
            if not (np.isfinite(value) and value > 0):
                raise ConfigError(
                    f"{name}.{key}: {value!r} is not a finite number greater than 0. "
                    "Leave the sample out, or correct it."
                )


def _with_ratios(cluster: ClusterSpec, ratios: Floats) -> ClusterSpec:
    """The cluster with each latency, then each inverse bandwidth, times its ratio."""
    num_tiers = len(cluster.tiers)
    tiers: list[NetworkTier] = [
        replace(
            tier,
            latency_s=tier.latency_s * float(ratios[place]),
            efficiency=tier.efficiency / float(ratios[num_tiers + place]),
        )
        for place, tier in enumerate(cluster.tiers)
    ]
    return replace(cluster, tiers=tuple(tiers))


def _model(
    measured: Sequence[MeasuredCollective], cluster: ClusterSpec
) -> Callable[[Floats], Floats]:
    """The predicted seconds of all samples, by the ratios of the constants."""
    operations = np.array([sample.operation for sample in measured])
    sizes = np.array([sample.num_chips for sample in measured])
    strides = np.array([sample.stride for sample in measured])
    num_bytes = np.array([sample.num_bytes for sample in measured], np.float64)

    def seconds_of(ratios: Floats) -> Floats:
        changed = _with_ratios(cluster, ratios)
        seconds = np.zeros(len(measured))
        for operation in set(operations):
            chosen = operations == operation
            group = placed(changed, (Span(strides[chosen], sizes[chosen]),))
            seconds[chosen] = _SECONDS[operation](group, num_bytes[chosen])
        return seconds

    return seconds_of


def _slopes(seconds_of: Callable[[Floats], Floats], ratios: Floats, here: Floats) -> Floats:
    """Seconds per ratio, one row per sample; a hundredth of the rounding counts as none."""
    columns = []
    for place in range(len(ratios)):
        moved = ratios.copy()
        moved[place] *= 1 + STEP
        slope = (seconds_of(moved) - here) / (moved[place] - ratios[place])
        columns.append(np.where(slope * ratios[place] > 1e-7 * here, slope, 0.0))
    return np.array(columns).T


def _solved(seconds_of: Callable[[Floats], Floats], ratios: Floats, target: Floats) -> Floats:
    """The ratios that fit best while every sample keeps its algorithm."""
    here = seconds_of(ratios)
    slopes = _slopes(seconds_of, ratios, here)
    base = here - slopes @ ratios
    pull = WEIGHT_OF_START * np.eye(len(ratios))
    rows = np.vstack([slopes / target[:, None], pull])
    wanted = np.concatenate([(target - base) / target, np.full(len(ratios), WEIGHT_OF_START)])
    return np.asarray(nnls(rows, wanted)[0], np.float64)


def _error(seconds: Floats, target: Floats) -> float:
    return float(np.sum((seconds / target - 1) ** 2))
