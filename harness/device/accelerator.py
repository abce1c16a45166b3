"""Any accelerator that torch knows, through `torch.accelerator` and `torch.Event` alone."""

import os
import re
import time
from pathlib import Path
from typing import Any

import torch

from harness.device.base import DeviceInfo, DeviceState, Timer
from harness.device.clock import HostClock
from harness.device.telemetry import NvidiaTelemetry

FALLBACK_CACHE_BYTES = 256 * 2**20
"""Assumed where the chip does not tell: triton.testing.do_bench clears as much."""
FLUSH_FACTOR = 2
"""A flush writes this many last-level caches (flashinfer-bench does the same)."""
EVENT_RESOLUTION_S = 0.5e-6
"""CUDA runtime API, cudaEventElapsedTime: resolution of around 0.5 microseconds."""


class EventTimer:
    """Times with events in the device's own stream, so that the host's delay is not counted."""

    kind = "device_event"
    resolution_s = EVENT_RESOLUTION_S

    def __init__(self, device: torch.device) -> None:
        self._start = torch.Event(device=device, enable_timing=True)
        self._stop = torch.Event(device=device, enable_timing=True)

    def start(self) -> None:
        """Record the start in the stream, behind whatever is queued."""
        self._start.record()

    def stop(self) -> float:
        """Record the end, wait for it, and return the seconds between the two."""
        self._stop.record()
        self._stop.synchronize()
        return float(self._start.elapsed_time(self._stop)) * 1e-3


def _timer(device: torch.device) -> Timer:
    """Events where the back-end can time them, else the host clock, which the record then says."""
    try:
        timer = EventTimer(device)
        timer.start()
        timer.stop()
    except (RuntimeError, TypeError):
        return HostClock(torch.accelerator.synchronize)
    return timer


def _driver_version() -> str:
    """The NVIDIA kernel driver's version as its own file tells it; empty elsewhere."""
    path = Path("/proc/driver/nvidia/version")
    if not path.exists():
        return ""
    found = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", path.read_text(encoding="utf-8"))
    return found.group(1) if found else ""


def _runtime(device_type: str) -> str:
    if device_type == "cuda":
        if torch.version.hip:
            return f"ROCm {torch.version.hip}"
        return f"CUDA {torch.version.cuda}"
    return device_type


class AcceleratorDevice:
    """The accelerator of that index, of whatever vendor torch was built or extended for."""

    def __init__(self, index: int = 0) -> None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        assert accelerator is not None, "the caller has checked that there is one"
        self.torch_device = torch.device(accelerator.type, index)
        torch.accelerator.set_device_index(index)
        module: Any = torch.get_device_module(self.torch_device)
        self._module = module
        properties: Any = None
        if hasattr(module, "get_device_properties"):
            properties = module.get_device_properties(index)
        name = getattr(properties, "name", None) or self.torch_device.type
        cache = getattr(properties, "L2_cache_size", None) or None
        uuid = str(getattr(properties, "uuid", "") or "")
        self.info = DeviceInfo(
            name=name,
            torch_device_type=self.torch_device.type,
            index=index,
            uuid=uuid,
            memory_bytes=getattr(properties, "total_memory", None),
            last_level_cache_bytes=cache,
            num_compute_units=getattr(properties, "multi_processor_count", None),
            driver=_driver_version(),
            runtime=_runtime(self.torch_device.type),
        )
        self.timer: Timer = _timer(self.torch_device)
        self._flush_buffer = torch.empty(
            FLUSH_FACTOR * (cache or FALLBACK_CACHE_BYTES),
            dtype=torch.int8,
            device=self.torch_device,
        )
        # NVML names a chip `GPU-<uuid>`; torch leaves the prefix out.
        self._telemetry = NvidiaTelemetry(f"GPU-{uuid}") if torch.version.cuda else None

    def state(self) -> DeviceState:
        """Clocks, power, temperature and throttling where the vendor's binding is there."""
        if self._telemetry is None:
            return DeviceState(load_average=os.getloadavg()[0])
        return self._telemetry.state()

    def now_s(self) -> float:
        """The host's monotonic clock."""
        return time.monotonic()

    def synchronize(self) -> None:
        """Wait until the device has finished everything."""
        torch.accelerator.synchronize()

    def flush_cache(self) -> None:
        """Write a buffer larger than the last-level cache, in the stream of the runs."""
        self._flush_buffer.zero_()

    @property
    def flush_bytes(self) -> int:
        """How many bytes one flush writes."""
        return self._flush_buffer.numel()

    def reset_peak_memory(self) -> None:
        """Start a new peak where the back-end keeps one."""
        if hasattr(self._module, "reset_peak_memory_stats"):
            self._module.reset_peak_memory_stats()

    def peak_memory_bytes(self) -> int | None:
        """Most bytes the allocator held since the reset, without the flush buffer."""
        if not hasattr(self._module, "max_memory_allocated"):
            return None
        return int(self._module.max_memory_allocated()) - self.flush_bytes

    def release_memory(self) -> None:
        """Give the allocator's cache back to the device."""
        if hasattr(self._module, "empty_cache"):
            self._module.empty_cache()
