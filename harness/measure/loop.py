"""The measuring loop: warm up until stable, sample until the rule says stop; phases only."""

import statistics
import time
from dataclasses import dataclass

from harness.device.base import Device
from harness.measure.policy import Cache, MeasurePolicy
from harness.measure.stopping import BeatenRule, MedianIntervalRule, StoppingRule
from harness.measure.subject import Subject
from harness.record import Measurement

ENQUEUE_MARGIN = 2.0
"""The device is kept busy for this many times the host's usual time to queue a run, since a host's
slowest calls take about twice its median."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _WarmUp:
    num_runs: int
    seconds: float
    enqueue_s: float
    """Host time of one call of the run, which on an accelerator only queues the work."""


def measure(
    subject: Subject,
    device: Device,
    policy: MeasurePolicy,
    *,
    prepare_s: float = 0.0,
    best_s: float | None = None,
) -> Measurement:
    """Time the subject on the device; whether it computes the right thing was checked before.

    Args:
        subject: what to run.
        device: where.
        policy: how.
        prepare_s: what making it ready took, for the record.
        best_s: the median to beat in a search; one that cannot is given up early.
    """
    device.reset_peak_memory()
    warm_up = _warm_up(subject, device, policy)
    state_before = device.state()
    samples_s, stop_reason = _sample(subject, device, policy, warm_up.enqueue_s, best_s)
    return Measurement(
        samples_s=samples_s,
        timer=device.timer.kind,
        timer_resolution_s=device.timer.resolution_s,
        cache=policy.cache,
        flush_bytes=device.flush_bytes if policy.cache is Cache.COLD else 0,
        num_warmup=warm_up.num_runs,
        warmup_s=warm_up.seconds,
        enqueue_s=warm_up.enqueue_s,
        prepare_s=prepare_s,
        stop_reason=stop_reason,
        peak_memory_bytes=device.peak_memory_bytes(),
        state_before=state_before,
        state_after=device.state(),
    )


def _time_once(
    subject: Subject, device: Device, policy: MeasurePolicy, enqueue_s: float = 0.0
) -> tuple[float, float]:
    """The sample, and the host time that the call itself took."""
    subject.restore()
    if policy.cache is Cache.COLD:
        device.flush_cache(at_least_s=ENQUEUE_MARGIN * enqueue_s)
    device.timer.start()
    called_s = time.perf_counter()
    subject.run()
    returned_s = time.perf_counter()
    return device.timer.stop(), returned_s - called_s


def _warm_up(subject: Subject, device: Device, policy: MeasurePolicy) -> _WarmUp:
    """Run until two neighbouring windows agree, or until the time-out."""
    started_s = device.now_s()
    window = policy.warmup_window
    runs_s: list[float] = []
    enqueues_s: list[float] = []

    def finished(elapsed_s: float) -> _WarmUp:
        # The first calls may still compile or allocate; the latest are like those to come.
        return _WarmUp(
            num_runs=len(runs_s),
            seconds=elapsed_s,
            enqueue_s=statistics.median(enqueues_s[-window:]),
        )

    while True:
        run_s, enqueue_s = _time_once(subject, device, policy)
        runs_s.append(run_s)
        enqueues_s.append(enqueue_s)
        elapsed_s = device.now_s() - started_s
        if len(runs_s) >= 2 * window:
            earlier = statistics.median(runs_s[-2 * window : -window])
            latest = statistics.median(runs_s[-window:])
            if abs(latest - earlier) <= policy.warmup_tolerance * earlier:
                return finished(elapsed_s)
        if elapsed_s >= policy.warmup_timeout_s:
            return finished(elapsed_s)


def _sample(
    subject: Subject,
    device: Device,
    policy: MeasurePolicy,
    enqueue_s: float,
    best_s: float | None,
) -> tuple[tuple[float, ...], str]:
    """Every sample in order, and why sampling stopped."""
    started_s = device.now_s()
    rules: list[StoppingRule] = [MedianIntervalRule(policy)]
    if best_s is not None:
        rules.insert(0, BeatenRule(best_s))
    samples_s: list[float] = []
    while True:
        sample_s, _ = _time_once(subject, device, policy, enqueue_s)
        samples_s.append(sample_s)
        elapsed_s = device.now_s() - started_s
        for rule in rules:
            rule.add(sample_s)
        reasons = [rule.reason_to_stop(elapsed_s) for rule in rules]
        if any(reasons):
            return tuple(samples_s), next(reason for reason in reasons if reason)
