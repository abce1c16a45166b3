"""NVIDIA: clocks, power, energy, temperature, throttle reasons and processes, through NVML.

Source: NVML API reference (https://docs.nvidia.com/deploy/nvml-api/), and its Python binding
nvidia-ml-py, whose module is `pynvml`.
"""

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.device.base import (
    BOARD_LIMIT,
    CLOCK_SETTING,
    POWER_CAP,
    RELIABILITY_LIMIT,
    SYNC_BOOST,
    DeviceState,
)
from harness.device.extras import Extras, Facts, Seen
from harness.device.processes import Occupants
from harness.device.telemetry import NoTelemetry, Telemetry, celsius, number

REASONS = {
    0x002: CLOCK_SETTING,
    0x004: POWER_CAP,
    0x008: "hardware slowdown",
    0x010: SYNC_BOOST,
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "hardware power brake",
    0x100: CLOCK_SETTING,
    0x200: BOARD_LIMIT,
    0x400: RELIABILITY_LIMIT,
}
"""Bits of nvmlClocksEventReasons. Bit 0x1 says that the chip is idle, as it is between two turns,
and is no reason why it would run slower. Bit 0x100 is clocks set for a display.

Source: NVML API reference, section NvmlClocksEventReasons; bits 0x200 and 0x400 are in nvml.h.
"""

POWER_FIELD = 186
"""NVML_FI_DEV_POWER_INSTANT, in bindings that do not name it.

Source: nvml.h, "Current GPU power, supported on all architectures"; in milliwatts.
"""
LATEST_INSTANT = (8, 0)
"""Compute capability of GA100. `nvmlDeviceGetPowerUsage` is of the moment up to it, and the mean
over the last second on all newer chips: a turn of 20 ms is a fiftieth of that.

Source: NVML API reference, nvmlDeviceGetPowerUsage.
"""
MEAN_POWER = "power is a mean over 1 s"

_DRIVER = Path("/proc/driver/nvidia/version")


def _load() -> ModuleType | None:
    """The binding, initialised, or None on a host that has none."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # An absent driver has many names here, and none may stop a measurement.
        return None
    return nvml


def telemetry(seen: Seen) -> Telemetry:
    """NVML's view of the chip, where binding and driver are there and know it."""
    nvml = _load()
    if nvml is None:
        return NoTelemetry()
    handle = _handle(nvml, seen)
    return NoTelemetry() if handle is None else NvmlTelemetry(nvml, handle)


def _handle(nvml: ModuleType, seen: Seen) -> Any:
    """By the chip's own number, since NVML counts also those that this process does not see."""
    # NVML names a chip `GPU-<uuid>`, and a part of one `MIG-<uuid>`; torch leaves that out.
    for name in (f"GPU-{seen.uuid}", f"MIG-{seen.uuid}", seen.uuid) if seen.uuid else ():
        try:
            return nvml.nvmlDeviceGetHandleByUUID(name)
        except Exception:  # The next name may be the one.
            continue
    if seen.pci_address:
        try:
            return nvml.nvmlDeviceGetHandleByPciBusId(seen.pci_address)
        except Exception:
            return None
    return None


class NvmlTelemetry:
    """Reads one chip. Each sensor is asked by itself: boards differ in those that they have."""

    def __init__(self, nvml: ModuleType, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle
        self._occupants = Occupants(self._processes)
        driver = self._asked("nvmlSystemGetDriverVersion", of_chip=False)
        self._has_power_field = self._power_of_field_w() is not None
        name = f"NVML {driver}" if driver else "NVML"
        self.source = name if self._is_power_instant() else f"{name}, {MEAN_POWER}"

    def state(self) -> DeviceState:
        """The state now; takes one to three milliseconds."""
        nvml = self._nvml
        return DeviceState(
            clock_hz=number(
                self._asked("nvmlDeviceGetClockInfo", getattr(nvml, "NVML_CLOCK_SM", 1)), scale=1e6
            ),
            memory_clock_hz=number(
                self._asked("nvmlDeviceGetClockInfo", getattr(nvml, "NVML_CLOCK_MEM", 2)), scale=1e6
            ),
            power_w=self._power_w(),
            energy_j=number(self._asked("nvmlDeviceGetTotalEnergyConsumption"), scale=1e-3),
            temperature_c=celsius(
                self._asked("nvmlDeviceGetTemperature", getattr(nvml, "NVML_TEMPERATURE_GPU", 0))
            ),
            throttle_reasons=self._reasons(),
            foreign_processes=self._occupants(),
        )

    def _asked(self, name: str, *arguments: object, of_chip: bool = True) -> Any:
        """What the function answers, or None where this board, driver or binding has it not."""
        try:
            function = getattr(self._nvml, name)
            return function(self._handle, *arguments) if of_chip else function(*arguments)
        except Exception:
            return None

    def _power_w(self) -> float | None:
        """Always by the same function, since the two mean different things."""
        if self._has_power_field:
            return self._power_of_field_w()
        return number(self._asked("nvmlDeviceGetPowerUsage"), scale=1e-3)

    def _power_of_field_w(self) -> float | None:
        """Of the moment, as newer drivers tell it; None where this one does not."""
        field = getattr(self._nvml, "NVML_FI_DEV_POWER_INSTANT", POWER_FIELD)
        answer = self._asked("nvmlDeviceGetFieldValues", [field])
        try:
            if answer[0].nvmlReturn != 0:  # NVML_SUCCESS; each field has its own.
                return None
            # A chip that computes draws power: zero is no reading.
            return number(answer[0].value.uiVal, scale=1e-3) or None
        except (TypeError, IndexError, AttributeError):
            return None

    def _is_power_instant(self) -> bool:
        """Whether the power is one of the moment; also where this chip has no power at all."""
        if self._has_power_field or self._power_w() is None:
            return True
        capability = self._asked("nvmlDeviceGetCudaComputeCapability")
        try:
            return tuple(int(part) for part in capability) <= LATEST_INSTANT
        except (TypeError, ValueError):
            return False

    def _reasons(self) -> tuple[str, ...]:
        bits = self._asked("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:  # Its name before driver 535.
            bits = self._asked("nvmlDeviceGetCurrentClocksThrottleReasons")
        if not isinstance(bits, int):
            return ()
        return tuple(dict.fromkeys(name for bit, name in REASONS.items() if bits & bit))

    def _processes(self) -> dict[int, str]:
        """Programs that compute on the chip, also through MPS; the kernel knows their names."""
        found: dict[int, str] = {}
        for name in (
            "nvmlDeviceGetComputeRunningProcesses",
            "nvmlDeviceGetMPSComputeRunningProcesses",
        ):
            for process in self._asked(name) or ():
                found[int(process.pid)] = ""
        return found


def facts(seen: Seen) -> Facts:
    """The kernel driver's version, as its own file tells it; torch tells the rest."""
    del seen
    if not _DRIVER.exists():
        return Facts()
    text = _DRIVER.read_text(encoding="utf-8", errors="replace")
    found = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", text)
    return Facts(driver=found.group(1) if found else "")


EXTRAS = Extras(telemetry=telemetry, facts=facts)
