"""Leaf and spine switches, rail-aligned: a port per chip or shared, perhaps oversubscribed above.

What passes the switches of an oversubscribed tier gets its share of them: chips whose neighbours
are all in other domains send all their bytes through. A flat ring in the order of the cables has
many members below each edge and crosses it with few of them, so it does not notice.
"""

from harness.extrapolate.cluster import NetworkTier
from harness.extrapolate.elementwise import Count, Number

IS_NETWORK = True


def ring_steps(tier: NetworkTier, stride: Count, members: Count) -> Number:
    """One less than the members."""
    del tier, stride
    return members - 1


def hops(tier: NetworkTier, stride: Count, members: Count) -> Number:
    """One: the tier's latency is that of the whole way through its switches."""
    del tier, stride, members
    return 1


def neighbour_bandwidth(tier: NetworkTier, stride: Count, members: Count) -> Number:
    """The chip's share of its port, and of the switches above.

    Source: bisection bandwidth of folded Clos networks (Leiserson 1985, "Fat-Trees").
    """
    del stride, members
    return tier.achieved_bytes_per_s_per_chip / tier.oversubscription


def scattered_bandwidth(tier: NetworkTier, stride: Count, members: Count) -> Number:
    """The same, less what flows lose that meet on one link, where the tier says how much.

    With adaptive routing or spraying it is little: all-to-alls over 32 to 128 chips reached 0.99
    to 0.94 of the rate of rings (SimAI, ata_ratio.csv over nic_ratio.csv at 16 GiB). Where flows
    are hashed onto links it is 0.15 to 0.25: with 16 to 64 flows per link the fullest of 8 links
    has 1/0.74 to 1/0.85 of the mean (balls into bins).
    """
    return neighbour_bandwidth(tier, stride, members) * tier.scattered_efficiency
