"""How long the device is held before a sample, while the host queues the run."""

ENQUEUE_MARGIN = 2.0
"""Times the host's usual time to queue a run, since a host's slowest calls take about twice its
median."""
MIN_HOLD_S = 50e-6
"""Held so long even for nothing at all: starting and stopping the timer takes a host some 10 us."""


def hold_s(enqueue_s: float) -> float:
    """Seconds to hold for a run that the host usually queues in `enqueue_s`."""
    return max(ENQUEUE_MARGIN * enqueue_s, MIN_HOLD_S)
