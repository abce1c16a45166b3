"""The protocol every back-end answers to, and what is known of a device at a moment."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")


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
    backend: str = ""
    """The package that opened it, where it is not chipscale itself: `acme-chips 1.2`."""
    telemetry: str = ""
    """What its state is read with, as `NVML 575.57`; empty where nothing can be read."""


POWER_CAP = "power cap"
"""The reason for lower clocks that a chip gives which draws all the power it may."""
CLOCK_SETTING = "clock setting"
"""Somebody asked for lower clocks, as `nvidia-smi -lgc` or an application does."""
SYNC_BOOST = "sync boost"
"""The chip keeps to the clocks of others it is grouped with."""
BOARD_LIMIT = "board limit"
RELIABILITY_LIMIT = "reliability limit"
LASTING_REASONS = (POWER_CAP, CLOCK_SETTING, SYNC_BOOST, BOARD_LIMIT, RELIABILITY_LIMIT)
"""Reasons that are as they are however long the chip rests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """Clocks, power, energy, temperature at a moment; None where the device does not tell."""

    clock_hz: float | None = None
    memory_clock_hz: float | None = None
    power_w: float | None = None
    energy_j: float | None = None
    """A counter from an arbitrary start; only differences mean something."""
    temperature_c: float | None = None
    throttle_reasons: tuple[str, ...] = ()
    load_average: float | None = None
    """Runnable processes of the host over the last minute: other work shows here."""
    foreign_processes: tuple[str, ...] = ()
    """Other programs that hold this device, as `python (4711)`."""
    age_s: float = 0.0
    """How old the readings are: a tool that takes a second is not asked at every moment."""

    @property
    def is_throttled(self) -> bool:
        """The device runs slower than asked, for a reason that a rest takes away.

        At its power limit, or at clocks that somebody set, a chip runs as it always will under such
        work, so that is no throttling.
        """
        return any(reason not in LASTING_REASONS for reason in self.throttle_reasons)


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

    def flush_cache(self) -> None:
        """Push everything else out of the last-level cache."""

    def hold(self, seconds: float) -> bool:
        """Keep the device busy that long without touching its caches, and return at once.

        The host queues the next run meanwhile, so that its delay is no part of the sample. False
        on a device that does not work behind the host: there is nothing to hold.
        """

    def capture(self, run: Callable[[], Result]) -> Callable[[], Result] | None:
        """A replay of everything the run gives the device, or None where that cannot be kept.

        It returns the outputs of the captured run, which every replay writes anew.
        """

    def pause(self, seconds: float) -> None:
        """Let the device rest, as after it was throttled."""

    def is_usable(self) -> bool:
        """Whether it still computes; after some errors a device answers nothing but errors."""

    @property
    def flush_bytes(self) -> int:
        """How many bytes one flush writes."""

    def reset_peak_memory(self) -> None:
        """Start a new peak."""

    def peak_memory_bytes(self) -> int | None:
        """Most bytes allocated since the reset, or None where it cannot be told."""

    def available_memory_bytes(self) -> int | None:
        """What may still be allocated now, or None where it cannot be told."""

    def release_memory(self) -> None:
        """Give cached memory back, so that the next case starts clean."""
