"""Algorithms and protocols of collectives, as data: what one tier of a group costs with each.

S is the full, gathered size, n the members that meet at the tier, a its latency per step, W its
rate.

    ring         reduce-scatter, all-gather   (n - 1) a + (n - 1)/n S/W
    halving      reduce-scatter, all-gather   log2(n) a + (n - 1)/n S/W             scattered
    PAT          reduce-scatter, all-gather   log2(n) 3.5 a + (n - 1)/n S/(0.75 W)  scattered
    tree         all-reduce                   2 log2(n) 1.74 a + 2 S/(0.85 W)
    in network   each                         a_switch + S/(W efficiency), all-reduce (n + 1)/n S

A protocol changes the latency of a step and the share of the rate; the fastest is taken for each
size, which is why only large messages reach the rate.

Source: Thakur, Rabenseifner and Gropp, Optimization of Collective Communication Operations in
MPICH, 2005; Sanders, Speck and Traeff, Two-tree algorithms, 2009; NCCL, src/graph/tuning.cc.
"""

from dataclasses import dataclass

from harness.extrapolate import topology
from harness.extrapolate.cluster import ALGORITHMS, NetworkTier
from harness.extrapolate.elementwise import Number, least
from harness.extrapolate.placement import Group, Level
from harness.extrapolate.priors import COLLECTIVE_BASE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """How a reduce-scatter or an all-gather goes over the members of one tier."""

    is_logarithmic: bool
    """In log2(n) steps; else those of a ring."""
    is_scattered: bool
    """Partners are far from each other, so that flows share links."""
    step_factor: float = 1.0
    """Latency of its step over that of a ring."""
    rate_share: float = 1.0
    """Share of the tier's rate that it reaches."""


PARTS = {
    "ring": Algorithm(is_logarithmic=False, is_scattered=False),
    "halving": Algorithm(is_logarithmic=True, is_scattered=True),
    # NCCL: 14 us per hop of the network where LL128's ring has 4, and 0.75 of the bandwidth.
    "pat": Algorithm(is_logarithmic=True, is_scattered=True, step_factor=14 / 4, rate_share=0.75),
}
"""Reduce-scatter and all-gather, by name; an all-reduce is one after the other."""
TREE = Algorithm(is_logarithmic=True, is_scattered=False, step_factor=8 / 4.6, rate_share=0.85)
"""All-reduce up and down two binary trees of nodes at once, piece by piece.

Its step: NCCL has 8.5 us where a ring has 4 (LL128 over a network), here 8 against the 4.6 fitted
to rings; its share of the rate: NCCL's factor of the tree pattern. Inside a scale-up domain NCCL's
trees are chains, with the steps of a ring.
"""
assert set(ALGORITHMS) == {*PARTS, "tree"}

SWITCH_STEP_S = {False: 25e-6, True: 31e-6}
"""Latency of a reduction inside switches: of a scale-up domain, and of a network (True).

Source: NCCL src/graph/tuning.cc, hops of NVLS over NVLink and of CollNetDirect over a network.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageProtocol:
    """How messages are handed over: with flags in the data, or after a fence."""

    base_s: float
    """Of every collective."""
    link_step: float
    """Latency of a step over the tier's, between chips of a scale-up domain."""
    network_step: float
    """The same through network cards."""
    rate_share: float
    """Share of the rate left beside the flags."""


NCCL_PROTOCOLS = (
    MessageProtocol(base_s=6.6e-6, link_step=0.6 / 1.9, network_step=2.7 / 4.0, rate_share=0.5),
    MessageProtocol(base_s=14.0e-6, link_step=1.0, network_step=1.0, rate_share=0.92),
    MessageProtocol(
        base_s=COLLECTIVE_BASE_S.value,
        link_step=3.4 / 1.9,
        network_step=14.0 / 4.0,
        rate_share=1.0,
    ),
)
"""LL, LL128 and Simple. A tier's latency is that of LL128.

Source: NCCL src/graph/tuning.cc: latencies of the ring, 0.6, 1.9 and 3.4 us per hop of NVLink,
2.7, 4 and 14 us per hop of a network; shares of the bandwidth 1/2, 120/128 (taken as 0.92) and 1.
"""
ONE_PROTOCOL = (
    MessageProtocol(
        base_s=COLLECTIVE_BASE_S.value, link_step=1.0, network_step=1.0, rate_share=1.0
    ),
)
"""Where every tier says at which message it reaches half its rate."""


def protocols(group: Group) -> tuple[MessageProtocol, ...]:
    """Those that a collective of the group chooses from; the last is that of large messages."""
    return ONE_PROTOCOL if group.has_half_sizes else NCCL_PROTOCOLS


def step_s(tier: NetworkTier, protocol: MessageProtocol) -> float:
    """Latency of a step.

    A message of m bytes takes a + (m + h)/W where h reaches half the rate, so h/W is latency.
    """
    if tier.half_size_bytes is not None:
        return tier.latency_s + tier.half_size_bytes / tier.achieved_bytes_per_s_per_chip
    is_network = topology.load(tier.topology).IS_NETWORK
    return tier.latency_s * (protocol.network_step if is_network else protocol.link_step)


def rate_share(tier: NetworkTier, protocol: MessageProtocol) -> float:
    """Share of the tier's rate that the protocol leaves."""
    return protocol.rate_share if tier.half_size_bytes is None else 1.0


def rate(level: Level, *, is_scattered: bool) -> Number:
    """Bytes per second per chip among the members of a level."""
    shape, tier = topology.load(level.tier.topology), level.tier
    if is_scattered:
        return shape.scattered_bandwidth(tier, level.stride, level.size)
    return shape.neighbour_bandwidth(tier, level.stride, level.size)


def part_s(level: Level, num_bytes: Number, protocol: MessageProtocol, chunks: int = 1) -> Number:
    """A reduce-scatter or all-gather of so many bytes over a level, by its fastest algorithm.

    Of a message in `chunks` it is the time of one.
    """
    tier = level.tier
    step = step_s(tier, protocol)
    share = rate_share(tier, protocol)
    sent = level.share * num_bytes
    best: Number | None = None
    for name in tier.algorithms:
        if name == "tree":
            continue
        algorithm = PARTS[name]
        steps = level.doublings if algorithm.is_logarithmic else level.ring_steps
        reached = rate(level, is_scattered=algorithm.is_scattered)
        per_byte = 1 / (reached * (share * algorithm.rate_share * chunks))
        seconds = steps * (step * algorithm.step_factor) + sent * per_byte
        best = seconds if best is None else least(best, seconds)
    if tier.in_network_efficiency is not None:
        latency_s, per_byte = in_network(level)
        seconds = latency_s + num_bytes * (per_byte / chunks)
        best = seconds if best is None else least(best, seconds)
    assert best is not None, "a tier has at least one algorithm"
    return best


def in_network(level: Level, *, is_all_reduce: bool = False) -> tuple[float, Number]:
    """Latency, and seconds per byte, of reduction or multicast inside a tier's switches.

    In a scale-up domain each chip reads its share of the sum through the switch and sends it to
    all: as its own bytes are read by the others, S + S/n leave it. Switches of a network pass the
    sum on by themselves.

    Source: 8 H100 with NVLS reach 273 GB/s, 7 270, 6 265 and 5 258 (NVIDIA/nccl issue 1455), where
    this gives 272, 268, 262 and 255 with an efficiency of 0.85, as in NCCL src/graph/tuning.cc.
    """
    efficiency = level.tier.in_network_efficiency
    assert efficiency is not None
    is_network = topology.load(level.tier.topology).IS_NETWORK
    per_byte = 1 / (rate(level, is_scattered=False) * efficiency)
    if is_all_reduce and not is_network:
        per_byte = per_byte * (1 + 1 / level.size)
    return SWITCH_STEP_S[is_network], per_byte


def tree(level: Level, protocol: MessageProtocol) -> tuple[Number, Number]:
    """Latency, and seconds per byte, of an all-reduce by double binary tree over a level."""
    steps = level.ring_steps
    if topology.load(level.tier.topology).IS_NETWORK:
        steps = level.doublings * TREE.step_factor
    reached = rate(level, is_scattered=False) * rate_share(level.tier, protocol)
    return 2 * steps * step_s(level.tier, protocol), 2 / (reached * TREE.rate_share)
