"""A chip that is not there: a virtual clock with seeded noise, drift, throttling and faults.

The whole command line runs on it in a fraction of the time that real work takes, so every path,
failures included, can be tried and tested anywhere. Its numbers mean nothing and are named so.
"""

from collections.abc import Callable

import numpy as np
import torch

from harness.device.base import DeviceInfo, DeviceState, Result, Timer
from harness.device.request import FakeOptions

CACHE_BYTES = 64 * 2**20
BUSY_POWER_W = 400.0
IDLE_POWER_W = 100.0
"""Made up, as everything of the fake chip."""
NOISES = 1024
"""Drawn at once."""


class VirtualTimer:
    """Reads the fake chip's own clock."""

    kind = "virtual_clock"
    resolution_s = 1e-9

    def __init__(self, device: "FakeDevice") -> None:
        self._device = device
        self._started_s = 0.0

    def start(self) -> None:
        """Read the clock."""
        self._started_s = self._device.now_s()

    def stop(self) -> float:
        """Seconds of virtual time since the start."""
        return self._device.now_s() - self._started_s


class FakeDevice:
    """Behaves as FakeOptions say; advances its clock in place of computing."""

    def __init__(self, options: FakeOptions, index: int = 0) -> None:
        self.options = options
        self.torch_device = torch.device("cpu")
        self.is_poisoned = False
        self._now_s = 0.0
        self._energy_j = 0.0
        self._is_flushed = True
        self.timer: Timer = VirtualTimer(self)
        self._generator = np.random.default_rng((options.seed, index))
        self._noises: list[float] = []
        self._slowness = float(np.exp(self._generator.normal(0.0, options.spread)))
        self.info = DeviceInfo(
            name=options.chip,
            torch_device_type="fake",
            index=index,
            uuid=f"fake-{options.seed}-{index}",
            memory_bytes=options.memory_bytes,
            last_level_cache_bytes=CACHE_BYTES,
            num_compute_units=100,
            driver="none",
            runtime="virtual clock",
        )

    @property
    def is_throttled(self) -> bool:
        """Whether the virtual time is past the throttling point."""
        after_s = self.options.throttle_after_s
        return after_s is not None and self._now_s >= after_s

    def advance(self, ideal_s: float) -> None:
        """Let the time pass that work of `ideal_s` seconds takes on this chip."""
        seconds = (self.options.launch_s + ideal_s) * self._slowness
        seconds *= 1.0 + self.options.drift_per_s * self._now_s
        if self.is_throttled:
            seconds *= self.options.throttle_factor
        seconds *= self._noise()
        self._now_s += seconds
        self._energy_j += BUSY_POWER_W * seconds
        self._is_flushed = False

    def bandwidth_bytes_per_s(self, num_bytes: int) -> float:
        """What the next run has, if it moves so much and the run before it moved the same."""
        is_cached = not self._is_flushed and num_bytes <= CACHE_BYTES
        options = self.options
        if is_cached:
            return options.cache_bandwidth_bytes_per_s
        return options.memory_bandwidth_bytes_per_s

    def _noise(self) -> float:
        """The next factor; drawn many at once, which takes a tenth of the time."""
        if not self._noises:
            drawn = np.exp(self._generator.normal(0.0, self.options.noise, size=NOISES))
            self._noises = drawn[::-1].tolist()
        return self._noises.pop()

    def state(self) -> DeviceState:
        """A made-up state that shows whether it throttles."""
        return DeviceState(
            clock_hz=1e9 if self.is_throttled else 1.5e9,
            power_w=BUSY_POWER_W,
            energy_j=self._energy_j,
            temperature_c=60.0,
            throttle_reasons=("virtual throttling",) if self.is_throttled else (),
        )

    def now_s(self) -> float:
        """Virtual time."""
        return self._now_s

    def synchronize(self) -> None:
        """Nothing is under way."""

    def is_usable(self) -> bool:
        """Until the fault `poison` was acted out."""
        return not self.is_poisoned

    def flush_cache(self) -> None:
        """A flush takes time between samples, not within them."""
        self._now_s += self.flush_bytes / self.options.memory_bandwidth_bytes_per_s
        self._is_flushed = True

    def hold(self, seconds: float) -> bool:
        """A virtual host takes no time, so there is nothing to hold for."""
        del seconds
        return False

    def capture(self, run: Callable[[], Result]) -> Callable[[], Result] | None:
        """No graphs."""
        del run
        return None

    def pause(self, seconds: float) -> None:
        """Virtual time passes, and the chip draws its idle power meanwhile."""
        self._now_s += seconds
        self._energy_j += IDLE_POWER_W * seconds

    @property
    def flush_bytes(self) -> int:
        """How many bytes one flush would write."""
        return 2 * CACHE_BYTES

    def reset_peak_memory(self) -> None:
        """No memory is used."""

    def peak_memory_bytes(self) -> int | None:
        """No memory is used, so none can be told."""
        return None

    def available_memory_bytes(self) -> int | None:
        """All that it was given."""
        return self.options.memory_bytes

    def release_memory(self) -> None:
        """No memory is used."""
