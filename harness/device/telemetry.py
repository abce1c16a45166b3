"""Clocks, power, temperature and throttling of an NVIDIA chip, where nvidia-ml-py is installed."""

import importlib
import os
from types import ModuleType

from harness.device.base import POWER_CAP, DeviceState

_THROTTLE_BITS = {
    0x04: POWER_CAP,
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""nvmlClocksEventReasons bits that mean the chip runs slower than asked.

Source: NVML API reference, section NvmlClocksEventReasons.
"""


def _load() -> ModuleType | None:
    """The binding, initialised, or None on a host that has none."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # an absent driver has many names here, and none may stop a measurement
        return None
    return nvml


class NvidiaTelemetry:
    """Reads the state of one chip; all fields are None where nothing can be read."""

    def __init__(self, uuid: str) -> None:
        self._nvml = _load()
        self._handle = None
        if self._nvml is not None:
            try:
                self._handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
            except self._nvml.NVMLError:
                self._handle = None

    def state(self) -> DeviceState:
        """The state now."""
        load_average = os.getloadavg()[0]
        if self._nvml is None or self._handle is None:
            return DeviceState(load_average=load_average)
        nvml, handle = self._nvml, self._handle
        try:
            reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
            return DeviceState(
                clock_hz=1e6 * nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
                memory_clock_hz=1e6 * nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
                power_w=1e-3 * nvml.nvmlDeviceGetPowerUsage(handle),
                energy_j=self._energy_j(),
                temperature_c=float(
                    nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
                ),
                throttle_reasons=tuple(
                    name for bit, name in _THROTTLE_BITS.items() if reasons & bit
                ),
                load_average=load_average,
            )
        except nvml.NVMLError:
            return DeviceState(load_average=load_average)

    def _energy_j(self) -> float | None:
        """The counter, which chips before Volta do not have."""
        assert self._nvml is not None
        try:
            return 1e-3 * float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError:
            return None
