"""A torus of any number of axes, as TPU pods have it; each axis is a ring with links both ways.

A group uses the axes along which it has members. Along an axis that it fills it has a ring, else
a line, whose ends have one way only; members that are s chips apart share their links with the
s - 1 groups between them. The rate of a chip is that of all its links, two per axis.

Source: Austin et al., How to Scale Your Model (2025), chapter 3: all-gather over k axes takes
S/(k W_bidirectional), all-to-all over an axis a quarter of the array it moves, latency is a hop
times n/2.
"""

from typing import NamedTuple

from harness.extrapolate.cluster import NetworkTier
from harness.extrapolate.elementwise import (
    Count,
    Number,
    choose,
    least,
    least_count,
    most,
    most_count,
    quotient,
    quotient_up,
)

IS_NETWORK = False


class _Axis(NamedTuple):
    """What a group has of one axis."""

    members: Count
    spacing: Count
    """Chips from one member to the next along the axis."""
    is_ring: Number
    """1 where the axis is filled, so that its ends are joined, else 0."""


def _axes(tier: NetworkTier, stride: Count, members: Count) -> list[_Axis]:
    """Members laid out axis by axis, the first axis innermost."""
    found, inner, left = [], 1, members
    for length in tier.dims:
        spacing = most_count(1, quotient(stride, inner))
        fits = most_count(1, least_count(left, quotient(length, spacing)))
        is_ring = choose(fits * spacing >= length, 1, 0)
        found.append(_Axis(fits, spacing, is_ring))
        left = quotient_up(left, fits)
        stride = stride * fits
        inner *= length
    return found


def ring_steps(tier: NetworkTier, stride: Count, members: Count) -> Number:
    """Hops of a pass along all axes: half a ring, or a whole line."""
    steps: Number = 0
    for axis in _axes(tier, stride, members):
        ring, line = quotient(axis.members, 2), axis.members - 1
        steps = steps + axis.spacing * choose(axis.is_ring > 0, ring, line)
    return steps


def hops(tier: NetworkTier, stride: Count, members: Count) -> Number:
    """The diameter of the group."""
    return most(1, ring_steps(tier, stride, members))


def neighbour_bandwidth(tier: NetworkTier, stride: Count, members: Count) -> Number:
    """The axes that the group uses, each with a part of the bytes."""
    per_axis = tier.achieved_bytes_per_s_per_chip / len(tier.dims)
    rate: Number = 0.0
    for axis in _axes(tier, stride, members):
        way = per_axis * (1 + axis.is_ring) / 2 / axis.spacing
        rate = rate + choose(axis.members > 1, way, 0.0)
    return choose(rate > 0, rate, per_axis)


def scattered_bandwidth(tier: NetworkTier, stride: Count, members: Count) -> Number:
    """The bisection of the longest axis: a quarter of all bytes cross it each way.

    Per byte that a chip sends to others, which are (n - 1)/n of those it has.
    """
    per_axis = tier.achieved_bytes_per_s_per_chip / len(tier.dims)
    rate: Number = neighbour_bandwidth(tier, stride, members)
    for axis in _axes(tier, stride, members):
        extent = axis.members * axis.spacing
        bisection = 2 * (1 + axis.is_ring) * per_axis / extent * (1 - 1 / members)
        rate = choose(axis.members > 1, least(rate, bisection), rate)
    return rate * tier.scattered_efficiency
