"""Arrays over plans say what one plan at a time says."""

import dataclasses
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.specs import load_chip, load_cluster, load_model, load_parallel
from harness.extrapolate.hybrid_sharding import shards_fit
from harness.extrapolate.lookup import Lookup
from harness.extrapolate.memory import PlanCounts, memory_by_stage, total_bytes
from harness.extrapolate.optimizer_time import optimizer_curve
from harness.extrapolate.plan_step import (
    NEGLIGIBLE,
    TimedPlans,
    fullest_stage,
    optimizer_item,
    step_time,
    step_times,
)
from harness.extrapolate.plans import RECOMPUTES, PlanTable
from harness.extrapolate.rates import Rate
from harness.extrapolate.schedule import NAMES, schedule_of
from harness.extrapolate.step import StepModel
from harness.projection import PlanChoice
from harness.workload.plan import CONTEXT_EXCHANGES
from harness.workload.step import optimizer_work
from kernels import registry
from tests.harness.extrapolate import scalar_plan
from tests.harness.extrapolate.measured import records

MODELS = ("llama3_405b", "deepseek_v3", "gpt3_175b", "qwen3_30b_a3b")
"""Dense; latent attention with dense layers before experts; a tied table; experts alone."""
EXACT = 1e-9


@cache
def steps_of(model: str, cluster: str = "h100_100k") -> StepModel:
    spec = load_cluster(cluster)
    lookup = Lookup(load_chip(spec.chip), registry.cost)
    return StepModel.of(load_model(model), spec, lookup, load_parallel("search"))


@st.composite
def plans(draw: st.DrawFn, model: str) -> PlanChoice:
    spec = load_model(model)
    expert = draw(st.sampled_from([1, 2, 8, 16])) if spec.experts else 1
    schedule = draw(st.sampled_from(["1f1b", *NAMES]))
    is_plain = schedule in ("1f1b", "interleaved")
    chunks = draw(st.sampled_from([1, 2, 3, 8])) if is_plain else schedule_of(schedule).least_chunks
    pipeline = draw(st.integers(1, 20))
    if not is_plain:
        pipeline = 2 * pipeline
    plan = PlanChoice(
        tensor=draw(st.sampled_from([1, 2, 4])),
        pipeline=pipeline,
        data=draw(st.integers(1, 900)),
        expert=expert,
        context=draw(st.sampled_from([1, 2])),
        context_exchange=draw(st.sampled_from(CONTEXT_EXCHANGES)),
        virtual_stages=chunks,
        microbatch_size=draw(st.sampled_from([1, 2])),
        num_microbatches=draw(st.integers(1, 70)),
        zero_stage=draw(st.integers(0, 3)),
        recompute=draw(st.sampled_from(RECOMPUTES)),
        schedule="1f1b" if is_plain else schedule,
    )
    divisors = [replicas for replicas in range(1, plan.data + 1) if plan.data % replicas == 0]
    groups = PlanTable.of(*(replace(plan, shard_group=n * plan.context) for n in divisors))
    grouped = groups.rows(shards_fit(groups))
    return draw(st.sampled_from([plan, *(grouped.plan(row) for row in range(len(grouped)))]))


@settings(max_examples=60, deadline=None)
@given(st.data())
@pytest.mark.parametrize("model", MODELS)
def test_a_step_is_that_of_the_formulas_written_out(model: str, data: st.DataObject) -> None:
    plan = data.draw(plans(model))
    steps = steps_of(model)
    found = {part.name: part.seconds for part in step_time(steps, plan).parts}
    parts = scalar_plan.step(steps, plan)
    least_s = NEGLIGIBLE * sum(parts.values())
    expected = {name: seconds for name, seconds in parts.items() if seconds > least_s}
    assert found == pytest.approx(expected, rel=EXACT, abs=1e-15)


@settings(max_examples=60, deadline=None)
@given(st.data())
@pytest.mark.parametrize("model", MODELS)
def test_memory_is_that_of_the_formulas_written_out(model: str, data: st.DataObject) -> None:
    plan = data.draw(plans(model))
    steps = steps_of(model)
    found = memory_by_stage(steps.model, plan, steps.sequence_length, steps.dtype)
    expected = list(scalar_plan.memory(steps.model, plan, steps.shard(plan)))
    assert len(found) == len(expected)
    for (_, use), parts in zip(found, expected, strict=True):
        assert dict(use.parts) == pytest.approx(parts, rel=EXACT)


@settings(max_examples=15, deadline=None)
@given(st.data())
@pytest.mark.parametrize("model", MODELS)
def test_a_plan_among_others_is_as_it_is_alone(model: str, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(plans(model), min_size=1, max_size=12))
    steps = steps_of(model)
    counts = PlanCounts.of(steps.model, PlanTable.of(*chosen), steps.one_chip)
    alone = [sum(scalar_plan.step(steps, plan).values()) for plan in chosen]
    assert step_times(TimedPlans.of(steps, counts)).seconds == pytest.approx(alone, rel=EXACT)
    most = [
        max(
            sum(parts.values())
            for parts in scalar_plan.memory(steps.model, plan, steps.shard(plan))
        )
        for plan in chosen
    ]
    assert total_bytes(counts) == pytest.approx(most, rel=EXACT)


def replace_rates(timed: TimedPlans, contention: Rate, growth: Rate) -> TimedPlans:
    rates = dataclasses.replace(timed.rates, contention=contention, growth_per_doubling=growth)
    return dataclasses.replace(timed, rates=rates)


def test_the_optimizer_updates_a_chips_share_of_the_fullest_stage() -> None:
    steps = steps_of("deepseek_v3")
    plan = PlanChoice(tensor=2, pipeline=8, data=64, expert=8, zero_stage=1)
    held = fullest_stage(steps, plan)
    assert held == pytest.approx(scalar_plan.fullest(steps, plan))
    (expected,) = optimizer_work(int(scalar_plan.shared_out(plan, *held)), steps.dtype)
    assert optimizer_item(steps, plan) == expected


def test_draws_of_the_rates_are_rows_of_the_result() -> None:
    steps = steps_of("llama3_405b")
    chosen = [
        PlanChoice(tensor=8, pipeline=16, data=128, num_microbatches=m, virtual_stages=4)
        for m in (8, 16, 64)
    ]
    counts = PlanCounts.of(steps.model, PlanTable.of(*chosen), steps.one_chip)
    timed = TimedPlans.of(steps, counts)
    contention, growth = np.array([0.1, 0.2]), np.array([0.004, 0.006])
    drawn = step_times(replace_rates(timed, contention[:, None], growth[:, None]))
    assert drawn.seconds.shape == (2, 3)
    for row in range(2):
        one = replace_rates(timed, float(contention[row]), float(growth[row]))
        assert drawn.seconds[row] == pytest.approx(step_times(one).seconds, rel=EXACT)


def test_draws_of_the_layers_times_are_rows_of_the_result() -> None:
    steps = steps_of("deepseek_v3")
    chosen = [PlanChoice(tensor=t, pipeline=8, data=64, expert=8) for t in (1, 2, 4)]
    counts = PlanCounts.of(steps.model, PlanTable.of(*chosen), steps.one_chip)
    timed = TimedPlans.of(steps, counts)
    factors = np.array([[1.0], [1.3]])

    def times(factor: float | np.ndarray) -> np.ndarray:
        scaled = {
            field.name: tuple(factor * one for one in value)
            if isinstance(value := getattr(timed.layers, field.name), tuple)
            else factor * value
            for field in dataclasses.fields(timed.layers)
            if field.name != "index"
        }
        layers = dataclasses.replace(timed.layers, **scaled)
        return step_times(dataclasses.replace(timed, layers=layers)).seconds

    drawn = times(factors)
    assert drawn.shape == (2, 3)
    assert drawn == pytest.approx(np.stack([times(1.0), times(1.3)]), rel=EXACT)


def test_a_table_gives_back_its_plans() -> None:
    plan = PlanChoice(tensor=8, pipeline=4, data=3, context=2, zero_stage=2, recompute="full")
    other = dataclasses.replace(plan, data=5, recompute="none")
    table = PlanTable.of(plan, other)
    assert [table.plan(row) for row in range(len(table))] == [plan, other]
    assert table.num_chips.tolist() == [plan.num_chips, other.num_chips]
    assert table.rows(np.array([1])).plan(0) == other


@pytest.mark.parametrize("measured_sizes", [(), (2**20, 2**24, 2**28, 2**31)])
def test_the_optimizers_curve_is_within_a_thousandth_of_each_lookup(
    measured_sizes: tuple[int, ...],
) -> None:
    def seconds(size: int) -> float:
        # Faster where it fits a cache, so that a straight line is not enough.
        return 5e-6 + 14 * size / (3e12 if size > 2**22 else 9e12)

    sizes = {optimizer_work(size, "bf16")[0].problem: seconds(size) for size in measured_sizes}
    lookup = Lookup(
        load_chip("h100_sxm"), registry.cost, records(sizes, lambda problem: sizes[problem])
    )
    curve = optimizer_curve(lookup, "bf16", 1e5, 4e9)
    asked = np.unique(np.geomspace(1e5, 4e9, 300).round())
    found = curve.at(asked, curve.seconds)
    exact = [lookup.time(optimizer_work(int(n), "bf16")[0].problem).seconds for n in asked]
    assert found == pytest.approx(exact, rel=1e-3)
    if not measured_sizes:
        assert len(curve.num_parameters) == 2
