"""The measuring loop: warm up until stable, sample until the rule says stop; phases only."""

import statistics
from dataclasses import dataclass

from harness.device.base import Device
from harness.measure.policy import Cache, MeasurePolicy
from harness.measure.stopping import MedianIntervalRule
from harness.measure.subject import Subject
from harness.record import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class _WarmUp:
    num_runs: int
    seconds: float


def measure(
    subject: Subject, device: Device, policy: MeasurePolicy, prepare_s: float = 0.0
) -> Measurement:
    """Time the subject on the device; whether it computes the right thing was checked before."""
    device.reset_peak_memory()
    warm_up = _warm_up(subject, device, policy)
    state_before = device.state()
    samples_s, stop_reason = _sample(subject, device, policy)
    return Measurement(
        samples_s=samples_s,
        timer=device.timer.kind,
        timer_resolution_s=device.timer.resolution_s,
        cache=policy.cache,
        flush_bytes=device.flush_bytes if policy.cache is Cache.COLD else 0,
        num_warmup=warm_up.num_runs,
        warmup_s=warm_up.seconds,
        prepare_s=prepare_s,
        stop_reason=stop_reason,
        peak_memory_bytes=device.peak_memory_bytes(),
        state_before=state_before,
        state_after=device.state(),
    )


def _time_once(subject: Subject, device: Device, policy: MeasurePolicy) -> float:
    subject.restore()
    if policy.cache is Cache.COLD:
        device.flush_cache()
    device.timer.start()
    subject.run()
    return device.timer.stop()


def _warm_up(subject: Subject, device: Device, policy: MeasurePolicy) -> _WarmUp:
    """Run until two neighbouring windows agree, or until the time-out."""
    started_s = device.now_s()
    window = policy.warmup_window
    runs_s: list[float] = []
    while True:
        runs_s.append(_time_once(subject, device, policy))
        elapsed_s = device.now_s() - started_s
        if len(runs_s) >= 2 * window:
            earlier = statistics.median(runs_s[-2 * window : -window])
            latest = statistics.median(runs_s[-window:])
            if abs(latest - earlier) <= policy.warmup_tolerance * earlier:
                return _WarmUp(num_runs=len(runs_s), seconds=elapsed_s)
        if elapsed_s >= policy.warmup_timeout_s:
            return _WarmUp(num_runs=len(runs_s), seconds=elapsed_s)


def _sample(
    subject: Subject, device: Device, policy: MeasurePolicy
) -> tuple[tuple[float, ...], str]:
    """Every sample in order, and why sampling stopped."""
    started_s = device.now_s()
    rule = MedianIntervalRule(policy)
    samples_s: list[float] = []
    while True:
        sample_s = _time_once(subject, device, policy)
        samples_s.append(sample_s)
        rule.add(sample_s)
        reason = rule.reason_to_stop(device.now_s() - started_s)
        if reason is not None:
            return tuple(samples_s), reason
