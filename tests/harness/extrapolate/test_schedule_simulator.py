from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.extrapolate.pipeline import StageTimes, bubble_s, layers_in_flight
from harness.extrapolate.schedule import (
    SCHEDULES,
    Placement,
    Schedule,
    messages_waited,
    schedule_code,
    schedule_of,
)
from harness.extrapolate.schedule_simulator import SimulatedPipeline, StagePasses, simulate
from harness.extrapolate.work_order import Pass, work_order

AGREEMENT = 0.01
"""Largest relative difference of a step between closed form and simulation, with equal stages."""


@st.composite
def plans(draw: st.DrawFn) -> tuple[Schedule, int, int, int]:
    """Schedules that are legal: p up to 16, m from 1 to 8 p, v up to 4."""
    schedule = draw(st.sampled_from(SCHEDULES))
    p = draw(st.integers(schedule.least_pipeline, 16))
    p += p % 2 if schedule.needs_even else 0
    v = draw(st.integers(schedule.least_chunks, schedule.most_chunks or 4))
    m = draw(st.integers(max(1, schedule.microbatches_per_device * p), 8 * p))
    m += m % 2 if schedule.needs_even else 0
    return schedule, p, v, m


@st.composite
def shares(draw: st.DrawFn) -> tuple[float, float, float]:
    """F, B and W of a time: B the longest, since it has the rest of attention's backward."""
    forward = draw(st.floats(0.2, 1 / 3))
    weight = draw(st.floats(0.1, 1 / 3))
    return forward, 1 - forward - weight, weight


def passes(total_s: float, parts: tuple[float, float, float]) -> StagePasses:
    forward, inputs, weight = parts
    return StagePasses(
        forward_s=total_s * forward, input_s=total_s * inputs, weight_s=total_s * weight
    )


def run(
    plan: tuple[Schedule, int, int, int],
    parts: tuple[float, float, float],
    stages: list[float] | None = None,
    message_s: float = 0.0,
) -> SimulatedPipeline:
    """A step whose devices need a second per microbatch, or stages as given."""
    schedule, p, v, m = plan
    order = work_order(schedule, pipeline=p, virtual_stages=v, num_microbatches=m)
    times = stages if stages is not None else [1 / v] * (p * v)
    return simulate(order, [passes(time_s, parts) for time_s in times], message_s=message_s)


def device_times(plan: tuple[Schedule, int, int, int], stages: list[float]) -> list[float]:
    """Seconds of each device per microbatch of the step."""
    schedule, p, _, _ = plan
    if schedule.placement is Placement.IN_TURN:
        return [sum(stages[device::p]) for device in range(p)]
    share = 0.5 if schedule.placement is Placement.BOTH_WAYS else 1.0
    return [share * (stages[device] + stages[-1 - device]) for device in range(p)]


def closed(
    plan: tuple[Schedule, int, int, int],
    parts: tuple[float, float, float],
    stages: list[float] | None = None,
) -> float:
    """The step by the closed form."""
    schedule, p, v, m = plan
    devices = device_times(plan, stages if stages is not None else [1 / v] * (p * v))
    times = StageTimes(
        slowest_s=max(devices),
        sum_s=sum(devices),
        forward_share=parts[0],
        weight_share=parts[2],
    )
    idle = bubble_s(times, pipeline=p, virtual_stages=v, num_microbatches=m, schedule=schedule.name)
    return m * max(devices) + idle


@settings(max_examples=250, deadline=None)
@given(plans(), shares())
def test_closed_form_and_simulation_agree_where_stages_are_equal(
    plan: tuple[Schedule, int, int, int], parts: tuple[float, float, float]
) -> None:
    simulated = run(plan, parts).longest_span_s
    assert closed(plan, parts) == pytest.approx(simulated, rel=AGREEMENT)


@settings(max_examples=100, deadline=None)
@given(plans(), shares(), st.floats(0, 0.5), st.floats(0, 0.5))
def test_with_heavier_ends_the_difference_is_bounded(
    plan: tuple[Schedule, int, int, int],
    parts: tuple[float, float, float],
    first: float,
    last: float,
) -> None:
    schedule, p, v, m = plan
    stages = [1 / v] * (p * v)
    stages[0] += first
    stages[-1] += last
    excess = closed(plan, parts, stages) - run(plan, parts, stages).longest_span_s
    spread = v * (max(stages) - min(stages))
    assert excess <= (m + p) * spread + 1e-9
    below = p * spread if schedule.name == "interleaved" else 0.0
    assert excess >= -below - 1e-9


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 16), st.integers(1, 64), st.integers(0, 8), shares())
def test_1f1b_with_a_heavier_last_stage_agrees_exactly(
    p: int, m: int, heavier: int, parts: tuple[float, float, float]
) -> None:
    plan = (schedule_of("1f1b"), p, 1, m)
    stages = [1.0] * p
    stages[-1] += heavier / 8
    simulated = run(plan, parts, stages).makespan_s
    assert closed(plan, parts, stages) == pytest.approx(simulated)


@settings(max_examples=100, deadline=None)
@given(plans(), shares())
def test_each_device_holds_as_many_microbatches_as_the_closed_form_says(
    plan: tuple[Schedule, int, int, int], parts: tuple[float, float, float]
) -> None:
    schedule, p, v, m = plan
    # A device of DualPipe has two stages and counts in stages.
    chunks = 1 if schedule.placement is Placement.BOTH_WAYS else v
    for place, device in enumerate(run(plan, parts).devices):
        held = layers_in_flight(
            1,
            pipeline=p,
            virtual_stages=v,
            num_microbatches=m,
            stage=place,
            schedule=schedule.name,
        )
        assert device.most_held / chunks == pytest.approx(held)


@settings(max_examples=60, deadline=None)
@given(plans())
def test_an_order_has_every_pass_once_on_the_devices_that_have_the_stage(
    plan: tuple[Schedule, int, int, int],
) -> None:
    schedule, p, v, m = plan
    order = work_order(schedule, pipeline=p, virtual_stages=v, num_microbatches=m)
    done: Counter[tuple[str, int, int]] = Counter()
    for slots in order.devices:
        passed = set()
        for slot in slots:
            for kind, stage, microbatch in slot:
                if kind in (Pass.INPUT, Pass.BACKWARD):
                    assert (Pass.FORWARD, stage, microbatch) in passed
                if kind is Pass.WEIGHT:
                    assert (Pass.INPUT, stage, microbatch) in passed
                passed.add((kind, stage, microbatch))
                if kind is Pass.FORWARD:
                    done["forward", stage, microbatch] += 1
                if kind in (Pass.INPUT, Pass.BACKWARD):
                    done["input", stage, microbatch] += 1
                if kind in (Pass.WEIGHT, Pass.BACKWARD):
                    done["weight", stage, microbatch] += 1
    assert len(done) == 3 * p * v * m
    assert set(done.values()) == {1}


@settings(max_examples=60, deadline=None)
@given(plans(), shares(), st.floats(0.001, 0.5))
def test_messages_never_make_a_step_shorter(
    plan: tuple[Schedule, int, int, int], parts: tuple[float, float, float], message_s: float
) -> None:
    alone = run(plan, parts).makespan_s
    assert run(plan, parts, message_s=message_s).makespan_s >= alone - 1e-9


def test_two_devices_run_as_drawn_by_hand() -> None:
    # F F B . F B . B
    # . F B F B F B .     forward 1 s, backward 2 s: 3 microbatches over 2 devices
    simulated = run((schedule_of("1f1b"), 2, 1, 3), (1 / 3, 1 / 3, 1 / 3), [3.0, 3.0])
    first, last = simulated.devices
    assert (first.first_s, first.last_s, first.busy_s) == (0, 12, 9)
    assert (last.first_s, last.last_s, last.busy_s) == (1, 10, 9)
    assert simulated.makespan_s == 12


def test_a_message_delays_what_waits_for_it() -> None:
    simulated = run(
        (schedule_of("gpipe"), 2, 1, 1), (1 / 3, 1 / 3, 1 / 3), [3.0, 3.0], message_s=0.25
    )
    assert simulated.makespan_s == pytest.approx(6 + 2 * 0.25)


def test_skewed_schedules_need_their_idle_time_only_without_a_barrier() -> None:
    plan = (schedule_of("zb_h2"), 8, 1, 32)
    simulated = run(plan, (1 / 3, 1 / 3, 1 / 3))
    assert plan[0].is_skewed
    assert simulated.longest_span_s == pytest.approx(32)
    assert simulated.makespan_s == pytest.approx(32 + 7 / 3)
    for schedule in SCHEDULES:
        if not schedule.is_skewed:
            even = run((schedule, 8, schedule.least_chunks, 32), (1 / 3, 1 / 3, 1 / 3))
            assert even.makespan_s == pytest.approx(even.longest_span_s)


@settings(max_examples=100, deadline=None)
@given(plans())
def test_a_step_waits_for_as_many_short_messages_as_the_closed_form_says(
    plan: tuple[Schedule, int, int, int],
) -> None:
    schedule, p, v, m = plan
    thirds = (1 / 3, 1 / 3, 1 / 3)
    message_s = 1e-4
    later = run(plan, thirds, message_s=message_s).longest_span_s
    waited = (later - run(plan, thirds).longest_span_s) / message_s
    found = messages_waited(
        schedule_code(schedule.name), pipeline=p, virtual_stages=v, num_microbatches=m
    )
    assert float(found) == pytest.approx(waited, abs=2)
