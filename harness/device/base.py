"""The protocol every back-end answers to, and what is known of a device at a moment."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """What the device says of itself; unknown is None."""

    name: str
    """As the driver reports it: `NVIDIA H200`, `AMD EPYC 9654`."""
    torch_device_type: str
    index: int = 0
    uuid: str = ""
    memory_bytes: int | None = None
    last_level_cache_bytes: int | None = None
    num_compute_units: int | None = None
    """Streaming multiprocessors, compute units or cores that this process may use."""
    driver: str = ""
    runtime: str = ""
    """CUDA, ROCm, CANN ... with its version; the instruction set on a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """Clocks, power and temperature at a moment; None where the device does not tell."""

    clock_hz: float | None = None
    memory_clock_hz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    throttle_reasons: tuple[str, ...] = ()
    load_average: float | None = None
    """Runnable processes of the host over the last minute: other work shows here."""


class Timer(Protocol):
    """Times one run at a time; knows its own resolution."""

    kind: str
    resolution_s: float

    def start(self) -> None:
        """Begin a sample, once everything before it has finished on the device."""

    def stop(self) -> float:
        """End the sample, wait for the device and return seconds."""


class Device(Protocol):
    """A device that can hold tensors and be timed."""

    info: DeviceInfo
    torch_device: "torch.device"

    @property
    def timer(self) -> Timer:
        """The one timer of this device."""

    def state(self) -> DeviceState:
        """Clocks, power, temperature and throttling now."""

    def now_s(self) -> float:
        """The clock that time-outs are counted on, in seconds from an arbitrary moment."""

    def synchronize(self) -> None:
        """Wait until the device has finished everything."""

    def flush_cache(self, at_least_s: float = 0.0) -> None:
        """Push everything else out of the last-level cache.

        On a device that works behind the host, go on for at least that long, so that the host has
        queued what comes next before the device gets to it.
        """

    def is_usable(self) -> bool:
        """Whether it still computes; after some errors a device answers nothing but errors."""

    @property
    def flush_bytes(self) -> int:
        """How many bytes one flush writes."""

    def reset_peak_memory(self) -> None:
        """Start a new peak."""

    def peak_memory_bytes(self) -> int | None:
        """Most bytes allocated since the reset, or None where it cannot be told."""

    def release_memory(self) -> None:
        """Give cached memory back, so that the next case starts clean."""
