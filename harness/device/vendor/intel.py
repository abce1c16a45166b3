"""Intel GPUs: clock, power, energy, temperature and throttle reasons, from the kernel's own files.

Files of a driver are read in microseconds, where xpu-smi takes a second.

Source: Linux kernel, Documentation/ABI/testing/sysfs-driver-intel-xe-hwmon and
sysfs-driver-intel-i915-hwmon; drivers/gpu/drm/xe/xe_gt_throttle.c and xe_gt_freq.c;
drivers/gpu/drm/i915/gt/intel_gt_sysfs_pm.c.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from harness.device.accelerator import AcceleratorDevice
from harness.device.base import POWER_CAP, Device, DeviceState
from harness.device.counter import CounterFile, EnergyCounter, read_number
from harness.device.extras import Extras, Facts, Seen
from harness.device.telemetry import NoTelemetry, Telemetry, celsius, number, physical_index

DRIVERS = ("xe", "i915")
REASONS = {
    "pl1": POWER_CAP,
    "pl2": POWER_CAP,
    "pl4": "peak current limit",
    "thermal": "thermal limit",
    "prochot": "processor hot",
    "ratl": "average temperature limit",
    "vr_thermalert": "voltage regulator thermal limit",
    "vr_tdc": "voltage regulator current limit",
}
"""PL1 and PL2 are limits of sustained power. Source: xe_gt_throttle.c, DOC: Xe GT Throttle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Where the kernel shows one GPU."""

    device: Path
    """`/sys/class/drm/card0/device`, with its links resolved."""
    clocks: tuple[Path, ...]
    """Files of MHz, one for each part of the chip that computes."""
    reasons: dict[Path, str]
    """Files that are 1 while the chip is held back for that reason."""


def cards(root: Path = Path("/sys/class/drm")) -> list[Card]:
    """Intel's GPUs in the order of their addresses on the bus, as Level Zero lists them."""
    found = []
    for entry in sorted(root.glob("card*")) if root.is_dir() else ():
        if not entry.name.removeprefix("card").isdigit():
            continue  # card0-DP-1 is a connector.
        device = (entry / "device").resolve()
        if (device / "driver").resolve().name not in DRIVERS:
            continue
        xe = sorted(device.glob("tile*/gt*/freq0"))
        i915 = sorted(entry.glob("gt/gt*"))
        found.append(
            Card(
                device=device,
                clocks=tuple(path / "act_freq" for path in xe)
                or tuple(path / "rps_act_freq_mhz" for path in i915),
                reasons={
                    path / "throttle" / f"reason_{name}": reason
                    for path in xe
                    for name, reason in REASONS.items()
                }
                | {
                    path / f"throttle_reason_{name}": reason
                    for path in i915
                    for name, reason in REASONS.items()
                },
            )
        )
    return sorted(found, key=lambda card: card.device.name)


def telemetry(seen: Seen) -> Telemetry:
    """The kernel's view of the chip, where it is certain which of its cards that is."""
    index = physical_index(seen.index, "ZE_AFFINITY_MASK")
    found = cards()
    if seen.pci_address:
        return next(
            (IntelTelemetry(card) for card in found if card.device.name == seen.pci_address),
            NoTelemetry(),
        )
    # With a processor's graphics among them, places say nothing.
    if index is None or len(found) != torch.accelerator.device_count() or index >= len(found):
        return NoTelemetry()
    return IntelTelemetry(found[index])


class IntelTelemetry:
    """Reads one card's files."""

    def __init__(self, card: Card) -> None:
        self._card = card
        hwmon = sorted(card.device.glob("hwmon/hwmon*"))
        # Channel 1 is the card; 2 is the package, where the card as a whole is not counted.
        energies = [path for one in hwmon for path in sorted(one.glob("energy[12]_input"))][:1]
        self._energy = EnergyCounter([CounterFile(path=path) for path in energies])
        self._temperatures = [one / "temp2_input" for one in hwmon]
        self.source = f"sysfs of {(card.device / 'driver').resolve().name}"

    def state(self) -> DeviceState:
        """The state now; power is the mean since the last call."""
        energy_j, power_w = self._energy.read()
        clocks = [read_number(path) for path in self._card.clocks]
        known = [clock for clock in clocks if clock]
        temperatures = [celsius(read_number(path), 1e-3) for path in self._temperatures]
        return DeviceState(
            clock_hz=number(sum(known) / len(known), scale=1e6) if known else None,
            power_w=power_w,
            energy_j=energy_j,
            temperature_c=next((one for one in temperatures if one is not None), None),
            throttle_reasons=tuple(
                dict.fromkeys(
                    reason
                    for path, reason in self._card.reasons.items()
                    if read_number(path) == 1.0
                )
            ),
        )


def facts(seen: Seen) -> Facts:
    """Execution units and driver as torch's xpu back-end calls them."""
    return Facts(
        last_level_cache_bytes=seen.told("last_level_cache_size"),
        num_compute_units=seen.told("gpu_subslice_count", "max_compute_units"),
        driver=str(getattr(seen.properties, "driver_version", "") or ""),
    )


EXTRAS = Extras(telemetry=telemetry, facts=facts)


def open_device(index: int) -> Device:
    """The GPU of that index."""
    return AcceleratorDevice(index, EXTRAS)
