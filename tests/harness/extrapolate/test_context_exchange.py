"""Gathered, handed on in a ring or exchanged by heads: what chips of one sequence send."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.codec import from_json, to_json
from harness.config.specs import load_chip, load_cluster, load_model, load_parallel
from harness.errors import PlanError
from harness.extrapolate.collectives import Span, all_to_all_s, placed, point_to_point_s
from harness.extrapolate.exchange import Exchanged, context_exchange, heads_fit
from harness.extrapolate.fastest_context import fastest_context, with_fastest_context
from harness.extrapolate.legal_plans import legal_plans
from harness.extrapolate.lookup import Lookup
from harness.extrapolate.memory import PlanCounts
from harness.extrapolate.plan_step import step_time
from harness.extrapolate.search import check_fixed
from harness.extrapolate.step import StepModel
from harness.projection import PlanChoice
from harness.workload.plan import CONTEXT_EXCHANGES
from harness.workload.step import LayerKind, Shard
from kernels import registry

CLUSTER = load_cluster("h100_100k")
SEARCH = load_parallel("search")
LONG = dataclasses.replace(SEARCH, sequence_length=131_072, global_batch_tokens=2**26)


def steps_of(model: str) -> StepModel:
    lookup = Lookup(load_chip(CLUSTER.chip), registry.cost)
    return StepModel.of(load_model(model), CLUSTER, lookup, LONG)


def exchanged(
    form: str, model: str = "llama3_70b", attention_s: float = 0.0, passes: int = 1, **shard: int
) -> Exchanged:
    part = Shard(**({"tensor": 1, "context": 4, "sequence_length": 8192} | shard))
    return context_exchange(
        load_model(model), CLUSTER, part, form, passes=passes, attention_s=attention_s
    )


def test_heads_are_exchanged_four_times_forward_and_four_times_backward() -> None:
    # DeepSpeed Ulysses (arXiv 2309.14509) section 3.2: 4 N h / P of each chip with as many heads
    # of keys as of queries.
    model = load_model("gpt3_175b")
    num_bytes = 8192 / 4 * model.hidden * 2
    once = all_to_all_s(placed(CLUSTER, (Span(1, 4),)), num_bytes)
    found = exchanged("all_to_all", "gpt3_175b")
    assert found == pytest.approx(Exchanged(8 * once, 0.0))
    again = exchanged("all_to_all", "gpt3_175b", passes=2)
    assert again.exposed == pytest.approx(12 * once)


def test_a_ring_hands_on_the_keys_and_values_of_every_other_chip() -> None:
    # 2 (s/c) b k d_h elements a block; backward their gradients as well.
    model = load_model("llama3_70b")
    block = 2 * (8192 / 4) * model.num_kv_heads * model.head_dim * 2
    forward, backward = (point_to_point_s(CLUSTER, 1, n * block) for n in (1, 2))
    assert exchanged("ring") == pytest.approx(Exchanged(3 * (forward + backward), 0.0))
    assert exchanged("ring", attention_s=1.0) == pytest.approx(
        Exchanged(0.0, 3 * (forward + backward))
    )


@given(st.floats(0, 0.01), st.floats(1, 2), st.sampled_from([2, 4, 8, 16]))
def test_more_attention_hides_more_of_a_ring(
    attention_s: float, factor: float, context: int
) -> None:
    less = exchanged("ring", attention_s=attention_s, context=context)
    more = exchanged("ring", attention_s=factor * attention_s, context=context)
    assert more.exposed <= less.exposed
    assert sum(more) == pytest.approx(sum(less))


def test_a_ring_over_nodes_waits_for_the_network_between_them() -> None:
    inside = exchanged("ring", tensor=1, context=8)
    across = exchanged("ring", tensor=8, context=8)
    # An eighth of the bytes, over a network of a ninth of the rate and more latency.
    assert across.exposed > inside.exposed


@pytest.mark.parametrize("form", CONTEXT_EXCHANGES)
def test_a_sequence_on_one_chip_is_not_exchanged(form: str) -> None:
    assert exchanged(form, context=1) == Exchanged()


@pytest.mark.parametrize("model", ["llama3_70b", "deepseek_v3"])
@pytest.mark.parametrize("context", [2, 16])
def test_the_fastest_exchange_is_as_fast_as_any_that_is_legal(model: str, context: int) -> None:
    steps = steps_of(model)
    shard = dataclasses.replace(steps.one_chip, tensor=4, context=context)
    chosen = fastest_context(steps, shard, passes=1)
    kind = LayerKind.MOE if steps.model.experts else LayerKind.DENSE
    legal = [
        form
        for form in CONTEXT_EXCHANGES
        if form != "all_to_all" or heads_fit(steps.model, 4, context)
    ]
    times = {form: steps.layer(shard, kind, "none", form).busy.total for form in legal}
    assert times[chosen] == min(times.values())


def test_the_search_gives_each_plan_its_fastest_exchange() -> None:
    steps = steps_of("llama3_8b")
    gathered = legal_plans(steps.model, CLUSTER, LONG, 128)
    assert not gathered.context_exchange.any()
    counts = PlanCounts.of(steps.model, gathered, steps.one_chip)
    chosen = with_fastest_context(steps, counts).plans
    assert not chosen.context_exchange[chosen.context == 1].any()
    rows = np.flatnonzero(chosen.context_exchange)[:: max(1, len(chosen) // 20)]
    assert len(rows)
    for row in rows:
        fast, slow = (step_time(steps, plans.plan(int(row))) for plans in (chosen, gathered))
        assert fast.seconds < slow.seconds


def test_heads_are_exchanged_only_where_they_divide() -> None:
    model = load_model("llama3_70b")
    asked = dataclasses.replace(LONG, context_exchange="all_to_all")
    found = legal_plans(model, CLUSTER, asked, 512)
    assert len(found)
    assert (np.maximum(1, 8 // found.tensor) % found.context == 0).all()


def test_heads_that_do_not_divide_are_told_what_does() -> None:
    asked = dataclasses.replace(LONG, context_exchange="all_to_all", tensor=4, context=4)
    words = r"cuts the 2 key-value heads of a chip \(8 over tensor 4\).*context=2, or .*=gather\.$"
    with pytest.raises(PlanError, match=r"^parallel\.context_exchange: all_to_all " + words):
        check_fixed(steps_of("llama3_70b"), asked, 512)


def test_a_label_names_an_exchange_that_is_no_gather() -> None:
    plan = PlanChoice(tensor=8, pipeline=1, data=4, context=2, context_exchange="ring")
    assert plan.label.startswith("TP8 PP1 DP4 CP2 ring ZeRO-1")


def test_a_plan_from_before_there_were_other_exchanges_gathers() -> None:
    fields = json.loads(to_json(PlanChoice(tensor=1, pipeline=1, data=1, context_exchange="ring")))
    assert fields.pop("context_exchange") == "ring"
    assert from_json(PlanChoice, json.dumps(fields)).context_exchange == "gather"
