"""A processor under Linux: energy and power (RAPL), temperature and thermal throttling.

Source: Linux kernel, Documentation/power/powercap/powercap.rst (energy_uj, max_energy_range_uj),
Documentation/hwmon/coretemp.rst and k10temp.rst, Documentation/ABI/stable/sysfs-class-thermal in
its section thermal_zone, and Documentation/ABI/testing/sysfs-devices-system-cpu (thermal_throttle).
"""

from pathlib import Path

from harness.device.base import DeviceState
from harness.device.counter import CounterFile, EnergyCounter, read_number, read_text
from harness.device.telemetry import celsius

SENSORS = {"coretemp": "Package id", "k10temp": "Tctl", "zenpower": "Tdie"}
"""Drivers in hwmon, and what the label of the whole processor begins with."""
ZONES = ("x86_pkg_temp", "cpu-thermal", "cpu_thermal", "soc_thermal")
"""Thermal zones of a processor, for hosts without such a driver: x86 first, then Arm boards."""
THROTTLED = "processor thermal limit"


class LinuxCpuTelemetry:
    """Reads the kernel's files; those that are not there, as in a virtual machine, give None."""

    def __init__(self, sys: Path = Path("/sys")) -> None:
        zones = [zone for zone in _packages(sys) if zone.path.exists()]
        self._energy = EnergyCounter(zones)
        self._temperatures = _temperatures(sys)
        self._throttles = _throttle_counts(sys)
        self._num_throttled = self._count()
        has_energy = bool(zones) and self._energy.read()[0] is not None
        self.source = ", ".join(
            name
            for name, is_there in (
                ("RAPL", has_energy),
                ("hwmon", bool(self._temperatures)),
                ("thermal_throttle", bool(self._throttles)),
            )
            if is_there
        )

    def state(self) -> DeviceState:
        """The state now; power is the mean and throttling what happened since the last call."""
        energy_j, power_w = self._energy.read()
        temperatures = [celsius(read_number(path), 1e-3) for path in self._temperatures]
        known = [one for one in temperatures if one is not None]
        before, self._num_throttled = self._num_throttled, self._count()
        return DeviceState(
            energy_j=energy_j,
            power_w=power_w,
            # The hotter of two sockets is the one that throttles.
            temperature_c=max(known, default=None),
            throttle_reasons=(THROTTLED,) if self._num_throttled > before else (),
        )

    def _count(self) -> float:
        return sum(read_number(path) or 0.0 for path in self._throttles)


def unreadable_energy(sys: Path = Path("/sys")) -> tuple[Path, ...]:
    """Energy counters that are there and that only root may read, as is usual since 2020.

    Source: CVE-2020-8694; Linux 5.10 made energy_uj readable by root alone.
    """
    return tuple(
        zone.path
        for zone in _packages(sys)
        if zone.path.exists() and read_number(zone.path) is None
    )


def _packages(sys: Path) -> list[CounterFile]:
    """The counters of whole processors, without their parts, which are in the same sum."""
    found = []
    # AMD's processors are listed under Intel's name too.
    for zone in sorted((sys / "class" / "powercap").glob("intel-rapl:*")):
        if zone.name.count(":") == 1 and (read_text(zone / "name") or "").startswith("package"):
            found.append(
                CounterFile(
                    path=zone / "energy_uj", range_uj=read_number(zone / "max_energy_range_uj")
                )
            )
    return found


def _temperatures(sys: Path) -> tuple[Path, ...]:
    found = []
    for chip in sorted((sys / "class" / "hwmon").glob("hwmon*")):
        prefix = SENSORS.get(read_text(chip / "name") or "")
        if prefix is None:
            continue
        for label in sorted(chip.glob("temp*_label")):
            if (read_text(label) or "").startswith(prefix):
                found.append(label.with_name(label.name.replace("_label", "_input")))
    if found:
        return tuple(found)
    zones = sorted((sys / "class" / "thermal").glob("thermal_zone*"))
    return tuple(zone / "temp" for zone in zones if read_text(zone / "type") in ZONES)


def _throttle_counts(sys: Path) -> tuple[Path, ...]:
    """One counter for each processor: all of its cores show the same."""
    found: dict[str, Path] = {}
    for core in sorted((sys / "devices" / "system" / "cpu").glob("cpu[0-9]*")):
        count = core / "thermal_throttle" / "package_throttle_count"
        if count.exists():
            package = read_text(core / "topology" / "physical_package_id") or "0"
            found.setdefault(package, count)
    return tuple(found.values())
