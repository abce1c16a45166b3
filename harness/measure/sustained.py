"""Burst against sustained speed: run without a pause until clocks and temperature settle."""

from collections.abc import Callable, Sequence

from harness.device.base import Device
from harness.record import Sustained, Window

REST_S = 5.0
"""The chip rests so long first, so that the burst is that of a rested chip."""
WINDOW_S = 1.0
NUM_SETTLED = 10
"""So many windows in a row must agree. A chip's heat sink takes tens of seconds to warm, so ten
seconds without a trend mean that what is left moves less than the tolerance in the next ten."""
RATE_TOLERANCE = 0.01
"""Largest change of the rate, by a line through those windows, from their first to their last."""
TEMPERATURE_TOLERANCE_C = 1.0
"""Largest change of the temperature over them; sensors show whole degrees."""


def measure_sustained(
    run: Callable[[], object], device: Device, timeout_s: float
) -> Sustained | None:
    """The speed of the first window and of the settled ones, or None where no time is given."""
    if timeout_s <= 0:
        return None
    device.synchronize()
    device.pause(min(REST_S, timeout_s))
    started_s = device.now_s()
    windows: list[Window] = []
    num_in_batch = 1
    settled_after_s: float | None = None
    while settled_after_s is None and device.now_s() - started_s < timeout_s:
        window_s, num_runs = device.now_s(), 0
        while device.now_s() - window_s < WINDOW_S:
            batch_s = device.now_s()
            for _ in range(num_in_batch):
                run()
            device.synchronize()
            num_runs += num_in_batch
            # A tenth of a window is queued at once: the device is never without work, and a
            # window is never much longer than it should be.
            if device.now_s() - batch_s < WINDOW_S / 20:
                num_in_batch *= 2
        seconds = device.now_s() - window_s
        windows.append(Window(num_samples=num_runs, seconds=seconds, state=device.state()))
        if is_settled(windows):
            settled_after_s = device.now_s() - started_s
    latest = windows[-NUM_SETTLED:]
    return Sustained(
        burst_s=windows[0].seconds / windows[0].num_samples,
        sustained_s=sum(window.seconds for window in latest)
        / sum(window.num_samples for window in latest),
        settled_after_s=settled_after_s,
        windows=tuple(windows),
    )


def is_settled(windows: Sequence[Window]) -> bool:
    """Whether rate and temperature of the latest windows have no trend left."""
    latest = windows[-NUM_SETTLED:]
    if len(latest) < NUM_SETTLED:
        return False
    rates = [window.num_samples / window.seconds for window in latest]
    mean = sum(rates) / len(rates)
    if abs(_rise(rates)) > RATE_TOLERANCE * mean:
        return False
    temperatures = [window.state.temperature_c for window in latest]
    known = [temperature for temperature in temperatures if temperature is not None]
    return len(known) < NUM_SETTLED or abs(_rise(known)) <= TEMPERATURE_TOLERANCE_C


def _rise(values: Sequence[float]) -> float:
    """What the least-squares line through the values gains from the first to the last."""
    middle = (len(values) - 1) / 2
    mean = sum(values) / len(values)
    spread = sum((place - middle) ** 2 for place in range(len(values)))
    slope = sum((place - middle) * (value - mean) for place, value in enumerate(values)) / spread
    return slope * (len(values) - 1)
