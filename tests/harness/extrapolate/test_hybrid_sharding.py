"""Groups that share states by ZeRO inside the data group."""

import dataclasses
import json

import pytest

from harness.codec import from_json, to_json
from harness.config.specs import load_chip, load_cluster, load_model, load_parallel
from harness.errors import PlanError
from harness.extrapolate.collectives import Span, all_gather_s, all_reduce_s, placed
from harness.extrapolate.legal_plans import legal_plans
from harness.extrapolate.lookup import Lookup
from harness.extrapolate.memory import PlanCounts, fullest_parameters, memory_use
from harness.extrapolate.plan_exchange import state_exchange
from harness.extrapolate.plan_step import step_time
from harness.extrapolate.plans import PlanTable
from harness.extrapolate.rates import PRIOR_RATES
from harness.extrapolate.search import check_fixed
from harness.extrapolate.step import StepModel
from harness.projection import PlanChoice
from kernels import registry

CLUSTER = load_cluster("h100_100k")
SEARCH = load_parallel("search")


def steps_of(model: str) -> StepModel:
    lookup = Lookup(load_chip(CLUSTER.chip), registry.cost)
    return StepModel.of(load_model(model), CLUSTER, lookup, SEARCH)


def sharded(group: int, data: int = 512, **degrees: int) -> PlanChoice:
    return PlanChoice(
        **({"tensor": 1, "pipeline": 1, "zero_stage": 3} | degrees), data=data, shard_group=group
    )


@pytest.mark.parametrize("zero", [1, 2, 3])
@pytest.mark.parametrize(("model", "expert"), [("llama3_8b", 1), ("qwen3_30b_a3b", 16)])
def test_a_group_of_all_chips_is_no_group(model: str, expert: int, zero: int) -> None:
    steps = steps_of(model)
    named = sharded(1024, context=2, expert=expert, zero_stage=zero)
    unnamed = dataclasses.replace(named, shard_group=0)
    both = [
        {part.name: part.seconds for part in step_time(steps, plan).parts}
        for plan in (named, unnamed)
    ]
    assert both[0] == pytest.approx(both[1])
    assert memory_use(steps.model, named, 8192, "bf16") == memory_use(
        steps.model, unnamed, 8192, "bf16"
    )


@pytest.mark.parametrize(("model", "expert"), [("llama3_8b", 1), ("qwen3_30b_a3b", 16)])
def test_memory_is_that_of_as_many_chips_as_the_group_has(model: str, expert: int) -> None:
    spec = load_model(model)
    in_groups = memory_use(spec, sharded(32, expert=expert), 8192, "bf16")
    alone = memory_use(spec, sharded(0, data=32, expert=expert), 8192, "bf16")
    assert in_groups == alone


def test_gathers_stay_inside_and_shares_are_summed_between() -> None:
    steps = steps_of("llama3_8b")
    counts = PlanCounts.of(steps.model, PlanTable.of(sharded(8)), steps.one_chip)
    sent = state_exchange(CLUSTER, counts, fullest_parameters(counts), PRIOR_RATES)
    parameters = steps.model.num_parameters
    inside, between = placed(CLUSTER, (Span(1, 8),)), placed(CLUSTER, (Span(8, 64),))
    assert sent.gather_s.item() == pytest.approx(all_gather_s(inside, 2.0 * parameters))
    assert sent.between_s.item() == pytest.approx(all_reduce_s(between, 2.0 * parameters / 8))


def test_experts_of_a_group_of_chips_are_shared_only_with_their_copies() -> None:
    steps = steps_of("qwen3_30b_a3b")
    plan = sharded(8, expert=16)
    counts = PlanCounts.of(steps.model, PlanTable.of(plan), steps.one_chip)
    held = fullest_parameters(counts)
    assert held.shared_out(counts.plans).item() == pytest.approx(
        held.shared.item() / 8 + held.experts.item()
    )


def test_a_group_in_a_domain_is_faster_where_gathers_do_not_hide() -> None:
    steps = dataclasses.replace(steps_of("llama3_8b"), sequence_length=1024)
    # Gathered inside for each microbatch, where the sum over the groups is once per step.
    in_groups = sharded(8, num_microbatches=8)
    whole = sharded(0, num_microbatches=8)
    assert step_time(steps, in_groups).seconds < step_time(steps, whole).seconds


def test_a_plan_from_before_there_were_groups_has_none() -> None:
    fields = json.loads(to_json(sharded(8)))
    assert fields.pop("shard_group") == 8
    assert from_json(PlanChoice, json.dumps(fields)).shard_group == 0


def test_the_search_looks_at_groups_of_a_domain_under_zero_3_alone() -> None:
    model = load_model("llama3_8b")
    found = legal_plans(model, CLUSTER, SEARCH, 512)
    grouped = found.rows(found.shard_group > 0)
    assert len(grouped)
    assert set((grouped.shard_group * grouped.tensor).tolist()) == {8}
    assert set(grouped.zero_stage.tolist()) == {3}
    whole = legal_plans(model, CLUSTER, dataclasses.replace(SEARCH, shard_group=0), 512)
    assert not whole.shard_group.any()
    assert len(whole) == len(found) - len(grouped)


def test_a_group_that_is_set_is_in_every_plan() -> None:
    asked = dataclasses.replace(SEARCH, shard_group=16)
    found = legal_plans(load_model("llama3_8b"), CLUSTER, asked, 512)
    assert len(found)
    assert set(found.shard_group.tolist()) == {16}
    assert not (found.data * found.context % 16).any()
    assert (found.zero_stage >= 1).all()


@pytest.mark.parametrize(
    ("fixed", "words"),
    [
        ({"zero_stage": 0, "shard_group": 8}, r"under parallel\.zero_stage=0\. Set parallel\.zero"),
        ({"context": 2, "shard_group": 7}, r"7 is no multiple of the 2 chips .*shard_group=8\.$"),
        (
            {"context": 1, "data": 64, "shard_group": 12},
            r"12 does not divide the 64 chips of data 64 x context 1 .*shard_group=(8|16)\.$",
        ),
    ],
)
def test_a_group_that_does_not_fit_is_told_one_that_does(fixed: dict[str, int], words: str) -> None:
    parallel = dataclasses.replace(SEARCH, **fixed)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=r"^parallel\.shard_group: .*" + words):
        check_fixed(steps_of("llama3_8b"), parallel, 512)
