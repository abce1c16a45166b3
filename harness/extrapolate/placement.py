"""Which chips communicate, and at which tiers of the network they meet."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from harness.extrapolate import topology
from harness.extrapolate.cluster import ClusterSpec, NetworkTier
from harness.extrapolate.elementwise import (
    Count,
    Number,
    Whole,
    choose,
    count,
    doublings,
    is_array,
    least_count,
    most_count,
    quotient,
    quotient_up,
)


@dataclass(frozen=True, slots=True)
class Level:
    """The part of a group that meets at one tier."""

    tier: NetworkTier
    size: Count
    """Members, each standing for all that meet below."""
    stride: Count
    """Chips from one member to the next, on a torus; 1 elsewhere, where no rate depends on it."""
    share: Number
    """(n - 1)/n: what each member sends of the bytes in a reduce-scatter."""
    doublings: Count
    """log2(n), rounded up."""
    ring_steps: Number
    """Steps of a ring through the members."""


def level(tier: NetworkTier, size: Count, stride: Count) -> Level:
    """So many members that meet at the tier, with what every algorithm needs of their number."""
    steps = topology.load(tier.topology).ring_steps(tier, stride, size)
    return Level(tier, size, stride, (size - 1) / size, doublings(size), steps)


@dataclass(frozen=True, slots=True)
class Group:
    """Chips that communicate, by the tiers where they meet; empty for a single chip.

    Levels may hold arrays: then it is as many groups, one per element.
    """

    levels: tuple[Level, ...]
    has_half_sizes: bool = False
    """Every tier of the cluster says which message reaches half its rate: no protocol is chosen."""

    @property
    def size(self) -> Count:
        """Members of the group."""
        members: Count = 1
        for part in self.levels:
            members = members * part.size
        return members

    @property
    def has_arrays(self) -> bool:
        """Whether it stands for many groups."""
        return is_array(*(part.size for part in self.levels))


@dataclass(frozen=True, slots=True)
class Span:
    """So many members, each so many chips from the next in the order of the cables.

    Both may be arrays of whole numbers, for as many groups at once.
    """

    stride: Whole
    size: Whole


def placed(cluster: ClusterSpec, spans: tuple[Span, ...]) -> Group:
    """The group of those members, in the order of the cables, as levels of the network.

    Each span is laid out from the innermost tier outwards; where members do not fill a tier
    evenly the outer level is rounded up. A group of which each node holds one chip meets at the
    network only, and uses the port of that chip: its rail.
    """
    if any(is_array(span.stride, span.size) for span in spans):
        return _placed(cluster, spans)
    return _placed_once(cluster, spans)


def _placed(cluster: ClusterSpec, spans: tuple[Span, ...]) -> Group:
    outermost = cluster.tiers[-1]
    members: list[Count] = [1] * len(cluster.tiers)
    strides: list[Count] = [1] * len(cluster.tiers)
    for span in spans:
        left, stride = count(span.size), count(span.stride)
        for place, tier in enumerate(cluster.tiers):
            if not isinstance(left, np.ndarray) and left == 1:
                break
            fits = left
            if tier is not outermost:
                fits = most_count(1, least_count(left, quotient(tier.chips, stride)))
            if tier.dims:
                strides[place] = _first_stride(members[place], fits, strides[place], stride)
            members[place] = members[place] * fits
            left = quotient_up(left, fits)
            stride = stride * fits
    is_met = [bool(np.any(size > 1)) for size in members]
    # Arrays of single chips keep a level, so that their shape is not lost.
    is_met[-1] |= not any(is_met) and is_array(*members)
    levels = tuple(
        level(tier, size, stride)
        for tier, size, stride, met in zip(cluster.tiers, members, strides, is_met, strict=True)
        if met
    )
    return Group(levels, all(tier.half_size_bytes is not None for tier in cluster.tiers))


_placed_once = lru_cache(maxsize=65536)(_placed)


def _first_stride(members: Count, fits: Count, known: Count, stride: Count) -> Count:
    """The stride of the first span that has several members at the tier."""
    is_first = (members == 1) & (fits > 1)
    found = choose(is_first, stride, known)
    return found if isinstance(found, np.ndarray) else int(found)
