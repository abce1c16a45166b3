"""A pipeline: which layers its stages have, what they hold, and what it costs beyond their work."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple


class Busy(NamedTuple):
    """Seconds in which a stage works on one microbatch, by reason."""

    compute: float = 0.0
    recompute: float = 0.0
    tensor: float = 0.0
    context: float = 0.0
    expert: float = 0.0
    contention: float = 0.0
    launch: float = 0.0
    """Waiting for the host, which launches kernels more slowly than the chip runs them."""

    @property
    def total(self) -> float:
        """All of them."""
        return sum(self)

    def plus(self, other: "Busy") -> "Busy":
        """Both, one after the other."""
        return Busy(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, count: float) -> "Busy":
        """That often."""
        return Busy(*(count * a for a in self))


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Forward and backward time of one microbatch, over the stages of a pipeline."""

    slowest_s: float
    sum_s: float
    """Of all stages, through which the first microbatch must go."""


def bubble_s(
    stages: StageTimes, *, pipeline: int, virtual_stages: int, num_microbatches: int
) -> float:
    """Idle time of the slowest stage in a 1F1B schedule, interleaved when stages are virtual.

    1F1B takes (m - 1) max T + sum T, so it idles sum T - max T; with v chunks per stage the fill
    and the drain are v times shorter. Fewer microbatches than stages leave each chunk but the
    last waiting for the first microbatch to come round: (v - 1)/v (p - m) T. Any m >= p is
    scheduled without a gap, in rounds of p to 2p - 1 microbatches.

    Source: Narayanan et al. (SC21, arXiv 2104.04473) section 2.2, (p - 1)/(v m) of the ideal
    time; rounds of any length: Llama 3 (arXiv 2407.21783) section 3.3.2.
    """
    if pipeline == 1:
        return 0.0
    fill = (stages.sum_s - stages.slowest_s) / virtual_stages
    missing = max(0, pipeline - num_microbatches)
    waiting = (virtual_stages - 1) / virtual_stages * missing * stages.slowest_s
    return fill + waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class StageKind:
    """Stages of a pipeline with the same layers; the first and the last are kinds of their own."""

    position: int
    """The first stage of the kind, counted from 0: of its kind it holds most microbatches."""
    count: int
    num_dense: int
    num_moe: int
    is_first: bool
    """It has the embedding."""
    is_last: bool
    """It has the output head."""

    @property
    def num_layers(self) -> int:
        """Layers of either sort."""
        return self.num_dense + self.num_moe


def stage_layers(num_layers: int, pipeline: int) -> tuple[int, ...]:
    """Layers of each stage; they add up to the model.

    Where layers do not divide evenly the last stage, which has the output head, and then the
    first, which has the embedding, have one less (Llama 3, arXiv 2407.21783 section 3.3.2). After
    them it is the second, the third and so on, which hold more microbatches than later ones.
    """
    most = most_layers(num_layers, pipeline)
    spare = most * pipeline - num_layers
    short = {(pipeline - 1 + taken) % pipeline for taken in range(spare)}
    return tuple(most - (stage in short) for stage in range(pipeline))


def most_layers(num_layers: int, pipeline: int) -> int:
    """Layers of the longest stage."""
    return -(-num_layers // pipeline)


@lru_cache(maxsize=4096)
def stage_kinds(
    num_layers: int, num_dense: int, pipeline: int, virtual_stages: int
) -> tuple[StageKind, ...]:
    """The stages of a pipeline by kind, from the first to the last.

    The dense layers of a model with experts are its first: they fill the first chunk of each
    stage in turn, then the second, until none is left.
    """
    layers = stage_layers(num_layers, pipeline)
    dense = _leading(num_dense, layers, virtual_stages)
    counts: dict[tuple[bool, bool, int, int], list[int]] = {}
    for stage, (length, of_dense) in enumerate(zip(layers, dense, strict=True)):
        key = (stage == 0, stage == pipeline - 1, of_dense, length - of_dense)
        counts.setdefault(key, []).append(stage)
    return tuple(
        StageKind(
            position=stages[0],
            count=len(stages),
            num_dense=of_dense,
            num_moe=of_moe,
            is_first=is_first,
            is_last=is_last,
        )
        for (is_first, is_last, of_dense, of_moe), stages in counts.items()
    )


def _leading(num_dense: int, layers: Sequence[int], virtual_stages: int) -> list[int]:
    """How many of the model's first layers each stage holds, its layers cut into chunks.

    A stage with a layer less has it less in its first chunk, the last stage in its last.
    """
    chunk = most_layers(max(layers), virtual_stages)
    dense = [0] * len(layers)
    left, unused = num_dense, list(layers)
    for turn in range(virtual_stages):
        for stage, length in enumerate(layers):
            is_short = length < max(layers) and turn == 0 and stage != len(layers) - 1
            size = min(chunk - is_short, unused[stage])
            taken = min(size, left)
            dense[stage] += taken
            unused[stage] -= size
            left -= taken
    return dense


def layers_in_flight(
    layers: int, *, pipeline: int, virtual_stages: int, num_microbatches: int, stage: int = 0
) -> float:
    """Layers times microbatches whose activations a stage holds at once.

    Stage i of 1F1B holds min(m, p - i) microbatches. Interleaved, it has done
    2 (p - i - 1) + (v - 1) n chunks forward, n the length of a round, before its first backward.

    Source: Korthikanti et al. (MLSys 2023, arXiv 2205.05198) section 4.2: the first stage holds
    L/p layers of p microbatches, times 1 + (p - 1)/(p v) when interleaved; the other stages as in
    Megatron-LM, megatron/core/pipeline_parallel/schedules.py, get_pp_rank_microbatches.
    """
    behind = pipeline - stage - 1
    if virtual_stages == 1:
        return float(layers * min(num_microbatches, behind + 1))
    length = num_microbatches
    if num_microbatches >= pipeline:
        length = -(-num_microbatches // (num_microbatches // pipeline))
    chunks = 2 * behind + (virtual_stages - 1) * length + 1
    return layers * min(chunks / virtual_stages, float(num_microbatches))
