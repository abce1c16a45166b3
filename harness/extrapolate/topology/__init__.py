"""How traffic meets the switches of a network tier; one file per topology, found by its name."""

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from harness.extrapolate.cluster import NetworkTier
    from harness.extrapolate.elementwise import Count, Number

TOPOLOGIES = tuple(
    sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
)


class Topology(Protocol):
    """What a collective asks of a tier where `members` meet, `stride` chips from each other.

    All chips below the members are taken to send at once, each in a group of its own. Rates are
    in bytes per second per chip, in one direction.
    """

    IS_NETWORK: bool
    """Whether network cards send the messages, instead of the chips themselves."""

    def ring_steps(self, tier: "NetworkTier", stride: "Count", members: "Count") -> "Number":
        """Steps of a ring through the members."""

    def hops(self, tier: "NetworkTier", stride: "Count", members: "Count") -> "Number":
        """Latencies of the tier between the two members that are farthest apart."""

    def neighbour_bandwidth(
        self, tier: "NetworkTier", stride: "Count", members: "Count"
    ) -> "Number":
        """When each member sends to the next one in an order that follows the cables."""

    def scattered_bandwidth(
        self, tier: "NetworkTier", stride: "Count", members: "Count"
    ) -> "Number":
        """When each member sends to all others alike, or to far partners in turn."""


@cache
def load(name: str) -> Topology:
    """The topology of that name, which the configuration has checked."""
    return cast(Topology, importlib.import_module(f"{__name__}.{name}"))
