"""How long collectives take: latency and bandwidth per tier, the best algorithm per size.

    flat ring        the steps of all tiers, at the rate of the slowest: (n - 1)/n S/W
    hierarchical     tier by tier; each hands S/g to the next
    pipelined        the same in C chunks: the sum for one chunk, C - 1 times the slowest tier
    all-reduce       reduce-scatter and all-gather, at the outermost tier also a tree or its
                     switches; or one stream through the switches and trees of all tiers
    all-to-all       direct: a set-up per peer, the bytes that leave a domain over the tier above;
                     staged: tier by tier, with as many peers as meet there

Bytes and groups may be arrays, for as many collectives at once; everything is elementwise.

Source: the algorithms' own in `algorithms.py`; hierarchical and rail-aligned placement as NCCL
and Llama 3 (arXiv 2407.21783) use.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, reduce, wraps
from typing import Protocol, cast, overload

import numpy as np
from numpy.typing import NDArray

from harness.extrapolate import topology
from harness.extrapolate.algorithms import (
    MessageProtocol,
    in_network,
    part_s,
    protocols,
    rate,
    step_s,
    tree,
)
from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.elementwise import (
    Count,
    Number,
    Whole,
    choose,
    count,
    is_array,
    least,
    most,
)
from harness.extrapolate.placement import Group, Level, Span, placed
from harness.extrapolate.priors import COLLECTIVE_BASE_S, PER_PEER_S

__all__ = [
    "Group",
    "Level",
    "Span",
    "all_gather_s",
    "all_reduce_s",
    "all_to_all_s",
    "direct_all_to_all_s",
    "flat_ring_s",
    "hierarchical_all_reduce_s",
    "hierarchical_s",
    "pipelined_s",
    "placed",
    "point_to_point_s",
    "reduce_scatter_s",
    "ring_all_reduce_s",
    "staged_all_to_all_s",
    "streamed_all_reduce_s",
]

PIPELINE_CHUNKS = 8
"""Chunks of a collective whose tiers work at the same time.

Source: Primus hides up to 0.9 of the faster tier (collective_model.py); 8 chunks hide 7/8.
"""


class Collective(Protocol):
    """Seconds of a collective over a group, by its bytes; arrays where either holds arrays."""

    @overload
    def __call__(self, group: Group, num_bytes: float) -> float: ...

    @overload
    def __call__(self, group: Group, num_bytes: NDArray[np.float64]) -> NDArray[np.float64]: ...


def _collective(function: Callable[[Group, Number], Number]) -> Collective:
    """Numbers are looked up again, arrays computed; alone or without bytes nothing takes time."""

    def among_all(group: Group, num_bytes: Number) -> Number:
        if not group.levels:
            return num_bytes * 0.0
        seconds = function(group, num_bytes)
        if not isinstance(seconds, np.ndarray):
            return float(seconds) if num_bytes > 0 else 0.0
        is_used = np.asarray(num_bytes) > 0
        if group.has_arrays:
            is_used = is_used & (np.asarray(group.size) > 1)
        return seconds if is_used.all() else np.where(is_used, seconds, 0.0)

    among_all_once = lru_cache(maxsize=262144)(among_all)

    @wraps(function)
    def seconds_of(group: Group, num_bytes: Number) -> Number:
        if group.has_arrays or is_array(num_bytes):
            return among_all(group, num_bytes)
        return among_all_once(group, cast(float, num_bytes))

    return cast(Collective, seconds_of)


def _fastest(options: Iterable[Number]) -> Number:
    return reduce(least, options)


@_collective
def flat_ring_s(group: Group, num_bytes: Number) -> Number:
    """One ring through all members: few steps cross tiers, the slowest link sets the rate.

    Members below a level use their own ports, so the ring crosses it with all of them at once.
    It is timed with the protocol of large messages, as the rings that SimAI measured over 16 to
    1,024 chips are; where members meet at one tier only, `hierarchical_s` has the others.
    """
    protocol = protocols(group)[-1]
    n = group.size
    below: Count = 1
    slowest: Number = math.inf
    latency: Number = protocol.base_s
    for level in group.levels:
        crossing = rate(level, is_scattered=False) * below
        slowest = least(slowest, choose(level.size > 1, crossing, math.inf))
        below = below * level.size
        latency = latency + level.ring_steps * (n / below) * step_s(level.tier, protocol)
    return latency + (n - 1) / n * num_bytes / slowest


def _parts(
    group: Group, num_bytes: Number, protocol: MessageProtocol, chunks: int = 1
) -> list[Number]:
    """The time at each tier of a reduce-scatter or all-gather, of one chunk."""
    parts = []
    for level in group.levels:
        parts.append(part_s(level, num_bytes, protocol, chunks))
        num_bytes = num_bytes / level.size
    return parts


@_collective
def hierarchical_s(group: Group, num_bytes: Number) -> Number:
    """A reduce-scatter or all-gather tier by tier, each with its share and fastest algorithm."""
    return _fastest(
        protocol.base_s + sum(_parts(group, num_bytes, protocol)) for protocol in protocols(group)
    )


@_collective
def pipelined_s(group: Group, num_bytes: Number) -> Number:
    """The same in chunks, so that the tiers work at once; each chunk pays all latencies."""
    protocol = protocols(group)[-1]
    parts = _parts(group, num_bytes, protocol, PIPELINE_CHUNKS)
    return protocol.base_s + sum(parts) + (PIPELINE_CHUNKS - 1) * reduce(most, parts)


@_collective
def reduce_scatter_s(group: Group, num_bytes: Number) -> Number:
    """Each member ends with its share of the sum of S bytes; the fastest algorithm."""
    best = least(flat_ring_s(group, num_bytes), hierarchical_s(group, num_bytes))
    if len(group.levels) > 1:
        best = least(best, pipelined_s(group, num_bytes))
    return best


@_collective
def all_gather_s(group: Group, num_bytes: Number) -> Number:
    """Each member ends with all S bytes, of which it had its share."""
    return reduce_scatter_s(group, num_bytes)


@_collective
def ring_all_reduce_s(group: Group, num_bytes: Number) -> Number:
    """An all-reduce by one ring: 2 (n - 1) steps."""
    return 2 * flat_ring_s(group, num_bytes)


@_collective
def hierarchical_all_reduce_s(group: Group, num_bytes: Number) -> Number:
    """Reduce-scatter inwards out, all-reduce by tree at the outermost tier, all-gather back."""
    return _fastest(
        protocol.base_s + sum(_reductions(group, num_bytes, protocol))
        for protocol in protocols(group)
    )


def _reductions(group: Group, num_bytes: Number, protocol: MessageProtocol) -> Iterator[Number]:
    """The time at each tier of an all-reduce that goes up the tiers and down again."""
    n = group.size
    below: Count = 1
    for level in group.levels:
        both_ways = 2 * part_s(level, num_bytes, protocol)
        below = below * level.size
        at_top = both_ways
        if "tree" in level.tier.algorithms:
            latency_s, per_byte = tree(level, protocol)
            at_top = least(at_top, latency_s + num_bytes * per_byte)
        if level.tier.in_network_efficiency is not None:
            latency_s, per_byte = in_network(level, is_all_reduce=True)
            at_top = least(at_top, latency_s + num_bytes * per_byte)
        yield choose(below == n, at_top, both_ways)
        num_bytes = num_bytes / level.size


@_collective
def streamed_all_reduce_s(group: Group, num_bytes: Number) -> Number:
    """One stream up and down all tiers: through switches that reduce, else by double binary tree.

    Latencies add up; the slowest tier sets the rate. Members of a domain split the bytes.

    Source: NCCL's Tree and NVLSTree, src/graph/tuning.cc.
    """
    return _fastest(_streamed(group, num_bytes, protocol) for protocol in protocols(group))


def _streamed(group: Group, num_bytes: Number, protocol: MessageProtocol) -> Number:
    latency: Number = protocol.base_s
    slowest: Number = 0.0
    step: Number
    for level in group.levels:
        if level.tier.in_network_efficiency is not None:
            step, per_byte = in_network(level, is_all_reduce=True)
        elif "tree" in level.tier.algorithms:
            step, per_byte = tree(level, protocol)
        else:
            step, per_byte = math.inf, 0.0
        is_crossed = level.size > 1
        latency = latency + choose(is_crossed, step, 0.0)
        slowest = most(slowest, choose(is_crossed, num_bytes * per_byte, 0.0))
        num_bytes = num_bytes / level.size
    return latency + slowest


@_collective
def all_reduce_s(group: Group, num_bytes: Number) -> Number:
    """Each member ends with the sum of S bytes."""
    whole = least(
        hierarchical_all_reduce_s(group, num_bytes), streamed_all_reduce_s(group, num_bytes)
    )
    return least(2 * reduce_scatter_s(group, num_bytes), whole)


def _set_up_s(level: Level) -> float:
    """Per peer; chips that share a port wait for each other."""
    return PER_PEER_S.value * max(1.0, 1 / level.tier.ports_per_chip)


@_collective
def direct_all_to_all_s(group: Group, num_bytes: Number) -> Number:
    """To each member at once: the tier that the bytes take longest to cross sets the time."""
    n = group.size
    below: Count = 1
    longest: Number = 0.0
    latency: Number = 0.0
    set_up: Number = 0.0
    for level in group.levels:
        # What goes further than the tier below must use this one.
        leaving = (n - below) / n
        crossing_s = num_bytes * leaving / rate(level, is_scattered=True)
        is_crossed = level.size > 1
        longest = most(longest, choose(is_crossed, crossing_s, 0.0))
        latency = choose(is_crossed, _farthest_s(level), latency)
        set_up = set_up + (level.size - 1) * below * _set_up_s(level)
        below = below * level.size
    return COLLECTIVE_BASE_S.value + latency + set_up + longest


@_collective
def staged_all_to_all_s(group: Group, num_bytes: Number) -> Number:
    """Tier by tier: to the members of a node that stand on the receivers' rails, then along them.

    All bytes move at each tier, but each member has only as many peers as meet there.

    Source: the two-hop all-to-all of DeepSeek-V3 (arXiv 2412.19437 section 3.2.2).
    """
    seconds: Number = COLLECTIVE_BASE_S.value
    for level in group.levels:
        sent_s = num_bytes * level.share / rate(level, is_scattered=True)
        peers_s = (level.size - 1) * _set_up_s(level)
        seconds = seconds + choose(level.size > 1, _farthest_s(level) + sent_s + peers_s, 0.0)
    return seconds


@_collective
def all_to_all_s(group: Group, num_bytes: Number) -> Number:
    """Each member sends `num_bytes` in all, in equal parts to every member, itself included."""
    return least(direct_all_to_all_s(group, num_bytes), staged_all_to_all_s(group, num_bytes))


def _farthest_s(level: Level) -> Number:
    hops = topology.load(level.tier.topology).hops(level.tier, level.stride, level.size)
    return hops * level.tier.latency_s


@overload
def point_to_point_s(cluster: ClusterSpec, stride: int, num_bytes: float) -> float: ...


@overload
def point_to_point_s(
    cluster: ClusterSpec, stride: int, num_bytes: NDArray[np.float64]
) -> NDArray[np.float64]: ...


@overload
def point_to_point_s(
    cluster: ClusterSpec, stride: NDArray[np.integer], num_bytes: Number
) -> NDArray[np.float64]: ...


def point_to_point_s(cluster: ClusterSpec, stride: Whole, num_bytes: Number) -> Number:
    """A message to the chip `stride` further on, at the first tier that joins both.

    All chips send such a message at once.
    """
    apart = count(stride)
    seconds: Number = 0.0
    for tier in reversed(cluster.tiers):
        bandwidth = topology.load(tier.topology).neighbour_bandwidth(tier, apart, 2)
        here = COLLECTIVE_BASE_S.value + tier.latency_s + num_bytes / bandwidth
        is_joined = tier is cluster.tiers[-1] or apart < tier.chips
        seconds = choose(is_joined, here, seconds)
    return choose(num_bytes > 0, seconds, 0.0)
