"""A scale-up domain where every chip reaches every other at full rate, by switch or by mesh."""

from harness.extrapolate.cluster import NetworkTier


def neighbour_bandwidth(tier: NetworkTier) -> float:
    """The rate of all links of a chip together, as NCCL's rings and channels use them."""
    return tier.achieved_bytes_per_s_per_chip


def scattered_bandwidth(tier: NetworkTier, num_domains: int) -> float:
    """The same: no path is shared."""
    del num_domains
    return tier.achieved_bytes_per_s_per_chip / tier.oversubscription
