"""How the host's time to launch is kept out of the samples, and what the record says of it."""

import statistics
from collections.abc import Callable
from dataclasses import replace

import pytest

from harness.measure.loop import DeviceLost, Entrant, Outcome, measure
from harness.measure.policy import Launch, MeasurePolicy
from harness.measure.subject import Subject
from harness.record import Correctness, Measurement
from kernels.op import Outputs
from tests.harness.measure.stand_in import REPLAY_S, StandIn

LAUNCH_S = 5e-6
WORK_S = 2e-5
POLICY = MeasurePolicy(max_samples=50, warmup_timeout_s=0.1)


def outcome_on(device: StandIn, launch: Launch, num_sets: int = 1) -> Outcome:
    """What becomes of a run that is launched in four parts."""

    def run_of(number: int) -> Callable[[], Outputs]:
        parts = [device.launches(WORK_S / 4) for _ in range(4)]

        def run() -> Outputs:
            for part in parts:
                part()
            return (number,)  # type: ignore[return-value]

        return run

    def check(*_: object) -> Correctness:
        raise AssertionError("the loop does not check")

    subject = Subject(
        runs=tuple(run_of(number) for number in range(num_sets)),
        restore=lambda which: None,
        check=check,
        recheck=check,
    )
    (outcome,) = measure(
        [Entrant(subject=subject)],
        device,  # type: ignore[arg-type]
        replace(POLICY, launch=launch),
    )
    return outcome


def measured(device: StandIn, launch: Launch, num_sets: int = 1) -> Measurement:
    measurement = outcome_on(device, launch, num_sets).measurement
    assert measurement is not None
    return measurement


def median_s(measurement: Measurement) -> float:
    return statistics.median(measurement.samples_s)


def test_a_direct_sample_holds_every_launch() -> None:
    measurement = measured(StandIn(launch_s=LAUNCH_S, can_hold=True), Launch.DIRECT)
    assert measurement.launch == "direct"
    assert median_s(measurement) == pytest.approx(WORK_S + 4 * LAUNCH_S, rel=0.01)


def test_a_held_sample_holds_the_work_alone() -> None:
    measurement = measured(StandIn(launch_s=LAUNCH_S, can_hold=True), Launch.HELD)
    assert measurement.launch == "held"
    assert median_s(measurement) == pytest.approx(WORK_S, rel=0.01)


def test_a_sample_is_held_for_its_start_and_stop_at_least() -> None:
    device = StandIn(launch_s=LAUNCH_S, can_hold=True)
    held: list[float] = []
    plain = device.hold
    device.hold = lambda seconds: (held.append(seconds), plain(seconds))[1]  # type: ignore[method-assign]
    measured(device, Launch.HELD)
    assert len(held) > 10
    assert min(seconds for seconds in held if seconds) >= 50e-6


def test_where_nothing_can_be_held_the_record_says_direct() -> None:
    measurement = measured(StandIn(launch_s=LAUNCH_S), Launch.HELD)
    assert measurement.launch == "direct"
    assert median_s(measurement) == pytest.approx(WORK_S + 4 * LAUNCH_S, rel=0.01)


def test_a_graph_is_replayed_in_every_sample() -> None:
    measurement = measured(StandIn(launch_s=LAUNCH_S, can_capture=True), Launch.GRAPH)
    assert measurement.launch == "graph"
    assert median_s(measurement) == pytest.approx(WORK_S + 4 * REPLAY_S, rel=0.01)


def test_each_set_of_inputs_is_captured_and_has_its_turn() -> None:
    device = StandIn(launch_s=LAUNCH_S, can_capture=True)
    captured: list[object] = []
    plain = device.capture
    device.capture = lambda run: (captured.append(run), plain(run))[1]  # type: ignore[method-assign]
    outcome = outcome_on(device, Launch.GRAPH, num_sets=2)
    assert len(captured) == 2
    assert outcome.measurement is not None
    assert outcome.measurement.num_input_sets == 2
    assert outcome.last_outputs == (outcome.last_set,)


def test_without_graphs_the_device_is_held_and_the_record_says_so() -> None:
    measurement = measured(StandIn(launch_s=LAUNCH_S, can_hold=True), Launch.GRAPH)
    assert measurement.launch == "held"
    assert median_s(measurement) == pytest.approx(WORK_S, rel=0.01)


def test_a_run_that_cannot_be_captured_with_all_its_inputs_is_not_replayed_with_some() -> None:
    device = StandIn(launch_s=LAUNCH_S, can_hold=True, can_capture=True)
    plain = device.capture
    answers = iter([True, False])
    device.capture = (  # type: ignore[method-assign]
        lambda run: plain(run) if next(answers) else None  # type: ignore[arg-type, return-value]
    )
    assert measured(device, Launch.GRAPH, num_sets=2).launch == "held"


def test_a_device_that_a_failed_capture_broke_is_lost() -> None:
    device = StandIn(launch_s=LAUNCH_S, can_hold=True)

    def broken(run: object) -> None:
        raise RuntimeError("the device no longer computes after a failed capture")

    device.capture = broken  # type: ignore[assignment, method-assign]
    device.is_usable = lambda: False  # type: ignore[attr-defined]
    with pytest.raises(DeviceLost, match="after a failed capture"):
        outcome_on(device, Launch.GRAPH)
