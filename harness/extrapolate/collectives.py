"""How long collectives take: latency and bandwidth per tier, the best algorithm per size.

S is the full, gathered size in bytes, n the group, a a tier's latency per step, W its bandwidth
per chip and direction.

    ring              reduce-scatter, all-gather   (n - 1) a + (n - 1)/n S/W
    halving/doubling  reduce-scatter, all-gather   log2(n) a + (n - 1)/n S/W    (scattered traffic)
    hierarchical      tier by tier; each tier hands S/g to the next
    all-reduce        reduce-scatter and all-gather
    all-to-all        (n - 1) a_peer + the bytes that cross each tier over its bandwidth

Source: Thakur, Rabenseifner and Gropp, Optimization of Collective Communication Operations in
MPICH, 2005; hierarchical and rail-aligned placement as NCCL and Llama 3 (arXiv 2407.21783) use.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

from harness.extrapolate import topology
from harness.extrapolate.cluster import ClusterSpec, NetworkTier
from harness.extrapolate.priors import COLLECTIVE_BASE_S, PER_PEER_S


@dataclass(frozen=True, slots=True)
class Level:
    """The part of a group that meets at one tier."""

    tier: NetworkTier
    size: int
    """Members, each standing for all that meet below."""


@dataclass(frozen=True, slots=True)
class Group:
    """Chips that communicate, by the tiers where they meet; empty for a single chip."""

    levels: tuple[Level, ...]

    @property
    def size(self) -> int:
        """Members of the group."""
        return math.prod(level.size for level in self.levels)


@dataclass(frozen=True, slots=True)
class Span:
    """So many members, each so many chips from the next in the order of the cables."""

    stride: int
    size: int


@lru_cache(maxsize=65536)
def placed(cluster: ClusterSpec, spans: tuple[Span, ...]) -> Group:
    """The group of those members, in the order of the cables, as levels of the network.

    Each span is laid out from the innermost tier outwards; where members do not fill a tier
    evenly the outer level is rounded up.
    """
    levels: list[Level] = []
    for span in spans:
        left, stride = span.size, span.stride
        for tier in cluster.tiers:
            if left == 1:
                break
            fits = left if tier is cluster.tiers[-1] else min(left, tier.chips // stride)
            if fits > 1:
                levels.append(Level(tier, fits))
                left = math.ceil(left / fits)
                stride *= fits
    return Group(tuple(levels))


def _ring(level: Level, num_bytes: float) -> float:
    """One pass of a ring over a level: reduce-scatter or all-gather."""
    n, tier = level.size, level.tier
    bandwidth = topology.load(tier.topology).neighbour_bandwidth(tier)
    return (n - 1) * tier.latency_s + (n - 1) / n * num_bytes / bandwidth


def _halving(level: Level, num_bytes: float) -> float:
    """Recursive halving or doubling over a level: far partners, so traffic is scattered."""
    n, tier = level.size, level.tier
    bandwidth = topology.load(tier.topology).scattered_bandwidth(tier, n)
    return math.ceil(math.log2(n)) * tier.latency_s + (n - 1) / n * num_bytes / bandwidth


def flat_ring_s(group: Group, num_bytes: float) -> float:
    """One ring through all members: few steps cross tiers, the slowest link sets the rate.

    Members below a level use their own ports, so the ring crosses it with all of them at once.
    """
    n = group.size
    if n == 1 or num_bytes == 0:
        return 0.0
    latency, below, slowest = 0.0, 1, math.inf
    for index, level in enumerate(group.levels):
        outer = math.prod(other.size for other in group.levels[index + 1 :])
        latency += (level.size - 1) * outer * level.tier.latency_s
        rate = topology.load(level.tier.topology).neighbour_bandwidth(level.tier)
        slowest = min(slowest, rate * below)
        below *= level.size
    return COLLECTIVE_BASE_S.value + latency + (n - 1) / n * num_bytes / slowest


def hierarchical_s(group: Group, num_bytes: float) -> float:
    """Tier by tier, each with a share of the bytes; the faster of ring and halving per tier."""
    if group.size == 1 or num_bytes == 0:
        return 0.0
    total, left = COLLECTIVE_BASE_S.value, num_bytes
    for level in group.levels:
        total += min(_ring(level, left), _halving(level, left))
        left /= level.size
    return total


def ring_all_reduce_s(group: Group, num_bytes: float) -> float:
    """An all-reduce by one ring: 2 (n - 1) steps."""
    return 2 * flat_ring_s(group, num_bytes)


@lru_cache(maxsize=262144)
def reduce_scatter_s(group: Group, num_bytes: float) -> float:
    """Each member ends with its share of the sum of S bytes; the fastest algorithm."""
    return min(flat_ring_s(group, num_bytes), hierarchical_s(group, num_bytes))


def all_gather_s(group: Group, num_bytes: float) -> float:
    """Each member ends with all S bytes, of which it had its share."""
    return reduce_scatter_s(group, num_bytes)


def all_reduce_s(group: Group, num_bytes: float) -> float:
    """Each member ends with the sum of S bytes."""
    return reduce_scatter_s(group, num_bytes) + all_gather_s(group, num_bytes)


@lru_cache(maxsize=262144)
def all_to_all_s(group: Group, num_bytes: float) -> float:
    """Each member sends `num_bytes` in all, in equal parts to every member, itself included."""
    n = group.size
    if n == 1 or num_bytes == 0:
        return 0.0
    longest, below = 0.0, 1
    for level in group.levels:
        members = below * level.size
        leaving = (n - below) / n  # What goes further than the tier below must use this one.
        domains = n // below if level is group.levels[-1] else level.size
        rate = topology.load(level.tier.topology).scattered_bandwidth(level.tier, domains)
        longest = max(longest, num_bytes * leaving / rate)
        below = members
    latency = group.levels[-1].tier.latency_s + (n - 1) * PER_PEER_S.value
    return COLLECTIVE_BASE_S.value + latency + longest


@lru_cache(maxsize=65536)
def point_to_point_s(cluster: ClusterSpec, stride: int, num_bytes: float) -> float:
    """A message to the chip `stride` further on, at the first tier that joins both."""
    if num_bytes == 0:
        return 0.0
    tier = next((tier for tier in cluster.tiers if tier.chips > stride), cluster.tiers[-1])
    bandwidth = topology.load(tier.topology).neighbour_bandwidth(tier)
    return COLLECTIVE_BASE_S.value + tier.latency_s + num_bytes / bandwidth
