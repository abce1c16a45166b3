"""A pipeline: which layers its stages have, what they hold, and what it costs beyond their work."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from harness.extrapolate.filling import Filling
from harness.extrapolate.schedule import Placement, schedule_of

PLAIN = "1f1b"
"""The schedule of a plan that says nothing else; interleaved where a device has several chunks."""


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

    def hiding_experts(self, contention: float) -> "Busy":
        """With the exchange of experts behind the computation of another microbatch.

        What is longer than the computation shows; a second of what is hidden takes `contention`
        seconds from the computation.
        """
        hidden = min(self.expert, self.compute + self.recompute)
        return self._replace(
            expert=self.expert - hidden, contention=self.contention + contention * hidden
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Forward and backward time of one microbatch, over the stages of a pipeline."""

    slowest_s: float
    sum_s: float
    """Of all stages, through which the first microbatch must go."""
    forward_share: float = 1 / 3
    """Share of the forward."""
    weight_share: float = 1 / 3
    """Share of the backward for the weights; the rest is that for the input. A product's three
    passes take about as long; recomputation counts with the input."""


def bubble_s(
    stages: StageTimes,
    *,
    pipeline: int,
    virtual_stages: int,
    num_microbatches: int,
    schedule: str = PLAIN,
) -> float:
    """Idle time of the slowest stage; of many plans at once: `schedule.idle_s`.

    1F1B takes (m - 1) max T + sum T, so it idles sum T - max T.
    """
    if pipeline == 1:
        return 0.0
    filling = Filling(
        pipeline=pipeline,
        virtual_stages=virtual_stages,
        num_microbatches=num_microbatches,
        slowest_s=stages.slowest_s,
        others_s=stages.sum_s - stages.slowest_s,
        forward=stages.forward_share,
        weight=stages.weight_share,
    )
    return float(schedule_of(schedule).idle_s(filling))


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
    microbatch_share: float = 1.0
    """Each of its layers works on this share of the microbatches: a half where others do the rest,
    as of DualPipe."""

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


class ModelStage(NamedTuple):
    """The layers between two cuts of a model: all of a chip's, or one of its chunks."""

    num_dense: int
    num_moe: int


def model_stages(
    num_layers: int,
    num_dense: int,
    pipeline: int,
    virtual_stages: int,
    schedule: str = PLAIN,
    layers_per_stage: tuple[int, ...] = (),
) -> tuple[ModelStage, ...]:
    """The stages along the model, as a schedule cuts it; `stages_of_chip` says who has which.

    Chunks in turn are cut from the layers of their chip, which has a layer less in its first chunk
    if it has one less, the last chip in its last. The dense layers of a model with experts are its
    first.
    """
    placement = schedule_of(schedule, virtual_stages).placement
    if layers_per_stage:
        layers = layers_per_stage
        assert (len(layers), sum(layers)) == (pipeline * virtual_stages, num_layers)
    elif placement is Placement.IN_TURN:
        layers = _chunks_in_turn(stage_layers(num_layers, pipeline), virtual_stages)
    else:
        layers = stage_layers(num_layers, pipeline * virtual_stages)
    left, found = num_dense, []
    for length in layers:
        dense = min(length, left)
        left -= dense
        found.append(ModelStage(dense, length - dense))
    return tuple(found)


def _chunks_in_turn(layers: Sequence[int], virtual_stages: int) -> tuple[int, ...]:
    """Layers of each chunk along the model, from those of each chip."""
    chunk = most_layers(max(layers), virtual_stages)
    unused, found = list(layers), []
    for turn in range(virtual_stages):
        for chip, length in enumerate(layers):
            is_short = length < max(layers) and turn == 0 and chip != len(layers) - 1
            size = min(chunk - is_short, unused[chip])
            unused[chip] -= size
            found.append(size)
    return tuple(found)


def stages_of_chip(chip: int, pipeline: int, virtual_stages: int, schedule: str) -> tuple[int, ...]:
    """Which stages along the model a chip of the pipeline has."""
    num_stages = pipeline * virtual_stages
    if schedule_of(schedule, virtual_stages).placement is Placement.IN_TURN:
        return tuple(range(chip, num_stages, pipeline))
    return chip, num_stages - 1 - chip


@lru_cache(maxsize=4096)
def stage_kinds(
    num_layers: int,
    num_dense: int,
    pipeline: int,
    virtual_stages: int,
    schedule: str = PLAIN,
    layers_per_stage: tuple[int, ...] = (),
) -> tuple[StageKind, ...]:
    """The stages of a pipeline by kind, from the first to the last, as its schedule places them.

    The dense layers of a model with experts are its first: in chunks they fill the first one of
    each stage in turn, then the second, until none is left.
    """
    along = model_stages(
        num_layers, num_dense, pipeline, virtual_stages, schedule, layers_per_stage
    )
    counts: dict[tuple[bool, bool, int, int], list[int]] = {}
    for chip in range(pipeline):
        held = stages_of_chip(chip, pipeline, virtual_stages, schedule)
        key = (
            0 in held,
            len(along) - 1 in held,
            sum(along[stage].num_dense for stage in held),
            sum(along[stage].num_moe for stage in held),
        )
        counts.setdefault(key, []).append(chip)
    is_shared = schedule_of(schedule, virtual_stages).placement is Placement.BOTH_WAYS
    return tuple(
        StageKind(
            position=stages[0],
            count=len(stages),
            num_dense=of_dense,
            num_moe=of_moe,
            is_first=is_first,
            is_last=is_last,
            microbatch_share=0.5 if is_shared else 1.0,
        )
        for (is_first, is_last, of_dense, of_moe), stages in counts.items()
    )


def layers_in_flight(
    layers: int,
    *,
    pipeline: int,
    virtual_stages: int,
    num_microbatches: int,
    stage: int = 0,
    schedule: str = PLAIN,
) -> float:
    """Layers times microbatches whose activations a stage holds at once.

    Of many plans at once: `schedule.microbatches_held`.
    """
    held = schedule_of(schedule).held(pipeline, virtual_stages, num_microbatches, stage)
    return layers * float(held)
