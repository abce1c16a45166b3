"""PhaseWork: all that a chip computes in a step of a model, as a suite measures it."""

from dataclasses import dataclass, replace

from harness.workload.model import ModelSpec
from harness.workload.step import (
    LayerKind,
    Phase,
    Shard,
    WorkItem,
    check_shard,
    embedding_work,
    head_work,
    layer_parameters_per_chip,
    layer_work,
    merged,
    optimizer_work,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseWork:
    """The work of one step of a phase, on one chip of those that share the matrices."""

    phase: Phase
    title: str
    """For people: `decode step of llama3_8b, one chip of 8, 64 sequences of 4096 tokens`."""
    items: tuple[WorkItem, ...]


def phase_work(model: ModelSpec, shard: Shard, phase: Phase) -> PhaseWork:
    """All layers, embedding and head of one microbatch and, in training, the optimizer.

    Problem by problem it is what `phase_problems` lists, which is what a suite measures; the counts
    are those of all layers. The weights of each layer are updated by themselves, as measured.

    Raises:
        PlanError: when the shard does not divide the model.
    """
    check_shard(model, shard)
    layers = {
        LayerKind.DENSE: model.num_dense_layers,
        LayerKind.MOE: model.num_moe_layers,
    }
    items = list(embedding_work(model, shard, phase))
    for kind, count in layers.items():
        if count:
            items += [
                replace(item, count=item.count * count)
                for item in layer_work(model, shard, kind, phase)
            ]
    items += head_work(model, shard, phase)
    if phase is Phase.TRAINING:
        kinds = [kind for kind, count in layers.items() if count]
        largest = max(sum(layer_parameters_per_chip(model, shard, kind)) for kind in kinds)
        items += [
            replace(item, count=item.count * sum(layers.values()))
            for item in optimizer_work(largest, shard.dtype)
        ]
    return PhaseWork(phase=phase, title=_title(model, shard, phase), items=merged(items))


def _title(model: ModelSpec, shard: Shard, phase: Phase) -> str:
    of = f", one chip of {shard.tensor}" if shard.tensor > 1 else ""
    what = "prefill" if phase is Phase.PREFILL else f"{phase} step"
    many = f"{shard.microbatch_size} sequence{'s' if shard.microbatch_size != 1 else ''}"
    return f"{what} of {model.name}{of}, {many} of {shard.sequence_length:,} tokens"
