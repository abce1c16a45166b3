"""The times of the layers of many plans, timed once per distinct shard and gathered as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.extrapolate.distinct import distinct
from harness.extrapolate.exchange import head_exchange_s
from harness.extrapolate.memory import PlanCounts
from harness.extrapolate.pipeline import Busy
from harness.extrapolate.plans import RECOMPUTES, Bools, Floats, Ints
from harness.extrapolate.step import LayerTime, StepModel, WorkTime
from harness.workload.plan import CONTEXT_EXCHANGES
from harness.workload.step import LayerKind


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTable:
    """One microbatch on each distinct shard; all but `index` have shape (..., S)."""

    index: Ints
    """The place of each plan, shape (N,)."""
    dense: tuple[Floats, ...]
    """A dense layer, by the parts of Busy."""
    moe: tuple[Floats, ...]
    """A layer with experts."""
    dense_s: Floats
    """All parts of a dense layer together."""
    moe_s: Floats
    embedding_s: Floats
    """The embedding, on the first stage."""
    head_s: Floats
    """The output head and its loss, on the last stage."""
    head_exchange_s: Floats
    ops_s: Floats
    """The ops of all layers, embedding and head, without what is exchanged or recomputed."""
    ops_low_s: Floats
    ops_high_s: Floats

    @classmethod
    def of(cls, steps: StepModel, counts: PlanCounts) -> "LayerTable":
        """The layers of the plans."""
        model, shards = counts.model, counts.shards.shards
        columns = (counts.shards.index, counts.plans.recompute, counts.plans.context_exchange)
        alike = distinct(*columns)
        places = [
            (shards[int(shard)], RECOMPUTES[int(code)], CONTEXT_EXCHANGES[int(exchange)])
            for shard, code, exchange in zip(
                *(column[alike.first] for column in columns), strict=True
            )
        ]
        dense, moe = (
            [steps.layer(shard, kind, recompute, form) for shard, recompute, form in places]
            if count
            else [LayerTime(NO_WORK, Busy())] * len(places)
            for kind, count in (
                (LayerKind.DENSE, model.num_dense_layers),
                (LayerKind.MOE, model.num_moe_layers),
            )
        )
        ends = [steps.ends(replace(shard, expert=1)) for shard, *_ in places]
        works = [
            (
                (model.num_dense_layers, of_dense.work),
                (model.num_moe_layers, of_moe.work),
                (1, embedding),
                (1, head),
            )
            for of_dense, of_moe, (embedding, head) in zip(dense, moe, ends, strict=True)
        ]
        return cls(
            index=alike.group,
            dense=_parts(dense),
            moe=_parts(moe),
            dense_s=_column([layer.busy.total for layer in dense]),
            moe_s=_column([layer.busy.total for layer in moe]),
            embedding_s=_column([_seconds(embedding) for embedding, _ in ends]),
            head_s=_column([_seconds(head) for _, head in ends]),
            head_exchange_s=_column(
                [head_exchange_s(model, steps.cluster, shard) for shard, *_ in places]
            ),
            ops_s=_column([sum(n * _seconds(work) for n, work in of_all) for of_all in works]),
            ops_low_s=_column([sum(n * work.low_s for n, work in of_all) for of_all in works]),
            ops_high_s=_column([sum(n * work.high_s for n, work in of_all) for of_all in works]),
        )

    def rows(self, which: slice | Ints | Bools) -> "LayerTable":
        """The same layers, of those plans alone."""
        return replace(self, index=self.index[which])

    def of_plans(self, values: Floats) -> Floats:
        """Values by shard as values by plan, shape (..., N)."""
        return values.take(self.index, axis=-1)


NO_WORK = WorkTime(0.0, 0.0, 0.0, 0.0, 0.0)


def _seconds(work: WorkTime) -> float:
    return work.forward_s + work.backward_s


def _column(values: Sequence[float]) -> Floats:
    """One place for each shard, at the end: a value may be an array of draws itself."""
    return np.stack([np.asarray(value, dtype=np.float64) for value in values], axis=-1)


def _parts(layers: Sequence[LayerTime]) -> tuple[Floats, ...]:
    return tuple(_column(values) for values in zip(*(one.busy for one in layers), strict=True))
