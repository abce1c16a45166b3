import dataclasses
import re
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.specs import load_chip, load_cluster, load_model, load_parallel
from harness.errors import PlanError
from harness.extrapolate.legal_plans import BATCH_TOLERANCE, batches, legal_plans
from harness.extrapolate.lookup import Lookup
from harness.extrapolate.memory import memory_use
from harness.extrapolate.pipeline import most_layers
from harness.extrapolate.plan_step import step_time
from harness.extrapolate.plans import PlanTable, columns
from harness.extrapolate.search import MAX_ALTERNATIVES, best_plan, check_fixed
from harness.extrapolate.step import StepModel
from harness.projection import PlanChoice
from harness.units import GIBI
from kernels import registry

SEARCH = load_parallel("search")
LIMIT = 80.0 * GIBI
DEGREES = ("tensor", "pipeline", "context", "expert", "zero_stage", "recompute")


@cache
def steps_of(model: str, cluster: str = "h100_100k") -> StepModel:
    spec = load_cluster(cluster)
    lookup = Lookup(load_chip(spec.chip), registry.cost)
    return StepModel.of(load_model(model), spec, lookup, SEARCH)


def table(model: str, num_chips: int, cluster: str = "h100_100k", **fixed: int | str) -> PlanTable:
    parallel = dataclasses.replace(SEARCH, **fixed)  # type: ignore[arg-type]
    return legal_plans(load_model(model), load_cluster(cluster), parallel, num_chips)


@pytest.mark.parametrize(
    ("model", "num_chips"), [("llama3_405b", 100_000), ("deepseek_v3", 264), ("gpt3_175b", 999)]
)
def test_every_plan_is_legal_and_there_once(model: str, num_chips: int) -> None:
    spec, plans = load_model(model), table(model, num_chips)
    assert (plans.num_chips <= num_chips).all()
    assert (spec.num_heads % plans.tensor == 0).all()
    # Groups that share experts are made of a stage's chips, none left over.
    assert (plans.tensor * plans.context * plans.data % plans.expert == 0).all()
    layers = [most_layers(spec.num_layers, int(p)) for p in plans.pipeline]
    assert (np.array(layers) % plans.virtual_stages == 0).all()
    rows = np.stack([getattr(plans, name) for name in columns()], axis=1)
    assert len(np.unique(rows, axis=0)) == len(plans)


def test_all_plans_of_the_largest_cluster_are_a_hundred_thousand_and_more() -> None:
    assert 10**5 < len(table("llama3_405b", 100_000)) < 10**6


def test_tensor_groups_do_not_lie_in_parts_of_two_nodes() -> None:
    # 96 heads would divide by 6, but nodes of 8 chips do not; domains of 72 do.
    assert set(table("gpt3_175b", 1024).tensor) == {1, 2, 4, 8}
    assert 6 in table("gpt3_175b", 1024, cluster="gb200_100k").tensor
    # Chips of one domain have no second one to lie in.
    assert 6 in table("gpt3_175b", 6).tensor


def test_fixed_degrees_are_kept_beyond_what_is_searched() -> None:
    plans = table("llama3_405b", 4096, tensor=16, pipeline=9, context=4, zero_stage=3)
    assert len(plans)
    for name, degree in (("tensor", 16), ("pipeline", 9), ("context", 4), ("zero_stage", 3)):
        assert set(getattr(plans, name)) == {degree}


@given(
    st.integers(1, 20_000), st.sampled_from([1, 2, 4]), st.integers(1, 20_000), st.integers(1, 8)
)
def test_batches_are_near_what_is_asked_for(
    sequences: int, size: int, most_data: int, multiple: int
) -> None:
    found = batches(sequences, size, most_data, multiple)
    assert len({data for data, _ in found}) == len(found)
    for data, m in found:
        assert 1 <= data <= most_data
        assert data % multiple == 0
        assert data * size * m <= sequences * (1 + BATCH_TOLERANCE)
    if len(found) > 1:
        fills = [data * size * m / sequences for data, m in found]
        assert min(fills) >= 1 - BATCH_TOLERANCE


def every(plans: PlanTable) -> list[PlanChoice]:
    return [plans.plan(row) for row in range(len(plans))]


@pytest.mark.parametrize(
    ("model", "fixed"),
    [
        ("llama3_70b", {"tensor": 8, "microbatch_size": 1, "recompute": "none"}),
        ("deepseek_v3", {"tensor": 4, "pipeline": 8, "microbatch_size": 1, "zero_stage": 1}),
    ],
)
def test_the_best_plan_is_the_best_of_all_that_fit(model: str, fixed: dict[str, int]) -> None:
    parallel, steps = dataclasses.replace(SEARCH, **fixed), steps_of(model)
    found = best_plan(steps, parallel, 512, LIMIT)
    assert found is not None
    plans = every(legal_plans(steps.model, steps.cluster, parallel, 512))
    fitting = [
        plan
        for plan in plans
        if memory_use(steps.model, plan, steps.sequence_length, steps.dtype).total_bytes <= LIMIT
    ]
    assert found.summary.num_enumerated == len(plans)
    assert found.summary.num_fitting == len(fitting)
    rates = [_rate(steps, plan) for plan in fitting[:: max(1, len(fitting) // 300)]]
    assert _rate(steps, found.plan) <= min(rates) * (1 + 1e-12)


def _rate(steps: StepModel, plan: PlanChoice) -> float:
    sequences = plan.data * plan.microbatch_size * plan.num_microbatches
    return step_time(steps, plan).seconds / sequences


def test_alternatives_are_of_other_kinds_with_their_margin() -> None:
    steps = steps_of("llama3_70b")
    found = best_plan(steps, SEARCH, 1024, LIMIT)
    assert found is not None
    summary = found.summary
    plans = [found.plan, *(one.plan for one in summary.alternatives)]
    kinds = {tuple(getattr(plan, name) for name in DEGREES) for plan in plans}
    assert len(kinds) == len(plans) == 1 + MAX_ALTERNATIVES
    margins = [one.slower for one in summary.alternatives]
    assert margins == sorted(margins)
    for one in summary.alternatives:
        assert one.step_time_s == pytest.approx(step_time(steps, one.plan).seconds)
        ratio = _rate(steps, found.plan) / _rate(steps, one.plan)
        assert one.slower == pytest.approx(1 - ratio, abs=1e-12)
        assert one.is_tie == (1 / ratio < 1.01)
    ties = sum(one.is_tie for one in summary.alternatives)
    assert min(summary.num_tied_kinds, MAX_ALTERNATIVES) == ties


def test_the_summary_says_what_binds() -> None:
    steps = steps_of("llama3_405b")
    found = best_plan(steps, SEARCH, 100_000, LIMIT)
    assert found is not None
    summary = found.summary
    parts = {part.name: part.seconds for part in found.step.parts if part.name != "compute"}
    assert parts[summary.largest_part] == max(parts.values())
    assert summary.largest_part_share == pytest.approx(max(parts.values()) / found.step.seconds)
    assert 0.3 < summary.share_dropped_by_memory < 0.9
    # With 13 microbatches in 10 stages, a larger batch fills the pipeline better.
    assert 0.01 < summary.double_batch_gain < 0.2


def test_nothing_fits_a_chip_without_memory() -> None:
    assert best_plan(steps_of("llama3_8b"), SEARCH, 8, 1.0) is None


@pytest.mark.parametrize(
    ("model", "fixed", "message"),
    [
        (
            "gpt3_175b",
            {"tensor": 6},
            "parallel.tensor: 6 neither divides the 8 chips of a scale-up domain nor is a "
            "multiple of them. Set parallel.tensor=4.",
        ),
        (
            "deepseek_v3",
            {"tensor": 2, "context": 1, "data": 33, "expert": 8},
            "parallel.expert: 8 chips that share experts do not divide the 66 of a stage (tensor "
            "2 x context 1 x data 33) in whole groups. Set parallel.expert=2.",
        ),
    ],
)
def test_fixed_degrees_that_part_groups_are_refused(
    model: str, fixed: dict[str, int], message: str
) -> None:
    parallel = dataclasses.replace(SEARCH, **fixed)
    with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
        check_fixed(steps_of(model), parallel, 1024)


@settings(max_examples=10, deadline=None)
@given(st.integers(8, 300))
def test_more_memory_never_gives_a_slower_plan(num_chips: int) -> None:
    steps = steps_of("llama3_8b")
    small, large = (best_plan(steps, SEARCH, num_chips, limit * GIBI) for limit in (60, 120))
    assert small is not None
    assert large is not None
    assert _rate(steps, large.plan) <= _rate(steps, small.plan) * (1 + 1e-12)
