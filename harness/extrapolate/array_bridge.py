"""Collectives between chips and pipelines of many plans at once: arrays in, arrays out.

The formulas are those of `collectives` and `pipeline`, element by element.
"""

from dataclasses import dataclass

import numpy as np

from harness.extrapolate import topology
from harness.extrapolate.cluster import ClusterSpec, NetworkTier
from harness.extrapolate.plans import Floats, Ints
from harness.extrapolate.priors import COLLECTIVE_BASE_S


@dataclass(frozen=True, slots=True)
class Span:
    """So many members, each so many chips from the next in the order of the cables."""

    stride: Ints
    size: Ints


@dataclass(frozen=True, slots=True)
class Level:
    """The part of each group that meets at one tier; of size 1 where none does."""

    tier: NetworkTier
    size: Floats


@dataclass(frozen=True, slots=True)
class Group:
    """Groups of chips that communicate, by the tiers where they meet."""

    levels: tuple[Level, ...]


def placed(cluster: ClusterSpec, spans: tuple[Span, ...]) -> Group:
    """The groups of those members as levels of the network."""
    levels = []
    for span in spans:
        left, stride = span.size, span.stride
        for tier in cluster.tiers:
            fits = left if tier is cluster.tiers[-1] else np.minimum(left, tier.chips // stride)
            fits = np.maximum(fits, 1)
            if (fits > 1).any():
                levels.append(Level(tier, fits.astype(np.float64)))
            left = -(-left // fits)
            stride = stride * fits
    return Group(tuple(levels))


def _scattered(tier: NetworkTier, sizes: Floats) -> Floats:
    distinct, group = np.unique(sizes, return_inverse=True)
    rate = topology.load(tier.topology).scattered_bandwidth
    return np.array([rate(tier, int(size)) for size in distinct])[group]


def reduce_scatter_s(group: Group, num_bytes: Floats) -> Floats:
    """The faster of one flat ring and the tiers one after the other."""
    flat_latency = np.zeros_like(num_bytes)
    hierarchical = np.full_like(num_bytes, COLLECTIVE_BASE_S.value)
    slowest = np.full_like(num_bytes, np.inf)
    below = np.ones_like(num_bytes)
    outer = np.ones_like(num_bytes)
    for level in reversed(group.levels):
        flat_latency += (level.size - 1) * outer * level.tier.latency_s
        outer = outer * level.size
    for level in group.levels:
        rate = topology.load(level.tier.topology).neighbour_bandwidth(level.tier)
        slowest = np.where(level.size > 1, np.minimum(slowest, rate * below), slowest)
        share = (level.size - 1) / level.size * num_bytes / below
        ring = (level.size - 1) * level.tier.latency_s + share / rate
        halving = np.ceil(np.log2(level.size)) * level.tier.latency_s
        halving += share / _scattered(level.tier, level.size)
        hierarchical += np.minimum(ring, halving)
        below = below * level.size
    flat = COLLECTIVE_BASE_S.value + flat_latency + (below - 1) / below * num_bytes / slowest
    return np.where((below == 1) | (num_bytes == 0), 0.0, np.minimum(flat, hierarchical))


def all_gather_s(group: Group, num_bytes: Floats) -> Floats:
    """As long as a reduce-scatter."""
    return reduce_scatter_s(group, num_bytes)


def point_to_point_s(cluster: ClusterSpec, stride: Ints, num_bytes: Floats) -> Floats:
    """A message to the chip `stride` further on, at the first tier that joins both."""
    seconds = np.zeros_like(num_bytes)
    for tier in reversed(cluster.tiers):
        rate = topology.load(tier.topology).neighbour_bandwidth(tier)
        crossing = COLLECTIVE_BASE_S.value + tier.latency_s + num_bytes / rate
        joins = (tier.chips > stride) | (tier is cluster.tiers[-1])
        seconds = np.where(joins, crossing, seconds)
    return np.where(num_bytes == 0, 0.0, seconds)


def bubble_s(
    slowest_s: Floats,
    sum_s: Floats,
    *,
    pipeline: Ints | Floats,
    virtual_stages: Ints | Floats,
    num_microbatches: Ints | Floats,
) -> Floats:
    """Idle time of the slowest stage, as `pipeline.bubble_s`."""
    fill = (sum_s - slowest_s) / virtual_stages
    missing = np.maximum(0.0, pipeline - num_microbatches)
    waiting = (1 - 1 / virtual_stages) * missing * slowest_s
    return np.where(pipeline == 1, 0.0, fill + waiting)


def layers_in_flight(
    *, pipeline: Floats, virtual_stages: Floats, num_microbatches: Floats, stage: Floats
) -> Floats:
    """Microbatches whose activations a stage holds at once, as `pipeline.layers_in_flight`."""
    behind = pipeline - stage - 1
    # With fewer microbatches than stages there is one round, of all of them.
    length = np.ceil(num_microbatches / np.maximum(1.0, np.floor(num_microbatches / pipeline)))
    chunks = (2 * behind + 1 + (virtual_stages - 1) * length) / virtual_stages
    held = np.where(virtual_stages == 1, behind + 1, chunks)
    return np.minimum(num_microbatches, held)
