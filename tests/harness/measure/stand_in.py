"""A device for tests, with a virtual clock and faults that are set by hand."""

import math
import random
from collections.abc import Callable

import torch

from harness.device.base import DeviceInfo, DeviceState, Result
from harness.measure.proof import Work

CACHE_BYTES = 32 * 2**20
READ_BYTES_PER_S = 1e12
REPLAY_S = 1e-7
"""What the launch of a captured run takes."""


class StandInTimer:
    """A timer whose faults are set by hand."""

    kind = "stand_in"

    def __init__(
        self,
        device: "StandIn",
        *,
        overhead_s: float = 0.0,
        step_s: float = 0.0,
        scale: float = 1.0,
        drift_per_s: float = 0.0,
        dead_s: float = 0.0,
        claimed_s: float = 1e-7,
    ) -> None:
        self.resolution_s = claimed_s
        self._device = device
        self._overhead_s, self._step_s, self._scale = overhead_s, step_s, scale
        self._drift_per_s, self._dead_s = drift_per_s, dead_s
        self._started_s = 0.0

    def _reading_s(self) -> float:
        now_s = self._device.clock_s
        shown_s = self._scale * (now_s + self._drift_per_s * now_s**2 / 2)
        return math.floor(shown_s / self._step_s) * self._step_s if self._step_s else shown_s

    def start(self) -> None:
        self._started_s = self._reading_s()

    def stop(self) -> float:
        self._device.clock_s += self._overhead_s
        self._device.synchronize()
        return max(0.0, self._reading_s() - self._started_s - self._dead_s)


class StandIn:
    """A device with a virtual clock, a cache, and a host that takes its time to launch."""

    def __init__(
        self,
        *,
        launch_s: float = 0.0,
        can_hold: bool = False,
        hold_factor: float = 1.0,
        can_capture: bool = False,
        is_flushing: bool = True,
        cache_bytes: int = CACHE_BYTES,
        **timer: float,
    ) -> None:
        self.info = DeviceInfo(
            name="stand-in", torch_device_type="cpu", last_level_cache_bytes=CACHE_BYTES
        )
        self.torch_device = torch.device("cpu")
        self.clock_s = 0.0
        self.launch_s = launch_s
        self._held_s = 0.0
        self._hold_factor = hold_factor
        self._can_hold, self._can_capture = can_hold, can_capture
        self._is_flushing, self._cache_bytes = is_flushing, cache_bytes
        self._is_cold = True
        self._random = random.Random(0)
        self.timer = StandInTimer(self, **timer)

    def work(self) -> Work:
        return Work(
            nothing=self.launches(0.0), unit=self.launches(2e-4), read=self._read, host=None
        )

    def launches(self, seconds: float) -> Callable[[], None]:
        """Work that the host launches; while the device is held, its launch costs nothing."""

        def run() -> None:
            held_s = min(self.launch_s, self._held_s)
            self._held_s -= held_s
            self.clock_s += self.launch_s - held_s + seconds * self._random.gauss(1.0, 0.001)

        return run

    def _read(self, num_bytes: int) -> Callable[[], None]:
        def run() -> None:
            is_hit = not self._is_cold and num_bytes <= self._cache_bytes
            self._is_cold = False
            factor = 0.5 if is_hit else 1.0
            self.launches(factor * num_bytes / READ_BYTES_PER_S)()

        return run

    def state(self) -> DeviceState:
        return DeviceState()

    def pause(self, seconds: float) -> None:
        self.clock_s += seconds

    def reset_peak_memory(self) -> None:
        """No memory is used."""

    def peak_memory_bytes(self) -> int | None:
        return None

    def now_s(self) -> float:
        return self.clock_s

    def synchronize(self) -> None:
        self._held_s = 0.0

    def flush_cache(self) -> None:
        self.clock_s += 1e-4
        self._is_cold = self._is_flushing

    @property
    def flush_bytes(self) -> int:
        return 2 * CACHE_BYTES

    def hold(self, seconds: float) -> bool:
        if self._can_hold and seconds:
            self._held_s = 1.0
            self.clock_s += self._hold_factor * seconds
        return self._can_hold

    def capture(self, run: Callable[[], Result]) -> Callable[[], Result] | None:
        """A replay launches everything at once; what the run itself lasts stays as it is."""
        if not self._can_capture:
            return None

        def replay() -> Result:
            launch_s, self.launch_s = self.launch_s, REPLAY_S
            try:
                return run()
            finally:
                self.launch_s = launch_s

        return replay
