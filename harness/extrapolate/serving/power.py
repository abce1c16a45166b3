"""Watts and price of a chip that serves: the only place that knows where they come from.

Source: the chip's data sheet, which is the most it draws; decoding draws less where memory binds
(an H100 300 W with one sequence, 600 W with 128: ML.ENERGY), so joules are a little high.
"""

from harness.device.chip import ChipSpec
from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.serving.priors import POWER_SHARE_OF_HOST, POWER_USAGE_EFFECTIVENESS
from harness.extrapolate.serving.spec import ServingSpec

SECONDS_PER_HOUR = 3600.0


def site_power_w_per_chip(
    chip: ChipSpec,
    cluster: ClusterSpec,
    *,
    host_share: float = POWER_SHARE_OF_HOST.value,
    usage_effectiveness: float = POWER_USAGE_EFFECTIVENESS.value,
) -> float | None:
    """Watts of the site per chip, hosts, networks and cooling included; None where n/a."""
    del cluster
    if chip.power_w is None:
        return None
    return chip.power_w * (1 + host_share) * usage_effectiveness


def price_per_chip_s(chip: ChipSpec, cluster: ClusterSpec, spec: ServingSpec) -> float | None:
    """What a chip costs per second in the currency of the configuration; None where not given."""
    del chip, cluster
    price = spec.price_per_chip_hour
    return None if price is None else price / SECONDS_PER_HOUR
