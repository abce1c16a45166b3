import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.specs import load_chip, load_cluster, load_model, load_parallel
from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.lookup import Lookup
from harness.extrapolate.plan_step import step_time, work_of
from harness.extrapolate.step import StepModel
from harness.projection import PlanChoice
from kernels import registry

LOOKUP = Lookup(load_chip("h100_sxm"), registry.cost)
CLUSTER = load_cluster("h100_100k")
PARALLEL = load_parallel("search")


def perfect_network() -> ClusterSpec:
    tier = dataclasses.replace(
        CLUSTER.tiers[0], chips=10**6, bandwidth_bytes_per_s_per_chip=1e30, latency_s=0.0
    )
    return dataclasses.replace(CLUSTER, tiers=(tier,), num_chips=10**6)


def steps_of(model: str, cluster: ClusterSpec = CLUSTER) -> StepModel:
    return StepModel.of(load_model(model), cluster, LOOKUP, PARALLEL)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.sampled_from([1, 16, 512]),
    st.sampled_from([1, 2]),
    st.integers(1, 40),
    st.integers(0, 3),
    st.sampled_from(["none", "selective", "full"]),
)
def test_the_parts_add_up_to_the_step(
    tensor: int, pipeline: int, data: int, context: int, m: int, zero: int, recompute: str
) -> None:
    plan = PlanChoice(
        tensor=tensor,
        pipeline=pipeline,
        data=data,
        context=context,
        num_microbatches=m,
        zero_stage=zero,
        recompute=recompute,
    )
    steps = steps_of("llama3_70b")
    step = step_time(steps, plan)
    assert all(part.seconds > 0 for part in step.parts)
    assert step.seconds == pytest.approx(sum(part.seconds for part in step.parts))
    assert m * step.microbatch_s + step.once_s <= step.seconds * (1 + 1e-9)


def test_one_chip_exchanges_nothing() -> None:
    step = step_time(steps_of("llama3_8b"), PlanChoice(tensor=1, pipeline=1, data=1))
    names = [part.name for part in step.parts]
    assert names == ["compute", "optimizer", "host, once per step"]


@pytest.mark.parametrize("tensor", [1, 8])
def test_a_perfect_network_scales_weakly_without_loss(tensor: int) -> None:
    steps = steps_of("llama3_8b", perfect_network())
    one, many = (
        step_time(steps, PlanChoice(tensor=tensor, pipeline=1, data=data, zero_stage=0)).seconds
        for data in (1, 4096)
    )
    assert many == pytest.approx(one, rel=1e-3)


def test_jitter_grows_in_seconds_with_each_doubling_of_the_chips() -> None:
    steps = steps_of("llama3_8b")
    steps_taken = [step_time(steps, PlanChoice(tensor=8, pipeline=1, data=d)) for d in (2, 4, 8)]
    parts = [{part.name: part.seconds for part in step.parts} for step in steps_taken]
    jitter = [part["jitter across chips"] for part in parts]
    assert jitter[2] - jitter[1] == pytest.approx(jitter[1] - jitter[0])


def test_full_recomputation_repeats_the_forward_pass() -> None:
    steps = steps_of("llama3_70b")
    plan = PlanChoice(tensor=8, pipeline=1, data=8, recompute="full")
    parts = {part.name: part.seconds for part in step_time(steps, plan).parts}
    assert 0.2 < parts["recomputation"] / parts["compute"] < 0.4


def test_sharded_weights_are_gathered_for_every_microbatch() -> None:
    steps = steps_of("llama3_70b")
    shown = [
        sum(
            part.seconds
            for part in step_time(
                steps,
                PlanChoice(tensor=1, pipeline=1, data=512, num_microbatches=8, zero_stage=zero),
            ).parts
            if part.name == "exposed data-parallel communication"
        )
        for zero in (1, 3)
    ]
    assert shown[1] > 2 * shown[0]


def test_attention_that_keeps_its_scores_is_slower() -> None:
    fused, kept = steps_of("gpt3_175b"), steps_of("gpt3_175b")
    kept.is_attention_fused = False
    plan = PlanChoice(tensor=8, pipeline=8, data=1, num_microbatches=64)
    assert step_time(kept, plan).seconds > 1.05 * step_time(fused, plan).seconds


def test_experts_on_other_chips_cost_an_exchange() -> None:
    steps = steps_of("deepseek_v3")
    plan = PlanChoice(tensor=1, pipeline=16, data=64, expert=64, num_microbatches=64)
    parts = {part.name: part.seconds for part in step_time(steps, plan).parts}
    assert parts["exposed expert-parallel communication"] > 0


def test_the_work_of_a_plan_adds_up_to_its_compute() -> None:
    steps = steps_of("llama3_8b")
    plan = PlanChoice(tensor=1, pipeline=1, data=8, num_microbatches=1)
    parts = {part.name: part.seconds for part in step_time(steps, plan).parts}
    listed = sum(seconds for _, seconds, _ in work_of(steps, plan))
    assert listed == pytest.approx(parts["compute"] + parts["optimizer"])


def test_a_zero_bubble_schedule_idles_for_a_third_of_1f1b() -> None:
    steps = steps_of("gpt3_175b")
    plan = PlanChoice(tensor=8, pipeline=16, data=1, num_microbatches=64)
    parts = {
        name: {part.name: part.seconds for part in step_time(steps, replaced).parts}
        for name in ("1f1b", "zb_h1")
        for replaced in [dataclasses.replace(plan, schedule=name)]
    }
    ratio = parts["zb_h1"]["pipeline bubble"] / parts["1f1b"]["pipeline bubble"]
    assert ratio == pytest.approx(1 / 3)
    assert parts["zb_h1"]["compute"] == parts["1f1b"]["compute"]


def test_recomputation_leaves_less_of_the_backward_to_put_off() -> None:
    steps = steps_of("gpt3_175b")
    plan = PlanChoice(tensor=8, pipeline=16, data=1, num_microbatches=64, schedule="zb_h2")
    bubbles = []
    for recompute in ("none", "full"):
        step = step_time(steps, dataclasses.replace(plan, recompute=recompute))
        parts = {part.name: part.seconds for part in step.parts}
        bubbles.append(parts.get("pipeline bubble", 0.0) / step.microbatch_s)
    assert bubbles[1] > bubbles[0] + 1


def test_dualpipe_hides_the_exchange_of_experts() -> None:
    steps = steps_of("deepseek_v3")
    plan = PlanChoice(tensor=1, pipeline=16, data=128, expert=64, num_microbatches=120)
    shown = {}
    for name in ("1f1b", "dualpipe"):
        step = step_time(steps, dataclasses.replace(plan, schedule=name))
        parts = {part.name: part.seconds for part in step.parts}
        shown[name] = parts.get("exposed expert-parallel communication", 0.0)
        assert parts["compute"] > 0
    assert shown["dualpipe"] < shown["1f1b"]
