"""Leaf and spine switches, rail-aligned: one network port per chip, perhaps oversubscribed above.

A ring in the order of the cables crosses each domain's edge once, so it sees the port's rate even
where the switches above are oversubscribed; an all-to-all sends most of its bytes through them.
"""

from harness.extrapolate.cluster import NetworkTier


def neighbour_bandwidth(tier: NetworkTier) -> float:
    """The rate of a chip's port."""
    return tier.achieved_bytes_per_s_per_chip


def scattered_bandwidth(tier: NetworkTier, num_domains: int) -> float:
    """The port's rate over the oversubscription of the share that leaves the domain.

    Of n domains, (n - 1)/n of the bytes leave their own; the rate is the port's until
    oversubscription times that share passes 1.

    Source: bisection bandwidth of folded Clos networks (Leiserson 1985, "Fat-Trees").
    """
    leaving = 1 - 1 / max(1, num_domains)
    return tier.achieved_bytes_per_s_per_chip / max(1.0, tier.oversubscription * leaving)
