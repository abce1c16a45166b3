"""The order of the loop's phases, and when each of them ends."""

from dataclasses import replace

import pytest

from harness.device.fake import FakeDevice
from harness.device.request import FakeOptions
from harness.measure.loop import measure
from harness.measure.policy import Cache, MeasurePolicy
from harness.measure.stopping import MedianIntervalRule
from harness.measure.subject import Subject, open_workbench
from harness.record import Correctness
from kernels import registry
from kernels.op import problem

POLICY = MeasurePolicy()


class TracedDevice(FakeDevice):
    """Writes down what the loop does to it."""

    def __init__(self, options: FakeOptions) -> None:
        super().__init__(options)
        self.trace: list[str] = []

    def flush_cache(self, at_least_s: float = 0.0) -> None:
        self.trace.append("flush")
        super().flush_cache(at_least_s)


def subject_of(device: FakeDevice, run_s: float = 1e-3) -> Subject:
    trace = device.trace if isinstance(device, TracedDevice) else []

    def run() -> None:
        trace.append("run")
        device.advance(run_s)

    def check() -> Correctness:
        raise AssertionError("the loop does not check")

    return Subject(run=run, restore=lambda: trace.append("restore"), check=check)


def test_each_sample_restores_then_flushes_then_runs() -> None:
    device = TracedDevice(FakeOptions())
    measurement = measure(subject_of(device), device, POLICY)
    num_runs = measurement.num_warmup + len(measurement.samples_s)
    assert device.trace == ["restore", "flush", "run"] * num_runs
    assert measurement.cache == "cold"
    assert measurement.flush_bytes == device.flush_bytes


def test_a_hot_cache_is_not_flushed() -> None:
    device = TracedDevice(FakeOptions())
    measurement = measure(subject_of(device), device, replace(POLICY, cache=Cache.HOT))
    assert "flush" not in device.trace
    assert measurement.flush_bytes == 0


def test_stops_when_the_interval_is_narrow_enough_and_says_so() -> None:
    device = FakeDevice(FakeOptions(noise=0.005))
    measurement = measure(subject_of(device), device, POLICY)
    assert len(measurement.samples_s) >= POLICY.min_samples
    assert "reached the 1.00% wanted" in measurement.stop_reason


def test_stops_at_the_timeout_and_says_so() -> None:
    device = FakeDevice(FakeOptions(noise=0.5))
    policy = replace(POLICY, relative_half_width=1e-6, timeout_s=0.5)
    measurement = measure(subject_of(device), device, policy)
    assert measurement.stop_reason.startswith("timed out after 0.5 s: interval half-width")


def test_takes_a_few_samples_even_of_what_is_longer_than_the_timeout() -> None:
    device = FakeDevice(FakeOptions())
    measurement = measure(subject_of(device, run_s=100.0), device, POLICY)
    assert len(measurement.samples_s) == POLICY.min_samples_at_timeout


def test_stops_at_the_limit_of_samples_and_says_so() -> None:
    device = FakeDevice(FakeOptions(noise=0.5))
    policy = replace(POLICY, relative_half_width=1e-9, max_samples=25)
    measurement = measure(subject_of(device), device, policy)
    assert len(measurement.samples_s) == 25
    assert "at the limit of 25 samples" in measurement.stop_reason


def test_warms_up_until_two_windows_agree() -> None:
    slow_start = iter([8e-3, 6e-3, 4e-3, 2e-3] + [1e-3] * 10_000)
    device = FakeDevice(FakeOptions(noise=0.0, launch_s=0.0))
    subject = replace(subject_of(device), run=lambda: device.advance(next(slow_start)))
    measurement = measure(subject, device, POLICY)
    # The last six warm-up runs are all of 1 ms, so at least the four slow ones come before.
    assert measurement.num_warmup >= 4 + 3
    assert max(measurement.samples_s) == pytest.approx(1e-3)


def test_warm_up_ends_at_its_timeout_when_it_never_settles() -> None:
    growing = (1e-3 * 1.5**index for index in range(1000))
    device = FakeDevice(FakeOptions(noise=0.0))
    subject = replace(subject_of(device), run=lambda: device.advance(next(growing)))
    policy = replace(POLICY, warmup_timeout_s=1.0, max_samples=3, min_samples=3)
    assert measure(subject, device, policy).warmup_s >= 1.0


def test_no_sample_is_dropped() -> None:
    runs = iter([1e-3] * 8 + [1.0] + [1e-3] * 10_000)
    device = FakeDevice(FakeOptions(noise=0.0, launch_s=0.0))
    subject = replace(subject_of(device), run=lambda: device.advance(next(runs)))
    assert max(measure(subject, device, POLICY).samples_s) == pytest.approx(1.0)


def test_the_rule_does_not_stop_on_the_first_lucky_samples() -> None:
    rule = MedianIntervalRule(POLICY)
    for _ in range(POLICY.min_samples - 1):
        rule.add(1.0)
        assert rule.reason_to_stop(0.0) is None
    rule.add(1.0)
    assert rule.reason_to_stop(0.0) is not None


def test_a_throttling_chip_shows_in_the_state_after() -> None:
    device = FakeDevice(FakeOptions(throttle_after_s=0.0))
    measurement = measure(subject_of(device), device, POLICY)
    assert measurement.state_after.throttle_reasons == ("virtual throttling",)


def test_the_fake_chip_repeats_itself() -> None:
    options = FakeOptions(seed=1)
    found = []
    for _ in range(2):
        device = FakeDevice(options)
        bench = open_workbench(
            registry.load("copy"), problem("copy", "bf16", N=2**20), device, POLICY
        )
        found.append(measure(bench.subject("torch"), device, POLICY).samples_s)
    assert found[0] == found[1]


def test_a_candidate_that_cannot_win_a_search_is_given_up_after_five_samples() -> None:
    device = TracedDevice(FakeOptions())
    policy = MeasurePolicy(relative_half_width=1e-9)
    beaten = measure(subject_of(device, 1e-3), device, policy, best_s=0.5e-3)
    assert len(beaten.samples_s) == 5
    assert beaten.stop_reason.startswith("given up: the fastest of 5 samples")
    rival = measure(subject_of(device, 1e-3), device, policy, best_s=1.5e-3)
    assert len(rival.samples_s) > 5
