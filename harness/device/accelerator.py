"""Any accelerator that torch knows, through `torch.accelerator` and `torch.Event` alone."""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from harness.device.base import Device, DeviceInfo, DeviceState, Result, Timer
from harness.device.clock import HostClock
from harness.device.extras import Extras, Facts, Seen
from harness.device.graph import capture
from harness.device.hold import Hold
from harness.device.host_memory import release_to_system
from harness.device.pci import address_of
from harness.device.usable import is_usable

FALLBACK_CACHE_BYTES = 256 * 2**20
"""Assumed where the chip does not tell: triton.testing.do_bench clears as much."""
FLUSH_FACTOR = 2
"""A flush writes this many last-level caches (flashinfer-bench does the same)."""
EVENT_RESOLUTION_S = 0.5e-6
"""CUDA runtime API, cudaEventElapsedTime: resolution of around 0.5 microseconds."""
NO_EXTRAS = Extras()


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
    # A device that cannot even be waited for is broken, which is no reason for another timer.
    torch.accelerator.synchronize()
    try:
        timer = EventTimer(device)
        timer.start()
        timer.stop()
    except (RuntimeError, TypeError, AttributeError):
        return HostClock(torch.accelerator.synchronize)
    return timer


def _runtime(device_type: str) -> str:
    if device_type == "cuda":
        if torch.version.hip:
            return f"ROCm {torch.version.hip}"
        return f"CUDA {torch.version.cuda}"
    # As `torch.version.musa` and `torch.version.xpu`, where an extension puts it there.
    version = getattr(torch.version, device_type, None)
    return f"{device_type} {version}" if version else device_type


class AcceleratorDevice:
    """The accelerator of that index, of whatever vendor torch was built or extended for.

    Args:
        index: as torch counts.
        extras: what the vendor's file adds; all else is asked of torch.
    """

    def __init__(self, index: int = 0, extras: Extras = NO_EXTRAS) -> None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        assert accelerator is not None, "the caller has checked that there is one"
        self.torch_device = torch.device(accelerator.type, index)
        torch.accelerator.set_device_index(index)
        seen = _seen(self.torch_device)
        self._telemetry = extras.telemetry(seen)
        self.info = replace(
            _info(self.torch_device, seen, extras.facts(seen)), telemetry=self._telemetry.source
        )
        self.timer: Timer = _timer(self.torch_device)
        self._flush_buffer = torch.empty(
            FLUSH_FACTOR * (self.info.last_level_cache_bytes or FALLBACK_CACHE_BYTES),
            dtype=torch.int8,
            device=self.torch_device,
        )
        self._hold = Hold(self.torch_device, self.timer)

    def now_s(self) -> float:
        """The host's monotonic clock."""
        return time.monotonic()

    def state(self) -> DeviceState:
        """What the vendor's tools tell, with the host's load."""
        return replace(self._telemetry.state(), load_average=os.getloadavg()[0])

    def synchronize(self) -> None:
        """Wait until the device has finished everything."""
        torch.accelerator.synchronize()

    def is_usable(self) -> bool:
        """Whether it still allocates and computes; an error may have poisoned the context."""
        return is_usable(self.torch_device)

    def flush_cache(self) -> None:
        """Write a buffer larger than the last-level cache, in the stream of the runs."""
        self._flush_buffer.zero_()

    def hold(self, seconds: float) -> bool:
        """Keep the stream busy; the host's clock would wait for that, so there it is not done."""
        if self.timer.kind == HostClock.kind:
            return False
        self._hold(seconds)
        return True

    def capture(self, run: Callable[[], Result]) -> Callable[[], Result] | None:
        """A graph of the run's work, where the back-end has graphs."""
        return capture(run, self.torch_device)

    def pause(self, seconds: float) -> None:
        """Sleep with nothing queued."""
        torch.accelerator.synchronize()
        time.sleep(seconds)

    @property
    def flush_bytes(self) -> int:
        """How many bytes one flush writes."""
        return self._flush_buffer.numel()

    def reset_peak_memory(self) -> None:
        """Start a new peak where the back-end keeps one."""
        with contextlib.suppress(RuntimeError):
            torch.accelerator.reset_peak_memory_stats()

    def peak_memory_bytes(self) -> int | None:
        """Most bytes the allocator held since the reset, without the flush buffer."""
        try:
            return int(torch.accelerator.max_memory_allocated()) - self.flush_bytes
        except RuntimeError:
            return None

    def available_memory_bytes(self) -> int | None:
        """Free memory, and what the allocator holds without need; None where it is not told."""
        try:
            free, _ = torch.accelerator.get_memory_info(self.torch_device)
            idle = torch.accelerator.memory_reserved() - torch.accelerator.memory_allocated()
        except (RuntimeError, AttributeError):
            return None
        return int(free) + int(idle)

    def release_memory(self) -> None:
        """Give the allocator's cache back to the device, and free memory to the host."""
        with contextlib.suppress(RuntimeError):
            torch.accelerator.empty_cache()
        # References in fp64 were there, and the worker keeps freed memory otherwise.
        release_to_system()


def _seen(device: torch.device) -> Seen:
    """What the back-end tells of the chip; back-ends differ in what they know."""
    module = torch.get_device_module(device)
    properties: object = None
    if hasattr(module, "get_device_properties"):
        properties = module.get_device_properties(device.index)
    return Seen(
        index=device.index,
        name=str(getattr(properties, "name", "") or device.type),
        uuid=str(getattr(properties, "uuid", "") or ""),
        pci_address=address_of(properties),
        properties=properties,
    )


def _info(device: torch.device, seen: Seen, facts: Facts) -> DeviceInfo:
    """A vendor's word before torch's: it is there where torch's is missing or means another."""
    return DeviceInfo(
        name=seen.name,
        torch_device_type=device.type,
        index=device.index,
        uuid=seen.uuid,
        memory_bytes=facts.memory_bytes or seen.told("total_memory"),
        last_level_cache_bytes=facts.last_level_cache_bytes or seen.told("L2_cache_size"),
        num_compute_units=facts.num_compute_units or seen.told("multi_processor_count"),
        driver=facts.driver,
        runtime=_runtime(device.type),
    )


def open_device(index: int) -> Device:
    """The accelerator of that index by torch's word alone, of a vendor with no file here."""
    return AcceleratorDevice(index)
