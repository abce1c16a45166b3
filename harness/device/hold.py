"""Hold: keeps a device busy while the host queues what comes next.

Without it a short run ends before the host has queued the next call, and the sample shows how fast
the host is. nvbench blocks the stream with a kernel that spins on a flag of the host's, which
deadlocks where a run waits for the device; a hold ends by itself, so it can only be too short.

Source: NVIDIA nvbench, docs/benchmarks.md, "Blocking kernel".
"""

import math
import time
from collections.abc import Callable

import torch

from harness.device.base import Timer

WARM_S = 0.05
"""Kept busy for so long before the calibration: a chip that was just opened has low clocks, which
reach those of work within some 10 ms, and a unit would be taken for longer than it will be."""
CALIBRATION_TRIALS = 5
CYCLES = 1_000_000
"""Of the spinning kernel's calibration: about half a millisecond at the clocks of today's chips."""
ELEMENTS = 1024
"""Of the tensor that other devices compute on meanwhile: it disturbs no cache."""
MAX_REPEATS = 2000
"""So that a host that takes seconds for a call does not keep the device busy for minutes."""


class Hold:
    """Gives the current stream something to do for a time; calibrated when it is made."""

    def __init__(
        self,
        device: torch.device,
        timer: Timer,
        now_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._spin = getattr(torch.cuda, "_sleep", None) if device.type == "cuda" else None
        self._elements = torch.zeros(ELEMENTS, device=device)
        self._unit_s = self._timed(timer, now_s)

    def __call__(self, seconds: float) -> None:
        """Queue about that many seconds of work."""
        units = seconds / self._unit_s if self._unit_s > 0 else 1.0
        if self._spin is not None:
            self._spin(max(1, int(min(units, MAX_REPEATS) * CYCLES)))
            return
        for _ in range(min(max(1, math.ceil(units)), MAX_REPEATS)):
            self._elements.add_(1.0)

    def _once(self) -> Callable[[], object]:
        if self._spin is not None:
            spin = self._spin
            return lambda: spin(CYCLES)
        return lambda: self._elements.add_(1.0)

    def _timed(self, timer: Timer, now_s: Callable[[], float]) -> float:
        """Seconds of one unit on a warm chip, the fastest of a few: at its highest clocks."""
        once = self._once()

        def timed() -> float:
            timer.start()
            once()
            return timer.stop()

        ends_s = now_s() + WARM_S
        while now_s() < ends_s:
            timed()
        return min(timed() for _ in range(CALIBRATION_TRIALS))
