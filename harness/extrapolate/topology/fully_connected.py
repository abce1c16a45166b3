"""A scale-up domain whose switches give every chip its full rate to any other."""

from harness.extrapolate.cluster import NetworkTier
from harness.extrapolate.elementwise import Count, Number

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
    """The rate of all links of a chip together, as NCCL's rings and channels use them."""
    del stride, members
    return tier.achieved_bytes_per_s_per_chip / tier.oversubscription


def scattered_bandwidth(tier: NetworkTier, stride: Count, members: Count) -> Number:
    """The same: no path is shared."""
    return neighbour_bandwidth(tier, stride, members) * tier.scattered_efficiency
