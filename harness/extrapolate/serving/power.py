"""Watts and price of a chip that serves: the only place that knows where they come from.

The power and price of the cluster's file where it has them, else the chip's data sheet and what
`priors` say of hosts and sites. Either way a chip draws the most it may, all the time; decoding
draws less where memory binds (an H100 300 W with one sequence, 600 W with 128: ML.ENERGY), so
joules are a little high.
"""

from dataclasses import dataclass

from harness.device.chip import ChipSpec
from harness.extrapolate.chip_power import chip_power
from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.serving.priors import POWER_SHARE_OF_HOST, POWER_USAGE_EFFECTIVENESS
from harness.extrapolate.serving.spec import ServingSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePower:
    """What a chip that serves makes its site draw."""

    chip_w: float
    host_share: float
    """Of hosts, network cards, switches and optics, over the chip's own power."""
    usage_effectiveness: float
    """Power of the site over that of the machines."""

    @property
    def w_per_chip(self) -> float:
        """At the site's meter."""
        return self.chip_w * (1 + self.host_share) * self.usage_effectiveness


def site_power(chip: ChipSpec, cluster: ClusterSpec) -> SitePower | None:
    """What each chip in use draws with its part of everything else; None where nobody tells it.

    Raises:
        ConfigError: for a power limit that not even the idle chip can keep.
    """
    power = cluster.power
    known = None if power is None else chip_power(chip, power)
    if power is not None and known is not None:
        others_w = (
            power.host_w / cluster.chips_per_host + power.nic_w_per_chip + power.network_w_per_chip
        )
        return SitePower(
            chip_w=known.limit_w,
            host_share=others_w / known.limit_w,
            usage_effectiveness=power.pue,
        )
    if chip.power_w is None:
        return None
    return SitePower(
        chip_w=chip.power_w,
        host_share=POWER_SHARE_OF_HOST.value,
        usage_effectiveness=POWER_USAGE_EFFECTIVENESS.value,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipPrice:
    """What a chip costs, and in which currency; empty for that of the configuration."""

    per_hour: float
    currency: str


def chip_price(cluster: ClusterSpec, spec: ServingSpec, site: SitePower | None) -> ChipPrice | None:
    """The price that is asked for, else that of the cluster; None where neither is given.

    A machine that is bought and fed with electricity has one only where its power is known.
    """
    if spec.price_per_chip_hour is not None:
        return ChipPrice(per_hour=spec.price_per_chip_hour, currency="")
    price = cluster.price
    if price is None or (site is None and price.per_chip_hour is None):
        return None
    site_w = 0.0 if site is None else site.w_per_chip
    return ChipPrice(per_hour=price.per_hour(1, site_w), currency=price.currency)
