import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.extrapolate.filling import rounds
from harness.extrapolate.pipeline import StageTimes, bubble_s, layers_in_flight
from harness.extrapolate.schedule import (
    NAMES,
    SCHEDULES,
    idle_s,
    microbatches_held,
    schedule_code,
    schedule_of,
)


def idle(name: str, p: int, m: int, forward: float, backward: float, weight: float) -> float:
    """Of equal devices, with the whole backward and, of it, the part for the weights."""
    total = forward + backward
    times = StageTimes(
        slowest_s=total,
        sum_s=p * total,
        forward_share=forward / total,
        weight_share=weight / total,
    )
    chunks = schedule_of(name).least_chunks
    return bubble_s(times, pipeline=p, virtual_stages=chunks, num_microbatches=m, schedule=name)


@pytest.mark.parametrize("p", [4, 8, 16])
@pytest.mark.parametrize(("forward", "inputs", "weight"), [(1, 1, 1), (1, 1.4, 1), (18, 18, 9)])
def test_idle_times_are_those_of_the_zero_bubble_paper(
    p: int, forward: float, inputs: float, weight: float
) -> None:
    # Table 2 of arXiv 2401.10241; its B is the input gradient alone.
    backward = inputs + weight
    assert idle("1f1b", p, 3 * p, forward, backward, weight) == pytest.approx(
        (p - 1) * (forward + inputs + weight)
    )
    assert idle("zb_h1", p, 3 * p, forward, backward, weight) == pytest.approx(
        (p - 1) * (forward + inputs - weight)
    )
    assert idle("zb_h2", p, 3 * p, forward, backward, weight) == pytest.approx(
        (p - 1) * max(forward + inputs - 2 * weight, inputs - forward)
    )


@pytest.mark.parametrize("p", [4, 8, 16])
def test_idle_time_of_dualpipe_is_that_of_deepseek(p: int) -> None:
    # Table 2 of arXiv 2412.19437 with F&B = F + B, at F = W = B / 2.
    forward, backward, weight = 1.0, 2.0, 1.0
    published = (p / 2 - 1) * (forward + backward + backward - 3 * weight)
    assert idle("dualpipe", p, 2 * p, forward, backward, weight) == pytest.approx(published)


@given(st.integers(2, 32), st.floats(0, 1), st.floats(0, 1))
def test_idle_time_of_dualpipe_is_at_most_a_forward_below_deepseeks(
    half: int, longer: float, shorter: float
) -> None:
    forward, inputs, weight = 1.0, 1.0 + longer, 1.0 - shorter / 2
    backward = inputs + weight
    published = (half - 1) * (forward + backward + backward - 3 * weight)
    found = idle("dualpipe", 2 * half, 4 * half, forward, backward, weight)
    assert published - forward - 1e-9 <= found <= published + 1e-9


def test_zero_bubble_v_has_none_where_all_passes_take_as_long() -> None:
    assert idle("zbv", 8, 15, 1.0, 2.0, 1.0) == pytest.approx(0)
    assert idle("zbv", 8, 8, 1.0, 2.0, 1.0) > 0


def test_schedules_rank_as_published() -> None:
    found = [
        idle(name, 8, 32, 1.0, 2.0, 1.0)
        for name in ("gpipe", "interleaved", "zb_h1", "dualpipe", "zb_h2")
    ]
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("gpipe", [64] * 4),
        ("1f1b", [4, 3, 2, 1]),
        ("zb_h1", [4] * 4),
        ("zb_h2", [7] * 4),
        ("zbv", [4] * 4),
        ("dualpipe", [5] * 4),
        ("dualpipe_v", [4.5] * 4),
    ],
)
def test_microbatches_in_flight_are_the_published_ones(name: str, held: list[float]) -> None:
    chunks = schedule_of(name).least_chunks
    found = [
        layers_in_flight(
            1, pipeline=4, virtual_stages=chunks, num_microbatches=64, stage=i, schedule=name
        )
        for i in range(4)
    ]
    assert found == held


def test_only_dualpipe_keeps_parameters_twice() -> None:
    assert {s.name for s in SCHEDULES if s.parameter_copies == 2} == {"dualpipe"}


def test_expert_exchange_hides_where_a_forward_runs_beside_a_backward() -> None:
    assert {s.name for s in SCHEDULES if s.hides_expert_exchange} == {"dualpipe", "dualpipe_v"}


@pytest.mark.parametrize(
    ("name", "p", "v", "m", "words"),
    [
        ("interleaved", 8, 1, 8, r"2 virtual stages per chip or more, not 1.*virtual_stages=2"),
        ("1f1b", 8, 2, 8, r"not 2\. .*virtual_stages=1 or parallel\.schedule=interleaved"),
        ("zbv", 8, 4, 8, r"2 virtual stages per chip, not 4.*virtual_stages=2"),
        ("dualpipe", 7, 1, 16, r"even pipeline, not 7.*pipeline=8"),
        ("dualpipe", 8, 1, 15, r"even number of at least 16 microbatches, not 15.*have 16"),
        ("dualpipe", 8, 1, 17, r"even number of at least 16 microbatches, not 17.*have 18"),
        ("dualpipe_v", 8, 2, 15, r"at least 16 microbatches, not 15.*have 16"),
        ("zb_h1", 1, 1, 8, r"2 stages or more, not 1.*pipeline=2"),
    ],
)
def test_a_plan_that_is_not_legal_is_told_the_nearest_that_is(
    name: str, p: int, v: int, m: int, words: str
) -> None:
    fault = schedule_of(name).fault(pipeline=p, virtual_stages=v, num_microbatches=m)
    assert re.search(words, fault), fault


def test_legal_plans_have_no_fault() -> None:
    for schedule in SCHEDULES:
        assert not schedule.fault(
            pipeline=8, virtual_stages=schedule.least_chunks, num_microbatches=16
        )


def test_chunks_make_1f1b_the_interleaved_schedule() -> None:
    assert schedule_of("1f1b", 1).name == "1f1b"
    assert schedule_of("1f1b", 4).name == "interleaved"


@given(st.integers(1, 300), st.integers(1, 32))
def test_rounds_are_as_long_as_the_pipeline_or_longer(m: int, p: int) -> None:
    lengths = rounds(m, p)
    assert sum(lengths) == m
    assert max(lengths) - min(lengths) <= 1
    assert min(lengths) >= min(m, p)
    assert max(lengths) < 2 * p or m < p


@given(
    st.lists(
        st.tuples(
            st.sampled_from(NAMES),
            st.integers(1, 16),
            st.integers(1, 4),
            st.integers(1, 128),
            st.floats(0.5, 2),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_many_plans_at_once_give_what_each_gives_alone(
    plans: list[tuple[str, int, int, int, float]],
) -> None:
    names, p, v, m, seconds = zip(*plans, strict=True)
    codes = np.array([schedule_code(name) for name in names])
    slowest = np.array(seconds)
    columns = {
        "pipeline": np.array(p),
        "virtual_stages": np.array(v),
        "num_microbatches": np.array(m),
    }
    idle_together = idle_s(codes, **columns, slowest_s=slowest, sum_s=slowest * p)
    held_together = microbatches_held(codes, **columns)
    for row, (name, pipeline, chunks, microbatches, time_s) in enumerate(plans):
        alone = bubble_s(
            StageTimes(slowest_s=time_s, sum_s=time_s * pipeline),
            pipeline=pipeline,
            virtual_stages=chunks,
            num_microbatches=microbatches,
            schedule=name,
        )
        assert idle_together[row] == pytest.approx(alone, abs=1e-12)
        held = layers_in_flight(
            1,
            pipeline=pipeline,
            virtual_stages=chunks,
            num_microbatches=microbatches,
            schedule=name,
        )
        assert held_together[row] == pytest.approx(held)


def test_draws_of_a_time_broadcast_over_the_plans() -> None:
    draws = np.array([[1.0], [2.0], [3.0]])
    found = idle_s(
        np.array([schedule_code("1f1b"), schedule_code("zb_h1")]),
        pipeline=np.array([4, 8]),
        virtual_stages=1,
        num_microbatches=np.array([16, 16]),
        slowest_s=draws,
        sum_s=draws * np.array([4, 8]),
    )
    assert found == pytest.approx(draws * np.array([3, 7 / 3]))
