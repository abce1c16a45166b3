"""The exchange of a sequence's keys and values that is fastest for each plan."""

import math
from dataclasses import replace

import numpy as np

from harness.errors import PlanError
from harness.extrapolate.distinct import distinct
from harness.extrapolate.exchange import heads_fit, kv_heads_of
from harness.extrapolate.plans import RECOMPUTES, PlanTable
from harness.extrapolate.step import StepModel
from harness.workload.model import ModelSpec
from harness.workload.plan import CONTEXT_EXCHANGES, ParallelSpec
from harness.workload.step import LayerKind, Shard


def with_fastest_context(steps: StepModel, plans: PlanTable) -> PlanTable:
    """The same plans, each with the legal exchange whose layers take least time.

    Nothing else of a plan depends on it, so it is chosen once for each shard and recomputation.
    """
    columns = (
        *(plans.tensor, plans.expert, plans.context, plans.microbatch_size),
        plans.recompute,
    )
    alike = distinct(*columns)
    chosen = [
        CONTEXT_EXCHANGES.index(
            fastest_context(
                steps,
                replace(steps.one_chip, tensor=t, expert=e, context=c, microbatch_size=b),
                RECOMPUTES[code],
            )
        )
        for t, e, c, b, code in zip(
            *(column[alike.first].tolist() for column in columns), strict=True
        )
    ]
    return replace(plans, context_exchange=np.array(chosen, dtype=np.int64)[alike.group])


def fastest_context(steps: StepModel, shard: Shard, recompute: str) -> str:
    """The legal exchange with the shortest layers; the first of those that are as fast."""
    if shard.context == 1:
        return CONTEXT_EXCHANGES[0]
    model = steps.model
    counts = (
        (LayerKind.DENSE, model.num_dense_layers),
        (LayerKind.MOE, model.num_moe_layers),
    )

    def seconds(form: str) -> float:
        return sum(
            count * steps.layer(shard, kind, recompute, form).busy.total
            for kind, count in counts
            if count
        )

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
