"""The chip and the network that a published row ran on, by the name it gives the chip."""

from functools import cache

from harness.config.specs import Group, list_names, load_chip, load_cluster
from harness.device.chip import ChipSpec
from harness.extrapolate.cluster import ClusterSpec, NetworkTier
from harness.extrapolate.topology import TOPOLOGIES

KNOWN_NETWORKS = {
    "h100_sxm": "h100_16k",
    "a100_80gb_sxm": "a100_4k",
    "a100_40gb_sxm": "a100_4k",
}
"""Chips of sources that say what joined them: the cluster in `configs/cluster/`."""
TYPICAL = "this_100k"
"""The cluster whose efficiencies, latencies and failures stand for what a source does not say."""


@cache
def chip_titled(title: str) -> ChipSpec | None:
    """The chip of that title in `configs/chip/`, or None: an unknown chip is never guessed."""
    wanted = title.strip().casefold()
    chips = (load_chip(name) for name in list_names(Group.CHIP))
    return next((chip for chip in chips if chip.title.casefold() == wanted), None)


@cache
def cluster_of(chip: ChipSpec, num_chips: int) -> ClusterSpec | None:
    """So many of that chip, joined as its source says, or else as its data sheet does.

    None where the data sheet does not tell a rate that is needed.
    """
    known = KNOWN_NETWORKS.get(chip.name)
    if known is not None:
        return load_cluster(known)
    typical = load_cluster(TYPICAL)
    inner, *outer = typical.tiers
    domain, rate = chip.scaleup_domain_chips, chip.scaleup_bandwidth_bytes_per_s_per_chip
    if domain is None or rate is None:
        return None
    tiers = [_tier(inner, min(domain, max(num_chips, 2)), rate)]
    if num_chips > domain:
        scaleout = chip.scaleout_bandwidth_bytes_per_s_per_chip
        if scaleout is None:
            return None
        tiers += [
            _tier(tier, max(tier.chips, domain * (place + 2)), scaleout)
            for place, tier in enumerate(outer)
        ]
    return ClusterSpec(
        name=f"typical_{chip.name}",
        title=f"{chip.title} as its data sheet joins them",
        chip=chip.name,
        num_chips=num_chips,
        tiers=tuple(tiers),
        reliability=typical.reliability,
        source=chip.source,
    )


def _tier(like: NetworkTier, chips: int, bytes_per_s_per_chip: float) -> NetworkTier:
    assert like.topology in TOPOLOGIES
    return NetworkTier(
        name=like.name,
        topology=like.topology,
        chips=chips,
        bandwidth_bytes_per_s_per_chip=bytes_per_s_per_chip,
        efficiency=like.efficiency,
        latency_s=like.latency_s,
        source=like.source,
    )
