"""Host-clock timing, for devices whose work can be waited for."""

import time
from collections.abc import Callable


class HostClock:
    """Times with the host's monotonic clock, waiting for the device at both ends."""

    kind = "host_clock"

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self._synchronize = synchronize
        self._started_s = 0.0
        self.resolution_s = _measured_resolution_s()

    def start(self) -> None:
        """Wait for earlier work, then read the clock."""
        self._synchronize()
        self._started_s = time.perf_counter()

    def stop(self) -> float:
        """Wait for the device, then read the clock; seconds since the start."""
        self._synchronize()
        return time.perf_counter() - self._started_s


def _measured_resolution_s() -> float:
    """The smallest step seen between two readings: what the clock shows, not what it promises."""
    steps = []
    for _ in range(100):
        first = time.perf_counter()
        second = time.perf_counter()
        if second > first:
            steps.append(second - first)
    return min(steps, default=time.get_clock_info("perf_counter").resolution)
