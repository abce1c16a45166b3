"""The exchange of a sequence's keys and values that is fastest for each plan."""

import math
from dataclasses import replace

import numpy as np

from harness.errors import PlanError
from harness.extrapolate.distinct import distinct
from harness.extrapolate.exchange import context_exchange, heads_fit, kv_heads_of
from harness.extrapolate.memory import PlanCounts
from harness.extrapolate.plans import RECOMPUTES
from harness.extrapolate.priors import CONTENTION
from harness.extrapolate.step import StepModel, forward_passes
from harness.workload.model import ModelSpec
from harness.workload.plan import CONTEXT_EXCHANGES, ParallelSpec
from harness.workload.step import LayerKind, Shard


def with_fastest_context(steps: StepModel, counts: PlanCounts) -> PlanCounts:
    """The same plans, each with the legal exchange that costs its layers least.

    Nothing else of a plan depends on it, and it on nothing but the shard without its experts and on
    how often the forward runs, so it is chosen once for each of these.
    """
    columns = (counts.shards.index, counts.plans.recompute)
    alike = distinct(*columns)
    known: dict[tuple[Shard, int], str] = {}
    chosen = []
    for place, code in zip(*(column[alike.first].tolist() for column in columns), strict=True):
        shard, passes = counts.shards.shards[place], forward_passes(RECOMPUTES[code])
        key = (replace(shard, expert=1), passes)
        if key not in known:
            known[key] = fastest_context(steps, shard, passes)
        chosen.append(CONTEXT_EXCHANGES.index(known[key]))
    codes = np.array(chosen, dtype=np.int64)[alike.group]
    return replace(counts, plans=replace(counts.plans, context_exchange=codes))


def fastest_context(steps: StepModel, shard: Shard, passes: int) -> str:
    """The legal exchange that shows least and slows computation least, the first of equal ones."""
    if shard.context == 1:
        return CONTEXT_EXCHANGES[0]
    model = steps.model
    counts = ((LayerKind.DENSE, model.num_dense_layers), (LayerKind.MOE, model.num_moe_layers))
    attention = [
        (count, steps.layer_work_time(shard, kind).attention_s) for kind, count in counts if count
    ]

    def seconds(form: str) -> float:
        found = 0.0
        for count, attention_s in attention:
            sent = context_exchange(
                model, steps.cluster, shard, form, passes=passes, attention_s=attention_s
            )
            found += count * (sent.exposed + CONTENTION.value * sent.hidden)
        return found

    legal = [
        form
        for form in CONTEXT_EXCHANGES
        if form != "all_to_all" or heads_fit(model, shard.tensor, shard.context)
    ]
    return min(legal, key=seconds)


def check_context_exchange(parallel: ParallelSpec, model: ModelSpec) -> None:
    """Refuse an exchange by heads that the fixed degrees rule out.

    Raises:
        PlanError: with the nearest degree that they allow.
    """
    tensor, context = parallel.tensor, parallel.context
    if parallel.context_exchange != "all_to_all" or tensor is None or context is None:
        return
    if not heads_fit(model, tensor, context):
        heads = kv_heads_of(model, tensor)
        raise PlanError(
            f"parallel.context_exchange: all_to_all cuts the {heads} key-value heads of a chip "
            f"({model.num_kv_heads} over tensor {tensor}) by context, and {context} does not "
            f"divide them. Set parallel.context={math.gcd(heads, context)}, or "
            "parallel.context_exchange=gather."
        )
