"""The measuring loop: warm up until stable, take turns, stop when sure; phases only.

All implementations of one problem are measured together. They take turns of a few milliseconds, so
that a drift of clocks or temperature meets all of them alike and does not pass for a difference.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from harness.device.base import Device, DeviceState
from harness.measure.energy import measure_energy
from harness.measure.holding import hold_s
from harness.measure.policy import Cache, Launch, MeasurePolicy
from harness.measure.stopping import BeatenRule, MedianIntervalRule, StoppingRule
from harness.measure.subject import Subject
from harness.measure.sustained import measure_sustained
from harness.record import Measurement, Window
from kernels.op import Outputs

TURN_S = 0.02
"""How long one implementation is sampled before the next has its turn. Reading clocks and power
through NVML takes 1 to 3 ms, and there is one reading to a turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """One subject that takes part, with what the record needs to know of it."""

    subject: Subject
    prepare_s: float = 0.0
    """What making it ready took."""
    best_s: float | None = None
    """The median to beat in a search; one that cannot is given up early."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an entrant: a measurement, or the error that its run raised."""

    measurement: Measurement | None = None
    last_set: int = 0
    """Which set of inputs the last timed run had."""
    last_outputs: Outputs | None = None
    """What that run returned, for a check that a timed run is right."""
    error: Exception | None = None


class DeviceLost(Exception):  # noqa: N818 - it is a state, told as one
    """An entrant's error left the device unusable, so that all others would fail after it."""

    def __init__(self, index: int, error: Exception) -> None:
        super().__init__(str(error))
        self.index = index
        """The entrant that did it."""
        self.error = error


def measure(
    entrants: Sequence[Entrant],
    device: Device,
    policy: MeasurePolicy,
    on_turn: Callable[[int], None] = lambda index: None,
) -> list[Outcome]:
    """Time the entrants on the device; that they are right was checked before.

    Args:
        entrants: what to run, in the order of turns.
        device: where.
        policy: how.
        on_turn: is told which entrant has its turn, before anything of it runs.

    Raises:
        DeviceLost: when an entrant breaks the device; nothing that was sampled is kept.
    """
    contests = [_Contest(entrant, device, policy) for entrant in entrants]

    def turn(index: int, phase: Callable[[_Contest], None]) -> None:
        if contests[index].error is None:
            on_turn(index)
            try:
                phase(contests[index])
            except Exception as error:  # A run may raise anything; it is the caller's to tell.
                contests[index].fail(error)
                if not device.is_usable():
                    raise DeviceLost(index, error) from error

    for index in range(len(contests)):
        turn(index, _Contest.warm_up)
    while any(contest.is_going for contest in contests):
        for index, contest in enumerate(contests):
            if contest.is_going:
                turn(index, _Contest.sample)
    for index in range(len(contests)):
        turn(index, _Contest.finish)
    return [contest.outcome for contest in contests]


@dataclass(slots=True)
class _Contest:
    """One entrant's way through the phases."""

    entrant: Entrant
    device: Device
    policy: MeasurePolicy
    error: Exception | None = None
    measurement: Measurement | None = None

    _runs: list[Callable[[], Outputs]] = field(default_factory=list)
    _launch: Launch = Launch.DIRECT
    _enqueue_s: float = 0.0
    _num_warmup: int = 0
    _warmup_s: float = 0.0
    _measured_s: float = 0.0
    _state_before: DeviceState = field(default_factory=DeviceState)
    _rules: list[StoppingRule] = field(default_factory=list)
    _samples_s: list[float] = field(default_factory=list)
    _windows: list[Window] = field(default_factory=list)
    _num_runs: int = 0
    _num_counted: int = 0
    _num_retries: int = 0
    _elapsed_s: float = 0.0
    _peak_memory_bytes: int | None = None
    _stop_reason: str = ""
    _last_set: int = 0
    _last_outputs: Outputs | None = None

    @property
    def is_going(self) -> bool:
        """Still has samples to take."""
        return not self._stop_reason and self.error is None

    @property
    def outcome(self) -> Outcome:
        """What became of it."""
        if self.error is not None:
            return Outcome(error=self.error)
        return Outcome(
            measurement=self.measurement,
            last_set=self._last_set,
            last_outputs=self._last_outputs,
        )

    def fail(self, error: Exception) -> None:
        """Keep the error and nothing else: its traceback holds every tensor of all entrants."""
        self.error = error.with_traceback(None)
        self._runs, self._last_outputs = [], None

    def warm_up(self) -> None:
        """Run until two neighbouring windows agree, or until the time-out."""
        self._choose_runs()
        self.device.reset_peak_memory()
        policy, window = self.policy, self.policy.warmup_window
        began_s, started_s = time.perf_counter(), self.device.now_s()
        runs_s: list[float] = []
        enqueues_s: list[float] = []
        is_stable = False
        while not is_stable and self._warmup_s < policy.warmup_timeout_s:
            run_s, enqueue_s = self._time_once()
            runs_s.append(run_s)
            enqueues_s.append(enqueue_s)
            self._warmup_s = self.device.now_s() - started_s
            if len(runs_s) >= 2 * window:
                earlier = statistics.median(runs_s[-2 * window : -window])
                latest = statistics.median(runs_s[-window:])
                is_stable = abs(latest - earlier) <= policy.warmup_tolerance * earlier
        self._num_warmup = len(runs_s)
        # The first calls may still compile or allocate; the latest are like those to come.
        self._enqueue_s = statistics.median(enqueues_s[-window:])
        self._rules = [MedianIntervalRule(policy)]
        if self.entrant.best_s is not None:
            self._rules.insert(0, BeatenRule(self.entrant.best_s))
        self._state_before = self.device.state()
        # Before another entrant runs, whose memory is none of this one's.
        self._peak_memory_bytes = self.device.peak_memory_bytes()
        self._measured_s += time.perf_counter() - began_s

    def sample(self) -> None:
        """Take a turn of samples and ask the rules; a throttled turn is repeated after a rest."""
        began_s, started_s = time.perf_counter(), self.device.now_s()
        if self.policy.cache is Cache.HOT:
            # Another entrant ran before: this one's own data must be back in the cache.
            self.entrant.subject.restore(0)
            self._runs[0]()
        taken_s: list[float] = []
        self._last_outputs = None
        while True:
            sample_s, _ = self._time_once(keeps_outputs=True)
            taken_s.append(sample_s)
            turn_s = self.device.now_s() - started_s
            is_full = self._num_counted + len(taken_s) >= self.policy.max_samples
            if is_full or turn_s >= min(TURN_S, self.policy.timeout_s - self._elapsed_s):
                break
        self._measured_s += time.perf_counter() - began_s
        self._elapsed_s += turn_s
        self._samples_s += taken_s
        window = Window(num_samples=len(taken_s), seconds=turn_s, state=self.device.state())
        self._windows.append(window)
        if window.state.is_throttled and self._num_retries < self.policy.throttle_retries:
            self._num_retries += 1
            self.device.pause(self.policy.throttle_pause_s)
            return
        self._count(taken_s)

    def _count(self, taken_s: Sequence[float]) -> None:
        """Tell the rules of samples that count, and ask whether they are enough."""
        self._num_counted += len(taken_s)
        for rule in self._rules:
            for sample_s in taken_s:
                rule.add(sample_s)
        reasons = [rule.reason_to_stop(self._elapsed_s) for rule in self._rules]
        self._stop_reason = next((reason for reason in reasons if reason), "")
        if self._stop_reason and self._last_outputs is not None:
            # Others take their turns from here on, and overwrite the inputs as this one did.
            self._last_outputs = self.entrant.subject.keep(self._last_outputs)

    def finish(self) -> None:
        """Make the measurement, with what is measured without a pause between runs."""
        policy, device = self.policy, self.device
        state_after = device.state()
        self.entrant.subject.restore(0)
        began_s = time.perf_counter()
        energy = measure_energy(self._runs[0], device, policy.energy_s, self._enqueue_s)
        sustained = measure_sustained(self._runs[0], device, policy.sustained_timeout_s)
        self._measured_s += time.perf_counter() - began_s
        self.measurement = Measurement(
            samples_s=tuple(self._samples_s),
            windows=tuple(self._windows),
            timer=device.timer.kind,
            timer_resolution_s=device.timer.resolution_s,
            launch=self._launch,
            cache=policy.cache,
            flush_bytes=device.flush_bytes if policy.cache is Cache.COLD else 0,
            num_input_sets=len(self._runs),
            num_warmup=self._num_warmup,
            warmup_s=self._warmup_s,
            measured_s=self._measured_s,
            enqueue_s=self._enqueue_s,
            prepare_s=self.entrant.prepare_s,
            stop_reason=self._stop_reason,
            peak_memory_bytes=self._peak_memory_bytes,
            state_before=self._state_before,
            state_after=state_after,
            energy=energy,
            sustained=sustained,
        )

    def _choose_runs(self) -> None:
        """The runs as they are launched; hot ones share one set of inputs, which stays in cache."""
        subject = self.entrant.subject
        self._runs = list(subject.runs if self.policy.cache is Cache.COLD else subject.runs[:1])
        self._launch = self.policy.launch
        if self._launch is Launch.GRAPH:
            for which in range(len(self._runs)):
                subject.restore(which)
            replays = [self.device.capture(run) for run in self._runs]
            found = [replay for replay in replays if replay is not None]
            if len(found) == len(self._runs):
                self._runs = found
            else:
                self._launch = Launch.HELD
        if self._launch is Launch.HELD and not self.device.hold(0.0):
            self._launch = Launch.DIRECT

    def _time_once(self, *, keeps_outputs: bool = False) -> tuple[float, float]:
        """The sample, and the host time that the call itself took."""
        device = self.device
        which = self._num_runs % len(self._runs)
        run = self._runs[which]
        self._num_runs += 1
        self.entrant.subject.restore(which)
        if self.policy.cache is Cache.COLD:
            device.flush_cache()
        if self._launch is not Launch.DIRECT:
            device.hold(hold_s(self._enqueue_s))
        self._last_outputs = None  # Their memory is free for the run, as it was at the one before.
        device.timer.start()
        called_s = time.perf_counter()
        outputs = run()
        returned_s = time.perf_counter()
        sample_s = device.timer.stop()
        if keeps_outputs:
            self._last_set, self._last_outputs = which, outputs
        return sample_s, returned_s - called_s
