"""The PCI bus: which makers' chips are on it, driver or not, and where a chip is."""

from collections import Counter
from pathlib import Path

ACCELERATOR_CLASSES = ("0300", "0302", "0380", "0b40", "1200")
"""VGA, 3D and other display controllers, co-processors, and processing accelerators.

Source: PCI Code and ID Assignment Specification; https://pci-ids.ucw.cz/read/PD
"""
_BUS = Path("/sys/bus/pci/devices")


def accelerators(bus: Path = _BUS) -> Counter[str]:
    """How many display controllers and accelerators of each maker, by its number, as `10de`."""
    found: Counter[str] = Counter()
    for device in bus.iterdir() if bus.is_dir() else ():
        try:
            vendor = (device / "vendor").read_text(encoding="ascii").strip()
            kind = (device / "class").read_text(encoding="ascii").strip()
        except OSError:
            continue
        if kind.removeprefix("0x")[:4] in ACCELERATOR_CLASSES:
            found[vendor.removeprefix("0x")] += 1
    return found


def address_of(properties: object) -> str:
    """`0000:c1:00.0`, from what a back-end's `get_device_properties` gave; empty if not told."""
    names = ("pci_domain_id", "pci_bus_id", "pci_device_id")
    domain, bus, slot = (getattr(properties, name, None) for name in names)
    if not (isinstance(domain, int) and isinstance(bus, int) and isinstance(slot, int)):
        return ""
    return f"{domain:04x}:{bus:02x}:{slot:02x}.0"
