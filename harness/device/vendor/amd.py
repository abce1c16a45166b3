"""AMD: clocks, power, energy, temperature, throttling and processes, through AMD SMI.

Source: AMD SMI Python API (https://rocm.docs.amd.com/projects/amdsmi/, `amdsmi-py-api`). Its module
`amdsmi` comes with ROCm in /opt/rocm/share/amd_smi.
"""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.device.base import POWER_CAP, DeviceState
from harness.device.extras import Extras, Facts, Seen
from harness.device.processes import Occupants
from harness.device.telemetry import NoTelemetry, Telemetry, celsius, number

RESIDENCIES = {
    "ppt_residency_acc": POWER_CAP,
    "prochot_residency_acc": "processor hot",
    "socket_thm_residency_acc": "socket thermal limit",
    "vr_thm_residency_acc": "voltage regulator thermal limit",
    "hbm_thm_residency_acc": "memory thermal limit",
}
"""Counters that grow while the chip is held back for that reason; what grew since the last reading
was in between. amdsmi_get_violation_status tells the same, and waits 100 ms for it.

Source: Linux kernel, gpu_metrics_v1_6 in drivers/gpu/drm/amd/include/kgd_pp_interface.h.
"""

INFINITY_CACHE_BYTES = {"gfx942": 256 * 2**20, "gfx950": 256 * 2**20}
"""The last level of the cache by architecture: it is shared by the whole chip, while the L2 that
torch tells is one die's, 4 MiB.

Source: AMD CDNA 3 white paper, "AMD Infinity Cache": 256 MB; AMD CDNA 4 white paper: 256 MB.
"""

_DRIVER = Path("/sys/module/amdgpu/version")


def telemetry(seen: Seen) -> Telemetry:
    """AMD SMI's view of the chip, where the library is there and knows it."""
    try:
        smi = importlib.import_module("amdsmi")
        smi.amdsmi_init()
        handle = _handle(smi, seen)
    except Exception:  # A library of another ROCm fails in ways of its own.
        return NoTelemetry()
    return NoTelemetry() if handle is None else AmdSmiTelemetry(smi, handle)


def _handle(smi: ModuleType, seen: Seen) -> Any:
    """By its place on the bus; by being the only one where torch does not tell that."""
    if seen.pci_address:
        return smi.amdsmi_get_processor_handle_from_bdf(seen.pci_address)
    handles = smi.amdsmi_get_processor_handles()
    return handles[0] if len(handles) == 1 else None


class AmdSmiTelemetry:
    """Reads one chip; nearly all of it is in one table, so all fields are of one moment."""

    def __init__(self, smi: ModuleType, handle: Any) -> None:
        self._smi = smi
        self._handle = handle
        self._occupants = Occupants(self._processes)
        self.source = f"AMD SMI {getattr(smi, '__version__', '')}".strip()
        self._residencies = self._read_residencies(self._metrics())

    def state(self) -> DeviceState:
        """The state now; throttling is what happened since the last call."""
        metrics = self._metrics()
        latest = self._read_residencies(metrics)
        reasons = tuple(
            reason
            for name, reason in RESIDENCIES.items()
            if name in latest and latest[name] > self._residencies.get(name, latest[name])
        )
        self._residencies = latest
        return DeviceState(
            clock_hz=self._clock_hz(metrics),
            memory_clock_hz=number(metrics.get("current_uclk"), scale=1e6),
            power_w=_first(metrics, "current_socket_power", "average_socket_power"),
            energy_j=self._energy_j(),
            temperature_c=celsius(
                _first(metrics, "temperature_hotspot", "temperature_edge", least=-100.0)
            ),
            throttle_reasons=reasons,
            foreign_processes=self._occupants(),
        )

    def _metrics(self) -> dict[str, Any]:
        """The chip's table of metrics; what it has not got is the text `N/A`."""
        try:
            found = self._smi.amdsmi_get_gpu_metrics_info(self._handle)
        except Exception:
            return {}
        return found if isinstance(found, dict) else {}

    def _clock_hz(self, metrics: dict[str, Any]) -> float | None:
        """The mean of the dies' clocks where there are several, as on MI300."""
        clocks = metrics.get("current_gfxclks")
        known = [
            clock
            for clock in map(number, clocks if isinstance(clocks, list | tuple) else ())
            # 65535 stands for a die that is not there.
            if clock is not None and 0 < clock < 0xFFFF
        ]
        if known:
            return 1e6 * sum(known) / len(known)
        return number(metrics.get("current_gfxclk"), scale=1e6)

    def _energy_j(self) -> float | None:
        """Counter times resolution is microjoules. Source: amdsmi_get_energy_count."""
        try:
            found = self._smi.amdsmi_get_energy_count(self._handle)
            # Its name before ROCm 6.4 is `power`.
            count = number(found.get("energy_accumulator", found.get("power")))
            resolution = number(found["counter_resolution"])
        except Exception:
            return None
        return None if count is None or resolution is None else 1e-6 * count * resolution

    def _read_residencies(self, metrics: dict[str, Any]) -> dict[str, float]:
        found = {name: number(metrics.get(name)) for name in RESIDENCIES}
        return {name: value for name, value in found.items() if value is not None}

    def _processes(self) -> dict[int, str]:
        listed = self._smi.amdsmi_get_gpu_process_list(self._handle)
        return {
            int(one["pid"]): "" if one.get("name") in (None, "N/A") else str(one["name"])
            for one in listed
            if isinstance(one, dict)  # Handles, before ROCm 6.0.
        }


def _first(metrics: dict[str, Any], *names: str, least: float = 0.0) -> float | None:
    found = (number(metrics.get(name), least=least) for name in names)
    return next((value for value in found if value is not None), None)


def facts(seen: Seen) -> Facts:
    """The cache behind the L2, and the kernel driver's version."""
    architecture = str(getattr(seen.properties, "gcnArchName", "")).partition(":")[0]
    driver = ""
    if _DRIVER.exists():
        driver = _DRIVER.read_text(encoding="utf-8", errors="replace").strip()
    return Facts(
        last_level_cache_bytes=INFINITY_CACHE_BYTES.get(architecture),
        driver=f"amdgpu {driver}" if driver else "",
    )


EXTRAS = Extras(telemetry=telemetry, facts=facts)
