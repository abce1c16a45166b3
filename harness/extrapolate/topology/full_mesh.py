"""A scale-up domain in which a link of its own joins every two chips, without a switch.

A group of some of the chips has the links between its members only: two of eight chips reach a
seventh of what all eight do.
"""

from harness.extrapolate.cluster import NetworkTier
from harness.extrapolate.elementwise import Count, Number, most

IS_NETWORK = False


def ring_steps(tier: NetworkTier, stride: Count, members: Count) -> Number:
    """One less than the members."""
    del tier, stride
    return members - 1


def hops(tier: NetworkTier, stride: Count, members: Count) -> Number:
    """One."""
    del tier, stride, members
    return 1


def neighbour_bandwidth(tier: NetworkTier, stride: Count, members: Count) -> Number:
    """The links to the other members, all used at once by as many rings.

    Source: a complete graph of an even number of vertices has edge-disjoint Hamiltonian cycles
    (Walecki 1892), as RCCL uses them on MI300X.
    """
    del stride
    links = most(1, members - 1) / (tier.chips - 1)
    return tier.achieved_bytes_per_s_per_chip * links


def scattered_bandwidth(tier: NetworkTier, stride: Count, members: Count) -> Number:
    """The same: each peer has its own link."""
    return neighbour_bandwidth(tier, stride, members) * tier.scattered_efficiency
