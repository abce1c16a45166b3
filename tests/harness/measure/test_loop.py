"""The order of the loop's phases, and when each of them ends."""

import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from harness.device.base import POWER_CAP, DeviceState, Result
from harness.device.fake import FakeDevice
from harness.device.request import FakeOptions
from harness.measure.loop import TURN_S, Entrant, Outcome, measure
from harness.measure.policy import Cache, Launch, MeasurePolicy
from harness.measure.subject import Subject
from harness.measure.workbench import open_workbench
from harness.record import Correctness, Measurement
from kernels import registry
from kernels.op import Outputs, problem

POLICY = MeasurePolicy()


class TracedDevice(FakeDevice):
    """Writes down what the loop does to it."""

    def __init__(self, options: FakeOptions) -> None:
        super().__init__(options)
        self.trace: list[str] = []
        self.can_hold = False
        self.can_capture = False

    def flush_cache(self) -> None:
        self.trace.append("flush")
        super().flush_cache()

    def hold(self, seconds: float) -> bool:
        self.trace.append(f"hold {seconds:g}")
        return self.can_hold

    def capture(self, run: Callable[[], Result]) -> Callable[[], Result] | None:
        self.trace.append("capture")
        return run if self.can_capture else None

    def pause(self, seconds: float) -> None:
        self.trace.append(f"pause {seconds:g}")
        super().pause(seconds)


class WarmDevice(TracedDevice):
    """Says that it is throttled for the first so many times it is asked."""

    def __init__(self, options: FakeOptions, num_throttled: int, reason: str) -> None:
        super().__init__(options)
        self.num_throttled = num_throttled
        self.reason = reason

    def state(self) -> DeviceState:
        self.num_throttled -= 1
        reasons = (self.reason,) if self.num_throttled >= 0 else ()
        return replace(super().state(), throttle_reasons=reasons)


def subject_of(
    device: FakeDevice, *runs_s: float, run: Callable[[], object] | None = None
) -> Subject:
    """Runs that take so long, one for each set of inputs, or one that does what is given."""
    trace = device.trace if isinstance(device, TracedDevice) else []

    def run_of(which: int, run_s: float) -> Callable[[], Outputs]:
        def once() -> Outputs:
            trace.append("run" if len(runs_s) < 2 else f"run {which}")
            device.advance(run_s) if run is None else run()
            return ()

        return once

    def check(*_: object) -> Correctness:
        raise AssertionError("the loop does not check")

    return Subject(
        runs=tuple(run_of(which, run_s) for which, run_s in enumerate(runs_s or (1e-3,))),
        restore=lambda which: trace.append("restore"),
        check=check,
        recheck=check,
    )


def measure_one(
    subject: Subject,
    device: FakeDevice,
    policy: MeasurePolicy = POLICY,
    best_s: float | None = None,
) -> Measurement:
    (outcome,) = measure([Entrant(subject=subject, best_s=best_s)], device, policy)
    assert outcome.measurement is not None, outcome.error
    return outcome.measurement


def measurements(outcomes: Sequence[Outcome]) -> list[Measurement]:
    found = [outcome.measurement for outcome in outcomes]
    assert None not in found
    return [one for one in found if one is not None]


def test_each_sample_restores_then_flushes_then_runs() -> None:
    device = TracedDevice(FakeOptions())
    measurement = measure_one(subject_of(device), device)
    num_runs = measurement.num_warmup + len(measurement.samples_s)
    assert device.trace == ["hold 0", *["restore", "flush", "run"] * num_runs, "restore"]
    assert measurement.cache == "cold"
    assert measurement.flush_bytes == device.flush_bytes


def test_a_hot_cache_is_not_flushed_and_each_turn_begins_with_a_run_that_is_not_timed() -> None:
    device = TracedDevice(FakeOptions())
    measurement = measure_one(subject_of(device), device, replace(POLICY, cache=Cache.HOT))
    assert "flush" not in device.trace
    assert measurement.flush_bytes == 0
    timed = measurement.num_warmup + len(measurement.samples_s)
    assert device.trace.count("run") == timed + len(measurement.windows)


def test_cold_runs_take_turns_between_the_sets_of_inputs() -> None:
    device = TracedDevice(FakeOptions())
    measurement = measure_one(subject_of(device, 1e-3, 1e-3), device)
    runs = [step for step in device.trace if step.startswith("run")]
    assert runs[:4] == ["run 0", "run 1", "run 0", "run 1"]
    assert measurement.num_input_sets == 2


def test_hot_runs_keep_to_one_set_of_inputs() -> None:
    device = TracedDevice(FakeOptions())
    policy = replace(POLICY, cache=Cache.HOT)
    assert measure_one(subject_of(device, 1e-3, 1e-3), device, policy).num_input_sets == 1
    assert "run 1" not in device.trace


def test_implementations_take_turns() -> None:
    device = FakeDevice(FakeOptions())
    policy = replace(POLICY, relative_half_width=1e-9, max_samples=100)
    turns: list[int] = []
    found = measure(
        [Entrant(subject=subject_of(device, 1e-3)), Entrant(subject=subject_of(device, 2e-3))],
        device,
        policy,
        turns.append,
    )
    first, second = measurements(found)
    # Warm-ups, then a turn each until the faster one has its samples, and the ends.
    assert turns[:6] == [0, 1, 0, 1, 0, 1]
    assert len(first.windows) > 3
    assert all(window.seconds < 2 * TURN_S for window in (*first.windows, *second.windows))


def test_a_drift_meets_all_implementations_alike() -> None:
    # Half as fast again after each second: one after the other, they would differ by a quarter.
    device = FakeDevice(FakeOptions(noise=0.001, drift_per_s=0.5, launch_s=0.0))
    policy = replace(POLICY, relative_half_width=1e-9, max_samples=300)
    entrants = [Entrant(subject=subject_of(device, 1e-3)) for _ in range(2)]
    first, second = measurements(measure(entrants, device, policy))
    medians = [sorted(one.samples_s)[len(one.samples_s) // 2] for one in (first, second)]
    assert medians[1] / medians[0] == pytest.approx(1, abs=0.02)
    assert max(first.samples_s) > 1.25 * min(first.samples_s)


def test_an_implementation_that_raises_leaves_the_others_their_measurements() -> None:
    device = FakeDevice(FakeOptions())

    def broken() -> None:
        raise RuntimeError("no")

    entrants = [
        Entrant(subject=subject_of(device, run=broken)),
        Entrant(subject=subject_of(device)),
    ]
    failed, measured = measure(entrants, device, POLICY)
    assert str(failed.error) == "no"
    assert failed.measurement is None
    assert measured.measurement is not None


def test_samples_of_a_throttled_turn_are_kept_labelled_and_taken_again_after_a_rest() -> None:
    # The first state is that before the first sample; then come two turns.
    device = WarmDevice(FakeOptions(), num_throttled=3, reason="hardware thermal slowdown")
    measurement = measure_one(subject_of(device), device)
    assert device.trace.count("pause 0.5") == 2
    assert [window.state.is_throttled for window in measurement.windows[:3]] == [True, True, False]
    num_throttled = sum(window.num_samples for window in measurement.windows[:2])
    assert measurement.num_throttled == num_throttled
    assert measurement.steady_samples_s == measurement.samples_s[num_throttled:]
    assert not measurement.is_throttled


def test_a_chip_that_never_stops_throttling_has_a_time_that_says_so() -> None:
    device = WarmDevice(FakeOptions(), num_throttled=10**6, reason="hardware slowdown")
    measurement = measure_one(subject_of(device), device)
    assert device.trace.count("pause 0.5") == POLICY.throttle_retries
    assert measurement.is_throttled
    assert measurement.steady_samples_s == measurement.samples_s


def test_a_chip_at_its_power_limit_is_not_made_to_rest() -> None:
    device = WarmDevice(FakeOptions(), num_throttled=10**6, reason=POWER_CAP)
    measurement = measure_one(subject_of(device), device)
    assert not any(step.startswith("pause") for step in device.trace)
    assert measurement.num_throttled == 0
    assert measurement.state_after.throttle_reasons == (POWER_CAP,)


def test_a_device_that_can_be_held_is_held_before_each_run() -> None:
    device = TracedDevice(FakeOptions())
    device.can_hold = True
    measurement = measure_one(subject_of(device), device)
    assert measurement.launch == Launch.HELD
    first_sample = device.trace.index("run")
    assert [step.split()[0] for step in device.trace[1 : first_sample + 1]] == [
        *("restore", "flush", "hold", "run"),
    ]


def test_a_device_that_cannot_be_held_is_launched_on_directly_and_the_record_says_so() -> None:
    device = TracedDevice(FakeOptions())
    assert measure_one(subject_of(device), device).launch == Launch.DIRECT


@pytest.mark.parametrize(
    ("can_capture", "can_hold", "launch"),
    [
        (True, True, Launch.GRAPH),
        (False, True, Launch.HELD),
        (False, False, Launch.DIRECT),
    ],
)
def test_a_run_that_cannot_be_captured_is_launched_as_the_device_can(
    can_capture: bool, can_hold: bool, launch: Launch
) -> None:
    device = TracedDevice(FakeOptions())
    device.can_capture, device.can_hold = can_capture, can_hold
    policy = replace(POLICY, launch=Launch.GRAPH)
    assert measure_one(subject_of(device), device, policy).launch == launch


def test_what_the_last_timed_run_returned_is_handed_on() -> None:
    device = FakeDevice(FakeOptions())
    (outcome,) = measure([Entrant(subject=subject_of(device, 1e-3, 1e-3))], device, POLICY)
    assert outcome.measurement is not None
    num_runs = outcome.measurement.num_warmup + len(outcome.measurement.samples_s)
    assert outcome.last_set == (num_runs - 1) % 2
    assert outcome.last_outputs == ()


def test_stops_when_the_interval_is_narrow_enough_and_says_so() -> None:
    device = FakeDevice(FakeOptions(noise=0.005))
    measurement = measure_one(subject_of(device), device)
    assert len(measurement.samples_s) >= POLICY.min_samples
    assert "reached the 1.00% wanted" in measurement.stop_reason


def test_stops_at_the_timeout_and_says_so() -> None:
    device = FakeDevice(FakeOptions(noise=0.5))
    policy = replace(POLICY, relative_half_width=1e-6, timeout_s=0.5)
    measurement = measure_one(subject_of(device), device, policy)
    assert measurement.stop_reason.startswith("timed out after 0.5 s: interval half-width")


def test_takes_a_few_samples_even_of_what_is_longer_than_the_timeout() -> None:
    device = FakeDevice(FakeOptions())
    measurement = measure_one(subject_of(device, 100.0), device)
    assert len(measurement.samples_s) == POLICY.min_samples_at_timeout


def test_stops_at_the_limit_of_samples_and_says_so() -> None:
    device = FakeDevice(FakeOptions(noise=0.5))
    policy = replace(POLICY, relative_half_width=1e-9, max_samples=25)
    measurement = measure_one(subject_of(device), device, policy)
    assert len(measurement.samples_s) == 25
    assert "at the limit of 25 samples" in measurement.stop_reason


def test_warms_up_until_two_windows_agree() -> None:
    slow_start = iter([8e-3, 6e-3, 4e-3, 2e-3] + [1e-3] * 10_000)
    device = FakeDevice(FakeOptions(noise=0.0, launch_s=0.0))
    subject = subject_of(device, run=lambda: device.advance(next(slow_start)))
    measurement = measure_one(subject, device)
    # The last six warm-up runs are all of 1 ms, so at least the four slow ones come before.
    assert measurement.num_warmup >= 4 + 3
    assert max(measurement.samples_s) == pytest.approx(1e-3)


def test_warm_up_ends_at_its_timeout_when_it_never_settles() -> None:
    growing = (1e-3 * 1.5**index for index in range(1000))
    device = FakeDevice(FakeOptions(noise=0.0))
    subject = subject_of(device, run=lambda: device.advance(next(growing)))
    policy = replace(POLICY, warmup_timeout_s=1.0, max_samples=3, min_samples=3)
    assert measure_one(subject, device, policy).warmup_s >= 1.0


def test_no_sample_is_dropped() -> None:
    runs = iter([1e-3] * 8 + [1.0] + [1e-3] * 10_000)
    device = FakeDevice(FakeOptions(noise=0.0, launch_s=0.0))
    subject = subject_of(device, run=lambda: device.advance(next(runs)))
    assert max(measure_one(subject, device).samples_s) == pytest.approx(1.0)


def test_a_throttling_chip_shows_in_the_state_after() -> None:
    device = FakeDevice(FakeOptions(throttle_after_s=0.0))
    measurement = measure_one(subject_of(device), device)
    assert measurement.state_after.throttle_reasons == ("virtual throttling",)


def test_the_fake_chip_repeats_itself() -> None:
    options = FakeOptions(seed=1)
    found = []
    for _ in range(2):
        device = FakeDevice(options)
        bench = open_workbench(
            registry.load("copy"), problem("copy", "bf16", N=2**20), device, POLICY
        )
        found.append(measure_one(bench.subject("torch"), device).samples_s)
    assert found[0] == found[1]


def test_a_candidate_that_cannot_win_a_search_is_given_up_after_its_first_turn() -> None:
    device = FakeDevice(FakeOptions())
    policy = MeasurePolicy(relative_half_width=1e-9)
    beaten = measure_one(subject_of(device, 1e-3), device, policy, best_s=0.5e-3)
    assert len(beaten.windows) == 1
    assert beaten.stop_reason.startswith("given up: the fastest of")
    rival = measure_one(subject_of(device, 1e-3), device, policy, best_s=1.5e-3)
    assert len(rival.windows) > 1


def raising_with(held: torch.Tensor) -> Callable[[], object]:
    def run() -> None:
        raise RuntimeError(f"no {held.numel()}")

    return run


def test_an_error_does_not_keep_the_tensors_of_the_entrants_alive() -> None:
    device = FakeDevice(FakeOptions())
    held = torch.zeros(4)
    gone = weakref.ref(held)
    entrants = [Entrant(subject=subject_of(device, run=raising_with(held)))]
    gc.disable()
    try:
        (failed,) = measure(entrants, device, POLICY)
        del held, entrants
        assert gone() is None
    finally:
        gc.enable()
    assert str(failed.error) == "no 4"


def test_the_peak_of_memory_is_the_entrants_own() -> None:
    class Remembering(FakeDevice):
        peak = 0

        def reset_peak_memory(self) -> None:
            self.peak = 0

        def peak_memory_bytes(self) -> int:
            return self.peak

    device = Remembering(FakeOptions())

    def taking(num_bytes: int) -> Callable[[], object]:
        def run() -> None:
            device.peak = max(device.peak, num_bytes)
            device.advance(1e-3)

        return run

    entrants = [Entrant(subject=subject_of(device, run=taking(size))) for size in (7, 100)]
    first, second = measurements(measure(entrants, device, POLICY))
    assert (first.peak_memory_bytes, second.peak_memory_bytes) == (7, 100)
