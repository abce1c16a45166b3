"""How traffic meets the switches of a network tier; one file per topology, found by its name."""

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from harness.extrapolate.cluster import NetworkTier

TOPOLOGIES = tuple(
    sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
)


class Topology(Protocol):
    """What a collective asks of a tier; both in bytes per second per chip, one direction."""

    def neighbour_bandwidth(self, tier: "NetworkTier") -> float:
        """When each chip sends to the next one in an order that follows the cables."""

    def scattered_bandwidth(self, tier: "NetworkTier", num_domains: int) -> float:
        """When each chip sends to all others alike, in `num_domains` domains of the tier below."""


@cache
def load(name: str) -> Topology:
    """The topology of that name, which the configuration has checked."""
    return cast(Topology, importlib.import_module(f"{__name__}.{name}"))
