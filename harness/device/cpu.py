"""The CPU as a device of its own: host clock, last-level cache from the kernel's tables."""

import os
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from harness.device.base import DeviceInfo, DeviceState, Result, Timer
from harness.device.clock import HostClock
from harness.device.host_memory import available_memory_bytes, release_to_system
from harness.device.vendor.linux_cpu import LinuxCpuTelemetry

FALLBACK_CACHE_BYTES = 64 * 2**20
"""Assumed where the operating system does not tell: larger than most last-level caches, since a
flush that is too large costs time and one that is too small costs truth."""
FLUSH_FACTOR = 2
"""A flush writes this many last-level caches, because their replacement is not strictly by age."""

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_SUFFIXES = {"K": 2**10, "M": 2**20, "G": 2**30}


def last_level_cache_bytes() -> int | None:
    """Size of the largest cache that the first core sees, or None where it is not told."""
    sizes = []
    for path in _CACHES.glob("index*/size"):
        text = path.read_text(encoding="ascii").strip()
        if text and text[-1] in _SUFFIXES and text[:-1].isdigit():
            sizes.append(int(text[:-1]) * _SUFFIXES[text[-1]])
    return max(sizes, default=None)


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _clock_hz() -> float | None:
    """Mean of the cores' current clocks where the kernel shows them."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return None
    clocks_mhz = [
        float(line.partition(":")[2])
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.startswith("cpu MHz")
    ]
    return 1e6 * sum(clocks_mhz) / len(clocks_mhz) if clocks_mhz else None


class CpuDevice:
    """The processor this process runs on, with as many cores as it may use."""

    def __init__(self, processor: str, num_cores: int) -> None:
        self.torch_device = torch.device("cpu")
        self.timer: Timer = HostClock(self.synchronize)
        self._telemetry = LinuxCpuTelemetry()
        cache = last_level_cache_bytes()
        self.info = DeviceInfo(
            name=processor,
            torch_device_type="cpu",
            memory_bytes=_memory_bytes(),
            last_level_cache_bytes=cache,
            num_compute_units=num_cores,
            driver=platform.release(),
            runtime=torch.backends.cpu.get_cpu_capability(),
            telemetry=self._telemetry.source,
        )
        self._flush_buffer = torch.ones(
            FLUSH_FACTOR * (cache or FALLBACK_CACHE_BYTES), dtype=torch.int8
        )

    def state(self) -> DeviceState:
        """Clock and load, and what the kernel shows of energy, temperature and throttling."""
        return replace(
            self._telemetry.state(), clock_hz=_clock_hz(), load_average=os.getloadavg()[0]
        )

    def now_s(self) -> float:
        """The host's monotonic clock."""
        return time.monotonic()

    def synchronize(self) -> None:
        """Nothing to wait for: a call on the CPU returns when it is done."""

    def flush_cache(self) -> None:
        """Write a buffer larger than the last-level cache."""
        self._flush_buffer.add_(1)

    def hold(self, seconds: float) -> bool:
        """Nothing is queued here: the work begins when it is called."""
        del seconds
        return False

    def capture(self, run: Callable[[], Result]) -> Callable[[], Result] | None:
        """A processor has no graphs to replay."""
        del run
        return None

    def pause(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)

    def is_usable(self) -> bool:
        """A process that still runs can compute."""
        return True

    @property
    def flush_bytes(self) -> int:
        """How many bytes one flush writes."""
        return self._flush_buffer.numel()

    def reset_peak_memory(self) -> None:
        """Start a new peak of the process where the kernel allows it."""
        reset = Path("/proc/self/clear_refs")
        if reset.exists() and os.access(reset, os.W_OK):
            reset.write_text("5", encoding="ascii")

    def peak_memory_bytes(self) -> int | None:
        """Highest resident size of the process since the reset, the interpreter included."""
        status = Path("/proc/self/status")
        if status.exists():
            for line in status.read_text(encoding="ascii", errors="replace").splitlines():
                if line.startswith("VmHWM"):
                    return int(line.split()[1]) * 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10

    def available_memory_bytes(self) -> int | None:
        """What the kernel would give without swapping, within the limit of this container."""
        return available_memory_bytes()

    def release_memory(self) -> None:
        """Have the C library give its free memory back, where it is glibc."""
        release_to_system()
