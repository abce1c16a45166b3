"""What the inputs of a goodput leave open, as its interval.

Each group of inputs is put at its worse and its better end with the others as they are; groups are
independent, so their effects add as squares.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

from harness.extrapolate.cluster import ClusterSpec, Reliability
from harness.extrapolate.goodput import goodput
from harness.projection import Goodput, Interval

FAILURE_SPREAD = 1.7
"""How far the rate of failures may be off: two research clusters of A100 had 29,500 and 82,000
chip-hours between failures (Kokolis et al., arXiv 2410.21680), Llama 3 had 50,700."""
TIME_SPREAD = 2.0
"""Of the times to detect, restart and write a checkpoint; assumed."""
STALL_SPREAD = 4.0
"""Of the rate of stalls: the logs of MLPerf Training v5.0 on 2,432 and 8,192 chips differ by
more."""


def goodput_with_interval(
    cluster: ClusterSpec,
    *,
    num_chips: int,
    state_bytes: float,
    step_s: float,
    num_replicas: int,
    idle_chips: int = 0,
) -> Goodput:
    """The same, with what its inputs leave open; they are independent and add as squares.

    Where the spare hosts follow from a share of the time, they follow other rates as well.
    """

    def share(other: ClusterSpec) -> float:
        return goodput(
            other,
            num_chips=num_chips,
            state_bytes=state_bytes,
            step_s=step_s,
            num_replicas=num_replicas,
            idle_chips=idle_chips,
        ).share

    found = goodput(
        cluster,
        num_chips=num_chips,
        state_bytes=state_bytes,
        step_s=step_s,
        num_replicas=num_replicas,
        idle_chips=idle_chips,
    )
    ends = [(share(worse), share(better)) for worse, better in _varied(cluster)]
    lost = math.hypot(*(max(0.0, found.share - worse) for worse, _ in ends))
    gained = math.hypot(*(max(0.0, better - found.share) for _, better in ends))
    interval = Interval(
        value=found.share,
        low=max(0.0, found.share - lost),
        high=min(1.0, found.share + gained),
    )
    return replace(found, interval=interval)


def _varied(cluster: ClusterSpec) -> Iterator[tuple[ClusterSpec, ClusterSpec]]:
    """The cluster with one group of inputs at its worse and at its better end, group by group."""
    reliability = cluster.reliability

    def rates(factor: float) -> ClusterSpec:
        islands = tuple(
            replace(island, reliability=_failing(island.reliability, factor))
            for island in cluster.islands
        )
        return replace(cluster, reliability=_failing(reliability, factor), islands=islands)

    def times(factor: float) -> ClusterSpec:
        return replace(
            cluster,
            reliability=replace(
                reliability,
                detection_s=factor * reliability.detection_s,
                replacement_s=factor * reliability.replacement_s,
                restart_s=factor * reliability.restart_s,
                reconfiguration_s=factor * reliability.reconfiguration_s,
                checkpoint_s=factor * reliability.checkpoint_s,
            ),
        )

    yield rates(FAILURE_SPREAD), rates(1 / FAILURE_SPREAD)
    yield times(TIME_SPREAD), times(1 / TIME_SPREAD)
    storage, rare = cluster.storage, cluster.stragglers
    if storage is not None:

        def slower(factor: float) -> ClusterSpec:
            return replace(
                cluster,
                storage=replace(
                    storage,
                    write_bytes_per_s_per_chip=storage.write_bytes_per_s_per_chip / factor,
                    read_bytes_per_s_per_chip=storage.read_bytes_per_s_per_chip / factor,
                    overhead_s=storage.overhead_s * factor,
                ),
            )

        yield slower(TIME_SPREAD), slower(1 / TIME_SPREAD)
    if rare is not None:

        def stalling(factor: float) -> ClusterSpec:
            often = rare.stalls_per_chip_hour * factor
            return replace(cluster, stragglers=replace(rare, stalls_per_chip_hour=often))

        yield stalling(STALL_SPREAD), stalling(1 / STALL_SPREAD)


def _failing(reliability: Reliability, factor: float) -> Reliability:
    """So many times as often."""
    return reliability.with_mtbf_hours_per_chip(reliability.mtbf_hours_per_chip / factor)
