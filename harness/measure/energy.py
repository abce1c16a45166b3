"""Energy of a run, from the device's own counter."""

from collections.abc import Callable

from harness.device.base import Device
from harness.device.clock import HostClock
from harness.record import Energy

BATCH_S = 0.02
"""Runs are queued for about so long before they are waited for, so that the queue stays short and
the device is never without work."""

HOST_SHARE = 0.8
"""The host is the slower one where its launches fill so much of the time. Its usual launch was
timed between flushes and holds, and one of many in a row may be quicker."""


def measure_energy(
    run: Callable[[], object], device: Device, seconds: float, enqueue_s: float
) -> Energy | None:
    """Joules per run over so many seconds without a pause, or None where nothing is counted.

    No cache is flushed between the runs, since a flush draws power too: it is the energy of the
    work alone, its data as warm as the work itself keeps it. The counters of today's chips move
    about every 0.1 s, which is the resolution of `seconds`.

    Args:
        run: what is run.
        device: where.
        seconds: for how long; 0 for not at all.
        enqueue_s: the host's usual time to queue a run. Where a run is no longer, the device idles
            between two, and the energy is said to be bound by the host.
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
        is_host_bound=_is_behind_host(device) and enqueue_s >= HOST_SHARE * elapsed_s / num_runs,
    )


def _is_behind_host(device: Device) -> bool:
    """Whether a call returns before its work is done, so that the host's time is not the device's.

    A processor is its own host, and a back-end that is timed by the host may be one that waits.
    """
    return device.torch_device.type != "cpu" and device.timer.kind != HostClock.kind
