"""The busiest expert makes all chips wait: its products, its exchange and its memory."""

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.specs import load_chip, load_cluster, load_model, load_parallel
from harness.errors import PlanError
from harness.extrapolate.exchange import expert_exchange_s
from harness.extrapolate.lookup import Lookup
from harness.extrapolate.memory import memory_use
from harness.extrapolate.plan_step import step_time
from harness.extrapolate.search import check_fixed
from harness.extrapolate.step import StepModel
from harness.projection import PlanChoice
from harness.workload.step import LayerKind, Shard, chip_load, layer_work
from kernels import registry

CLUSTER = load_cluster("h100_100k")
SEARCH = load_parallel("search")
MODEL = load_model("qwen3_30b_a3b")


def steps_of(model: str, **parallel: float) -> StepModel:
    lookup = Lookup(load_chip(CLUSTER.chip), registry.cost)
    asked = dataclasses.replace(SEARCH, **parallel)  # type: ignore[arg-type]
    return StepModel.of(load_model(model), CLUSTER, lookup, asked)


@given(st.floats(1, 16), st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128]))
def test_a_chip_with_one_expert_has_its_load_and_one_with_all_the_mean(
    load: float, expert: int
) -> None:
    found = chip_load(MODEL, Shard(expert=expert, expert_load=load))
    assert 1 <= found <= load
    if expert == 1:
        assert found == 1
    if expert == 128:
        assert found == pytest.approx(load)


def test_experts_of_a_chip_spread_as_much_less_as_when_they_are_drawn() -> None:
    draw = random.Random(1)
    loads = [draw.expovariate(1) for _ in range(128)]
    mean = sum(loads) / 128
    single = (sum((one - mean) ** 2 for one in loads) / 128) ** 0.5
    drawn = [sum(draw.sample(loads, 8)) / 8 for _ in range(20_000)]
    spread = (sum((one - mean) ** 2 for one in drawn) / len(drawn)) ** 0.5
    found = chip_load(MODEL, Shard(expert=16, expert_load=2.0)) - 1
    assert found == pytest.approx(spread / single, rel=0.02)


def test_only_the_experts_of_a_layer_have_more_rows() -> None:
    even = Shard(expert=128)
    uneven = dataclasses.replace(even, expert_load=1.5)
    pairs = zip(
        layer_work(MODEL, even, LayerKind.MOE),
        layer_work(MODEL, uneven, LayerKind.MOE),
        strict=True,
    )
    changed = [(a.problem, b.problem) for a, b in pairs if a != b]
    assert {a.op for a, _ in changed} == {"grouped_gemm", "swiglu"}
    for a, b in changed:
        rows = "R" if a.op == "grouped_gemm" else "T"
        assert b[rows] == 1.5 * a[rows]


def test_the_exchange_takes_as_much_longer_where_bandwidth_rules() -> None:
    large = Shard(expert=128, sequence_length=2**20)
    uneven = dataclasses.replace(large, expert_load=1.5)
    even_s, uneven_s = (
        expert_exchange_s(MODEL, CLUSTER, shard, passes=1) for shard in (large, uneven)
    )
    assert uneven_s / even_s == pytest.approx(1.5, rel=0.01)


@settings(max_examples=25, deadline=None)
@given(st.floats(1, 4), st.floats(1, 2))
def test_a_higher_load_takes_longer_and_more_memory(load: float, factor: float) -> None:
    plan = PlanChoice(tensor=1, pipeline=4, data=64, expert=32, num_microbatches=8)
    less, more = (
        step_time(steps_of(MODEL.name, expert_load=one), plan) for one in (load, factor * load)
    )
    assert less.seconds <= more.seconds * (1 + 1e-9)
    assert (
        memory_use(MODEL, plan, 8192, "bf16", load).total_bytes
        <= memory_use(MODEL, plan, 8192, "bf16", factor * load).total_bytes
    )


def test_an_even_load_is_none() -> None:
    plan = PlanChoice(tensor=1, pipeline=4, data=64, expert=32, num_microbatches=8)
    even, none = steps_of(MODEL.name, expert_load=1.0), steps_of(MODEL.name)
    assert step_time(even, plan).parts == step_time(none, plan).parts


@pytest.mark.parametrize(
    ("model", "load", "words"),
    [
        ("llama3_8b", 1.2, r"1\.2, but llama3_8b has no experts\. Set .*=null\.$"),
        ("qwen3_30b_a3b", 20.0, r"20 is more than 16, .*\(8 of 128\)\. Set .*=16 or less\.$"),
    ],
)
def test_a_load_that_no_routing_gives_is_told_one_that_does(
    model: str, load: float, words: str
) -> None:
    asked = dataclasses.replace(SEARCH, expert_load=load)
    with pytest.raises(PlanError, match=r"^parallel\.expert_load: " + words):
        check_fixed(steps_of(model), asked, 512)
