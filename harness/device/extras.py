"""What a vendor's file adds to the generic accelerator: telemetry, and what torch does not tell."""

from collections.abc import Callable
from dataclasses import dataclass

from harness.device.telemetry import NoTelemetry, Telemetry


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What torch says of a chip, by which a vendor's tools find the same one."""

    index: int
    name: str
    uuid: str = ""
    pci_address: str = ""
    """`0000:c1:00.0`; empty where torch does not tell."""
    properties: object = None
    """What the back-end's `get_device_properties` gave."""

    def told(self, *names: str) -> int | None:
        """The first of these properties that is there and not zero."""
        for name in names:
            found = getattr(self.properties, name, None)
            if isinstance(found, int | float) and found:
                return int(found)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a vendor's file knows better than torch; None and empty where torch's word holds."""

    memory_bytes: int | None = None
    last_level_cache_bytes: int | None = None
    num_compute_units: int | None = None
    driver: str = ""


def no_telemetry(seen: Seen) -> Telemetry:
    """Of a vendor whose tools are not known here."""
    del seen
    return NoTelemetry()


def no_facts(seen: Seen) -> Facts:
    """Of a vendor whose back-end tells all there is."""
    del seen
    return Facts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """One vendor's additions."""

    telemetry: Callable[[Seen], Telemetry] = no_telemetry
    facts: Callable[[Seen], Facts] = no_facts
