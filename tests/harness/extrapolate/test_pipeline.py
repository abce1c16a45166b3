import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.extrapolate.pipeline import (
    Busy,
    StageTimes,
    bubble_s,
    layers_in_flight,
    stage_kinds,
    stage_layers,
)


@given(st.integers(1, 64), st.integers(1, 256), st.floats(1e-3, 10))
def test_equal_stages_idle_for_the_textbook_share(p: int, extra: int, seconds: float) -> None:
    m = p + extra
    stages = StageTimes(slowest_s=seconds, sum_s=p * seconds)
    bubble = bubble_s(stages, pipeline=p, virtual_stages=1, num_microbatches=m)
    assert bubble / (m * seconds) == pytest.approx((p - 1) / m)


@given(st.integers(2, 64), st.integers(1, 16))
def test_interleaving_divides_the_bubble(p: int, v: int) -> None:
    stages = StageTimes(slowest_s=1.0, sum_s=float(p))
    bubble = bubble_s(stages, pipeline=p, virtual_stages=v, num_microbatches=2 * p)
    assert bubble == pytest.approx((p - 1) / v)


def test_uneven_stages_take_the_slowest_for_all_but_one_microbatch() -> None:
    # (m - 1) max T + sum T = 7 x 3 + (1 + 3 + 2), of which 8 x 3 is not idle.
    stages = StageTimes(slowest_s=3.0, sum_s=6.0)
    assert bubble_s(stages, pipeline=3, virtual_stages=1, num_microbatches=8) == 3.0


def test_fewer_microbatches_than_stages_wait_in_every_chunk() -> None:
    stages = StageTimes(slowest_s=1.0, sum_s=8.0)
    bubble = bubble_s(stages, pipeline=8, virtual_stages=4, num_microbatches=6)
    assert bubble == pytest.approx(7 / 4 + 3 / 4 * 2)


def test_the_ends_of_llama_405b_have_a_layer_less() -> None:
    assert stage_layers(126, 16) == (7, *[8] * 14, 7)
    assert stage_layers(128, 16) == (8,) * 16
    assert stage_layers(126, 1) == (126,)


@settings(deadline=None)
@given(st.integers(1, 130), st.integers(1, 130), st.integers(1, 16), st.integers(0, 130))
def test_every_layer_is_on_one_stage(layers: int, p: int, v: int, dense: int) -> None:
    p, dense = min(p, layers), min(dense, layers)
    assert sum(stage_layers(layers, p)) == layers
    stages = stage_kinds(layers, dense, p, v)
    assert sum(stage.count for stage in stages) == p
    assert sum(stage.count * stage.num_dense for stage in stages) == dense
    assert sum(stage.count * stage.num_moe for stage in stages) == layers - dense
    assert stages[0].is_first
    assert stages[-1].is_last


def test_dense_layers_fill_the_leading_stages() -> None:
    # DeepSeek-V3 has 61 layers, the first 3 of them dense; over 32 stages the first has one layer.
    stages = stage_kinds(61, 3, 32, 1)
    found = [(stage.count, stage.num_dense, stage.num_moe) for stage in stages]
    assert found == [(1, 1, 0), (1, 1, 0), (1, 1, 1), (28, 0, 2), (1, 0, 1)]


def test_dense_layers_of_chunks_lie_on_as_many_stages() -> None:
    stages = stage_kinds(61, 3, 8, 8)
    # The first chunks of the first two stages, which are a layer short, are empty.
    found = [(stage.position, stage.count, stage.num_dense) for stage in stages if stage.num_dense]
    assert found == [(2, 3, 1)]


def test_the_first_stage_holds_as_many_microbatches_as_there_are_stages() -> None:
    assert layers_in_flight(8, pipeline=16, virtual_stages=1, num_microbatches=64) == 128
    assert layers_in_flight(8, pipeline=16, virtual_stages=1, num_microbatches=4) == 32


def test_later_stages_hold_fewer_microbatches() -> None:
    held = [
        layers_in_flight(1, pipeline=4, virtual_stages=1, num_microbatches=8, stage=stage)
        for stage in range(4)
    ]
    assert held == [4, 3, 2, 1]


def test_the_last_of_interleaved_stages_still_holds_most_of_a_round() -> None:
    # It runs forward through all but its last chunk for each microbatch of the round.
    held = layers_in_flight(8, pipeline=16, virtual_stages=8, num_microbatches=64, stage=15)
    assert held == pytest.approx(8 * (7 * 16 + 1) / 8)


def test_interleaving_holds_more() -> None:
    held = layers_in_flight(8, pipeline=16, virtual_stages=8, num_microbatches=64)
    assert held == pytest.approx(128 * (1 + 15 / (16 * 8)))


def test_a_pipeline_there_and_back_has_both_ends_on_its_first_stage() -> None:
    # 126 layers in 32 chunks of 4 but for the last and the first, which share a stage.
    stages = stage_kinds(126, 126, 16, 2, "zbv")
    found = [(s.position, s.count, s.num_layers, s.is_first, s.is_last) for s in stages]
    assert found == [(0, 1, 6, True, True), (1, 15, 8, False, False)]


def test_stages_of_dualpipe_have_their_mirror_image_and_half_of_the_microbatches() -> None:
    stages = stage_kinds(61, 3, 16, 1, "dualpipe")
    assert sum(stage.count for stage in stages) == 16
    assert sum(stage.count * stage.num_layers for stage in stages) == 2 * 61
    assert sum(stage.count * stage.num_dense for stage in stages) == 2 * 3
    assert {stage.microbatch_share for stage in stages} == {0.5}
    ends = [stage for stage in stages if stage.is_first]
    assert [(stage.count, stage.is_last) for stage in ends] == [(2, True)]


def test_an_exchange_longer_than_the_computation_shows_in_part() -> None:
    busy = Busy(compute=2.0, recompute=1.0, expert=5.0, contention=0.5).hiding_experts(0.1)
    assert busy.expert == 2.0
    assert busy.contention == pytest.approx(0.5 + 0.3)


def test_chunks_that_are_set_lie_on_the_stages_in_turn() -> None:
    stages = stage_kinds(10, 10, 2, 2, "1f1b", (1, 2, 3, 4))
    assert [stage.num_layers for stage in stages] == [4, 6]
    folded = stage_kinds(10, 10, 2, 2, "zbv", (1, 2, 3, 4))
    assert [stage.num_layers for stage in folded] == [5, 5]
