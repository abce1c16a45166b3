"""Proves the timer, the launch and the flush of a device before anything is measured on it.

Everything is timed as the samples of the run will be; nothing is subtracted from them later.
"""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from harness.device.base import Device, Timer
from harness.device.clock import HostClock
from harness.device.fake import FakeDevice
from harness.measure.holding import hold_s
from harness.measure.policy import Launch, MeasurePolicy
from harness.proof import (
    CacheProof,
    Estimate,
    HoldProof,
    LaunchProof,
    Linearity,
    Proof,
    ScaleProof,
    TimerProof,
    estimate,
    estimate_ratio,
)
from harness.record import SHORT_RESOLUTIONS
from harness.stats import median_interval

COUNTS = (1, 2, 4, 8)
"""How often the work is done in one sample of the line."""
NUM_EMPTY = 60
"""Readings of nothing: enough for an interval, and for steps of the timer to show."""
NUM_ROUNDS = 15
"""Samples of each count and of each cache state, taken in turns so that drift meets all alike."""
HOLD_S = 1e-3
"""The hold that is timed: as long as one for an op that the host queues in half a millisecond."""
NUM_HOLDS = 15
NUM_LONG = 3
"""Long pieces of work at the start, and as many at the end."""
LONG_S = 0.05
"""A long piece: a host's delay of 50 us at its ends is a thousandth of it."""
SHORTEST_UNIT_S, LONGEST_UNIT_S = 100e-6, 2e-3
"""Bounds of the unit of work: the first is 200 steps of event timers, with the second all samples
of the line take half a second."""
CALL_S = 20e-6
"""On an accelerator one call lasts so long at least, several times the host's time to launch it."""
CALLS, CALL_TRIES = 10, 3
"""Calls in a row whose time is divided, and how often that is tried; used only to size the work."""
ELEMENTS, MAX_ELEMENTS = 2**14, 2**24
"""Of the tensor that is worked on. The smaller number is below what torch spreads over threads
(at::internal::GRAIN_SIZE, 32768), whose start would be timed; the larger is 64 MiB."""
BUFFER_SHARES = (2, 8, 32)
"""The buffers read are the last-level cache over these: the next is tried where the one before
showed no difference, as where a virtual machine is told of a cache that others share."""
CACHE_BUDGET_S = 0.6
"""No other buffer is tried after it, and each is read for a third of it, except that ..."""
MIN_CACHE_ROUNDS = 5
"""... there are so many rounds: that five are all slower than five others is 1 in 252 by chance."""
CACHE_CONFIDENCE = 0.99
"""There are three tries at showing a difference, so each must be surer than one alone."""
EQUAL_S = 0.5e-9
"""Readings nearer than this are equal: no timer is finer, and a double of a host's uptime rounds by
0.1 to 0.2 ns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a device is given to do while it is watched."""

    nothing: Callable[[], object]
    """The smallest op there is: all of its time is launch."""
    unit: Callable[[], object]
    """Always the same work."""
    read: Callable[[int], Callable[[], object]] | None
    """Makes a read of a buffer of so many bytes; None where there is no cache to be found in."""
    host: Timer | None
    """The host's clock, where the device's own timer is another."""


def prove(device: Device, policy: MeasurePolicy, work: Work | None = None) -> Proof:
    """What timer, launch and flush of this device are worth under that policy.

    A device that cannot do what it takes is no reason to measure nothing: then the proof holds the
    failure in place of numbers.

    Args:
        device: whose timer is proven. The fake chip is proven by a twin, so that its clock and
            noise begin with the first case.
        policy: whose launch and cache are proven.
        work: what to do meanwhile; made for the device where none is given.
    """
    if isinstance(device, FakeDevice):
        device = FakeDevice(replace(device.options, drift_per_s=0.0, throttle_after_s=None))
    began_s = time.perf_counter()
    try:
        proof = _Prover(device, policy, work or _work_for(device)).prove()
    except Exception as error:  # A back-end may lack any part; what is measured does not need it.
        first_line = (str(error).splitlines() or [""])[0]
        return Proof(device=device.info.name, failure=f"{type(error).__name__}: {first_line}")
    return replace(proof, seconds=time.perf_counter() - began_s)


class _Prover:
    def __init__(self, device: Device, policy: MeasurePolicy, work: Work) -> None:
        self._device = device
        self._policy = policy
        self._work = work
        self._enqueue_s: dict[Callable[[], object], float] = {}
        self._replays: dict[Callable[[], object], Callable[[], object]] = {}
        self._launch = self._possible_launch(policy.launch)

    def prove(self) -> Proof:
        """Everything, the timer's rate first and last."""
        device, work = self._device, self._work
        early_s, early = device.now_s(), self._long_samples()
        timers = [self._timer(device.timer, self._launch)]
        if work.host is not None:
            timers.append(self._timer(work.host, Launch.DIRECT))
        launch = self._launch_proof()
        is_held = self._launch is not Launch.DIRECT and device.hold(0.0)
        hold = self._hold_proof() if is_held else None
        cache = self._cache_proof() if work.read is not None else None
        late_s, late = device.now_s(), self._long_samples()
        return Proof(
            device=device.info.name,
            timers=tuple(timers),
            scale=_scale(early, late, late_s - early_s),
            launch=launch,
            hold=hold,
            cache=cache,
        )

    def _possible_launch(self, wanted: Launch) -> Launch:
        """The policy's, or what the measuring loop takes in its place."""
        nothing = self._work.nothing
        if wanted is Launch.GRAPH and self._launched(nothing, wanted) is not nothing:
            return Launch.GRAPH
        if wanted is not Launch.DIRECT and self._device.hold(0.0):
            return Launch.HELD
        return Launch.DIRECT

    def _sample(
        self,
        run: Callable[[], object],
        launch: Launch,
        timer: Timer | None = None,
        *,
        is_flushed: bool = False,
    ) -> float:
        """One reading, taken as the samples of the loop are."""
        timer = timer or self._device.timer
        run = self._launched(run, launch)
        if run not in self._enqueue_s:
            run()  # Whatever is compiled or allocated at the first call is no part of it.
            self._device.synchronize()
            called_s = time.perf_counter()
            run()
            self._enqueue_s[run] = time.perf_counter() - called_s
        if is_flushed:
            self._device.flush_cache()
        if launch is not Launch.DIRECT:
            self._device.hold(hold_s(self._enqueue_s[run]))
        timer.start()
        run()
        return timer.stop()

    def _launched(self, run: Callable[[], object], launch: Launch) -> Callable[[], object]:
        """The run, or its replay where samples are launched as graphs."""
        if launch is not Launch.GRAPH or run is _nothing:
            return run
        if run not in self._replays:
            self._replays[run] = self._device.capture(run) or run
        return self._replays[run]

    def _timer(self, timer: Timer, launch: Launch) -> TimerProof:
        runs = {count: _repeated(self._work.unit, count) for count in COUNTS}
        empty = [self._sample(_nothing, launch, timer) for _ in range(NUM_EMPTY)]
        lines: dict[int, list[float]] = {count: [] for count in COUNTS}
        for _ in range(NUM_ROUNDS):
            for count in COUNTS:
                lines[count].append(self._sample(runs[count], launch, timer))
        return TimerProof(
            kind=timer.kind,
            claimed_resolution_s=timer.resolution_s,
            observed_resolution_s=smallest_step_s([empty, *lines.values()]),
            overhead_s=estimate(empty),
            linearity=line_through(lines),
        )

    def _long_samples(self) -> list[tuple[float, float]]:
        """Seconds by the device's timer and by the host's clock around the same long work.

        What the host needs between two batches is in both, so a busy host changes neither's part.
        """
        device = self._device
        batch = _repeated(self._work.unit, COUNTS[-1])
        samples = []
        for _ in range(NUM_LONG):
            device.synchronize()
            before_s = device.now_s()
            # Nothing is held here: the host would wait for the hold, and the timer would not.
            device.timer.start()
            while device.now_s() - before_s < LONG_S:
                batch()
                device.synchronize()
            device_s = device.timer.stop()
            samples.append((device_s, device.now_s() - before_s))
        return samples

    def _launch_proof(self) -> LaunchProof:
        """An empty op with its launch, and as the samples are launched, in turns."""
        nothing = self._work.nothing
        direct, used = [], []
        for _ in range(NUM_EMPTY // 2):
            direct.append(self._sample(nothing, Launch.DIRECT))
            used.append(self._sample(nothing, self._launch))
        return LaunchProof(
            wanted=self._policy.launch,
            used=self._launch,
            is_behind_host=self._device.torch_device.type != "cpu",
            direct_s=estimate(direct),
            used_s=estimate(used),
        )

    def _hold_proof(self) -> HoldProof:
        """A hold of known length between start and stop of the timer."""
        device = self._device
        held = []
        for _ in range(NUM_HOLDS):
            device.synchronize()
            device.timer.start()
            device.hold(HOLD_S)
            held.append(device.timer.stop())
        return HoldProof(asked_s=HOLD_S, held_s=estimate(held))

    def _cache_proof(self) -> CacheProof:
        """Buffers from large to small, until reading one takes longer after a flush."""
        assert self._work.read is not None
        device = self._device
        told_bytes = device.info.last_level_cache_bytes
        # A flush writes two caches; where no size is told, that is how it was assumed.
        cache_bytes = told_bytes or device.flush_bytes // 2
        tried: list[int] = []
        started_s = device.now_s()
        while True:
            tried.append(max(4, cache_bytes // BUFFER_SHARES[len(tried)]))
            cold, hot = self._cold_and_hot(self._work.read(tried[-1]))
            proof = CacheProof(
                policy=self._policy.cache,
                told_bytes=told_bytes,
                flush_bytes=device.flush_bytes,
                buffer_bytes=tried[-1],
                tried_bytes=tuple(tried),
                cold_s=float(np.median(cold)),
                hot_s=float(np.median(hot)),
                ratio=estimate_ratio(cold, hot, CACHE_CONFIDENCE),
            )
            is_late = device.now_s() - started_s > CACHE_BUDGET_S
            if proof.is_proven or is_late or len(tried) == len(BUFFER_SHARES):
                return proof

    def _cold_and_hot(self, read: Callable[[], object]) -> tuple[list[float], list[float]]:
        cold: list[float] = []
        hot: list[float] = []
        started_s = self._device.now_s()
        while len(cold) < MIN_CACHE_ROUNDS or (
            len(cold) < NUM_ROUNDS and self._device.now_s() - started_s < CACHE_BUDGET_S / 3
        ):
            cold.append(self._sample(read, self._launch, is_flushed=True))
            read()  # Caches do not replace strictly by age: once more, and it is there.
            hot.append(self._sample(read, self._launch))
        return cold, hot


def _nothing() -> None:
    """What is between start and stop when only the timer is timed."""


def _repeated(run: Callable[[], object], count: int) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(count):
            run()

    return repeated


def smallest_step_s(pools: Sequence[Sequence[float]]) -> float | None:
    """The smallest difference between two readings of the same work, or None where no step shows.

    Each pool holds readings of one work. A timer that moves in steps gives some readings twice and
    others a whole step apart; one that is finer than its noise gives none twice.
    """
    steps: list[float] = []
    is_stepping = False
    for pool in pools:
        ordered = sorted(pool)
        between = [second - first for first, second in itertools.pairwise(ordered)]
        apart = [step for step in between if step > EQUAL_S]
        is_stepping = is_stepping or 0 < len(apart) < len(between)
        steps += apart
    return min(steps) if is_stepping else None


def line_through(samples_s: dict[int, list[float]]) -> Linearity | None:
    """The line through the medians by count, least squares of relative errors.

    None where a median is zero: the timer did not see the work.
    """
    counts = np.array(list(samples_s), dtype=np.float64)
    medians = np.array([float(np.median(taken)) for taken in samples_s.values()])
    if medians.min() <= 0:
        return None
    weights = 1 / medians**2
    middle, height = np.average(counts, weights=weights), np.average(medians, weights=weights)
    spread = np.average((counts - middle) ** 2, weights=weights)
    unit_s = np.average((counts - middle) * (medians - height), weights=weights) / spread
    intercept_s = height - unit_s * middle
    expected = unit_s * counts + intercept_s
    deviations = [
        Estimate(value=median / on_line - 1, low=low / on_line - 1, high=high / on_line - 1)
        for median, on_line, (low, high) in zip(
            medians.tolist(),
            expected.tolist(),
            (median_interval(taken) for taken in samples_s.values()),
            strict=True,
        )
    ]
    return Linearity(
        counts=tuple(samples_s),
        medians_s=tuple(medians.tolist()),
        unit_s=float(unit_s),
        intercept_s=float(intercept_s),
        deviation=max(deviations, key=lambda one: abs(one.value)),
    )


def _scale(
    early: Sequence[tuple[float, float]], late: Sequence[tuple[float, float]], apart_s: float
) -> ScaleProof | None:
    """None where a clock stood still over a long piece of work."""
    both = (*early, *late)
    if min(min(pair) for pair in both) <= 0:
        return None
    ratios = [device_s / host_s for device_s, host_s in both]
    drift = estimate_ratio(ratios[len(early) :], ratios[: len(early)])
    assert drift is not None, "ratios of positive times are positive"
    return ScaleProof(
        device_s=float(np.median([device_s for device_s, _ in both])),
        host_s=float(np.median([host_s for _, host_s in both])),
        ratio=estimate(ratios),
        drift=drift,
        apart_s=apart_s,
    )


def _work_for(device: Device) -> Work:
    return _fake_work(device) if isinstance(device, FakeDevice) else _torch_work(device)


def _fake_work(device: FakeDevice) -> Work:
    """Virtual work: it takes no real time, whatever it lasts."""

    def advance(ideal_s: float) -> Callable[[], None]:
        return lambda: device.advance(ideal_s)

    return Work(nothing=advance(0.0), unit=advance(LONGEST_UNIT_S), read=None, host=None)


def _torch_work(device: Device) -> Work:
    """Elementwise work on one tensor, long enough to be seen by the device's timer."""
    smallest = torch.zeros(1, device=device.torch_device)
    unit_s = min(
        max(SHORTEST_UNIT_S, SHORT_RESOLUTIONS * device.timer.resolution_s), LONGEST_UNIT_S
    )

    def read(num_bytes: int) -> Callable[[], object]:
        buffer = torch.ones(max(1, num_bytes // 4), device=device.torch_device)
        if device.torch_device.type != "cpu":
            return lambda: buffer.sum()
        # One thread: where others work on the host, waiting for a second one hides the cache.
        parts = torch.split(buffer, ELEMENTS)
        return lambda: [part.sum() for part in parts]

    is_host_clock = device.timer.kind == HostClock.kind
    return Work(
        nothing=lambda: smallest.add_(1.0),
        unit=_unit(device, unit_s),
        read=read,
        host=None if is_host_clock else HostClock(device.synchronize),
    )


def _unit(device: Device, unit_s: float) -> Callable[[], object]:
    """Additions to a tensor, which settle at 2^24 in fp32 and stay there, for about that long."""
    is_cpu = device.torch_device.type == "cpu"
    num_elements = ELEMENTS
    while True:
        tensor = torch.zeros(num_elements, device=device.torch_device)
        once = partial(tensor.add_, 1.0)
        once()
        call_s = _host_s(device, once)
        if is_cpu or call_s >= CALL_S or num_elements >= MAX_ELEMENTS:
            return _repeated(once, max(1, math.ceil(unit_s / max(call_s, CALL_S / 10))))
        num_elements *= 2


def _host_s(device: Device, run: Callable[[], object]) -> float:
    """Seconds of one of several calls in a row by the host, the least of a few tries."""
    tries_s = []
    for _ in range(CALL_TRIES):
        device.synchronize()
        started_s = time.perf_counter()
        for _ in range(CALLS):
            run()
        device.synchronize()
        tries_s.append((time.perf_counter() - started_s) / CALLS)
    return min(tries_s)
