"""Energy of a run, from the device's own counter."""

from collections.abc import Callable

from harness.device.base import Device
from harness.record import Energy

BATCH_S = 0.02
"""Runs are queued for about so long before they are waited for, so that the queue stays short and
the device is never without work."""


def measure_energy(run: Callable[[], object], device: Device, seconds: float) -> Energy | None:
    """Joules per run over so many seconds without a pause, or None where nothing is counted.

    No cache is flushed between the runs, since a flush draws power too: it is the energy of the
    work alone, its data as warm as the work itself keeps it. The counters of today's chips move
    about every 0.1 s, which is the resolution of `seconds`.
    """
    if seconds <= 0 or device.state().energy_j is None:
        return None
    num_runs, num_in_batch = 0, 1
    device.synchronize()
    before, started_s = device.state(), device.now_s()
    while True:
        batch_started_s = device.now_s()
        for _ in range(num_in_batch):
            run()
        device.synchronize()
        num_runs += num_in_batch
        now_s = device.now_s()
        if now_s - started_s >= seconds:
            break
        if now_s - batch_started_s < BATCH_S:
            num_in_batch *= 2
    after = device.state()
    elapsed_s = device.now_s() - started_s
    if before.energy_j is None or after.energy_j is None or elapsed_s <= 0:
        return None
    joules = after.energy_j - before.energy_j
    return Energy(
        joules_per_run=joules / num_runs,
        num_runs=num_runs,
        seconds=elapsed_s,
        mean_power_w=joules / elapsed_s,
    )
