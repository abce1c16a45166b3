"""StepModel: the layers of a model on a shard, with what a tensor, context or expert group sends.

A step of a whole plan is made of them in `plan_step`.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.exchange import (
    context_exchange,
    expert_exchange_s,
    tensor_exchange,
)
from harness.extrapolate.lookup import Lookup, OpTime, share_of_role
from harness.extrapolate.pipeline import Busy
from harness.extrapolate.priors import CONTENTION
from harness.projection import PlanChoice, Source
from harness.workload.model import ModelSpec
from harness.workload.plan import ParallelSpec
from harness.workload.step import (
    Direction,
    LayerKind,
    Shard,
    WorkItem,
    embedding_work,
    head_work,
    layer_work,
)


@dataclass(frozen=True, slots=True)
class WorkTime:
    """The time of a list of work items on one chip."""

    forward_s: float
    backward_s: float
    attention_s: float
    """Of the forward part, what the attention core takes."""
    low_s: float
    high_s: float


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer of one microbatch on one chip, with what its group exchanges."""

    work: WorkTime
    busy: Busy


def longer_of(chip_s: float, host_s: float) -> float:
    """Time of a layer that the chip and the host that launches it each need so long for.

    The longer one where they differ; where they are alike each waits for the other now and then,
    up to 9 % of it.
    """
    longer, shorter = np.maximum(chip_s, host_s), np.minimum(chip_s, host_s)
    ratio = shorter / np.maximum(longer, SMALLEST_S)
    found: float = longer * (1 + ratio**SHARPNESS) ** (1 / SHARPNESS)
    return found


def forward_passes(recompute: str) -> int:
    """How often a layer's exchanges of the forward pass are made."""
    return 2 if recompute == "full" else 1


SHARPNESS = 8
"""Of `longer_of`; higher is nearer to the plain maximum; assumed."""
SMALLEST_S = 1e-30
"""Keeps nothing over nothing from being a ratio."""


@dataclass(slots=True)
class StepModel:
    """Step times of plans for one model on one cluster; layers are timed once per shard."""

    model: ModelSpec
    cluster: ClusterSpec
    lookup: Lookup
    sequence_length: int
    dtype: str
    linear_dtype: str = ""
    is_sequence_parallel: bool = True
    """Tensor groups cut norms and residuals along the sequence; False is plain all-reduce."""
    is_attention_fused: bool = True
    are_weights_trained: bool = True
    expert_load: float = 1.0
    """Tokens of the busiest expert over the mean."""
    are_experts_cut: bool = False
    """Each expert is cut by tensor too, so that the chips of an expert group are that far apart;
    False leaves experts whole, the tensor group's chips each with their part of the tokens."""
    are_copies_merged: bool = True
    """Tokens for several experts of a scale-up domain are sent there once."""
    inner_slowdown: float = 1.0
    """Time of exchanges inside a scale-up domain over what the cluster says."""
    outer_slowdown: float = 1.0
    """The same of those that leave it."""
    _layers: dict[tuple[Shard, LayerKind, str, str], LayerTime] = field(default_factory=dict)
    _works: dict[tuple[Shard, LayerKind], WorkTime] = field(default_factory=dict)
    _ends: dict[Shard, tuple[WorkTime, WorkTime]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: ModelSpec, cluster: ClusterSpec, lookup: Lookup, parallel: ParallelSpec
    ) -> "StepModel":
        """The step model of what a plan is asked to do."""
        return cls(
            model,
            cluster,
            lookup,
            parallel.sequence_length,
            parallel.dtype,
            linear_dtype=parallel.linear_dtype,
            expert_load=parallel.expert_load or 1.0,
        )

    @property
    def one_chip(self) -> Shard:
        """The whole model on one chip: what a shard has that no plan decides."""
        return Shard(
            sequence_length=self.sequence_length,
            dtype=self.dtype,
            linear_dtype=self.linear_dtype,
            is_attention_fused=self.is_attention_fused,
            are_weights_trained=self.are_weights_trained,
            expert_load=self.expert_load,
        )

    def shard(self, plan: PlanChoice) -> Shard:
        """The part of model and batch that a chip of the plan works on."""
        return replace(
            self.one_chip,
            tensor=plan.tensor,
            expert=plan.expert,
            context=plan.context,
            microbatch_size=plan.microbatch_size,
        )

    def work_time(self, items: tuple[WorkItem, ...]) -> WorkTime:
        """The items' times added up."""
        forward = backward = attention = low = high = 0.0
        for item in items:
            time: OpTime = self.lookup.time(item.problem)
            count = float(item.count)
            if time.source is Source.ROOFLINE:
                count /= share_of_role(item, self.lookup.constants)
            seconds = count * time.seconds
            low += count * time.low
            high += count * time.high
            if item.direction is Direction.FORWARD:
                forward += seconds
                if item.role.startswith("attention core"):
                    attention += seconds
            else:
                backward += seconds
        return WorkTime(forward, backward, attention, low, high)

    def layer(
        self, shard: Shard, kind: LayerKind, recompute: str, exchange: str = "gather"
    ) -> LayerTime:
        """One layer, timed once per shard, kind, recomputation and exchange of a sequence."""
        key = (shard, kind, recompute, exchange)
        known = self._layers.get(key)
        if known is None:
            known = self._layers[key] = self._layer(shard, kind, recompute, exchange)
        return known

    @property
    def num_layers_timed(self) -> int:
        """Distinct layers whose ops have been looked up."""
        return len(self._works)

    def layer_work_time(self, shard: Shard, kind: LayerKind) -> WorkTime:
        """The ops of one layer, timed once whatever is recomputed."""
        # Only the experts of a layer are cut by expert.
        key = (shard if kind is LayerKind.MOE else replace(shard, expert=1), kind)
        known = self._works.get(key)
        if known is None:
            known = self._works[key] = self.work_time(layer_work(self.model, *key))
        return known

    def _layer(self, shard: Shard, kind: LayerKind, recompute: str, exchange: str) -> LayerTime:
        work = self.layer_work_time(shard, kind)
        forward, backward = work.forward_s, work.backward_s
        again = {"none": 0.0, "selective": work.attention_s, "full": forward}[recompute]
        passes = forward_passes(recompute)
        constants = self.lookup.constants
        exposed, hidden = tensor_exchange(
            self.model,
            self.cluster,
            shard,
            kind,
            passes=passes,
            is_sequence_parallel=self.is_sequence_parallel,
        )
        # What should hide behind the backward products but is longer shows after all.
        tensor = constants.tensor_exchange_factor * exposed + np.maximum(0.0, hidden - backward)
        context = context_exchange(
            self.model, self.cluster, shard, exchange, passes=passes, attention_s=work.attention_s
        )
        expert = 0.0
        host = constants.host_s_per_layer
        if kind is LayerKind.MOE:
            expert = constants.expert_exchange_factor * expert_exchange_s(
                self.model,
                self.cluster,
                shard,
                passes=passes,
                are_cut=self.are_experts_cut,
                are_copies_merged=self.are_copies_merged,
            )
            host += constants.host_s_per_expert_layer
        launched = host * (4 / 3 if recompute == "full" else 1)
        busy = Busy(
            compute=forward + backward,
            recompute=again,
            tensor=self.slowed(shard.tensor, tensor),
            context=self.slowed(shard.tensor * shard.context, context.exposed),
            expert=self.slowed(shard.expert, expert),
            contention=CONTENTION.value * (np.minimum(hidden, backward) + context.hidden),
        )
        on_chip = busy.total - busy.contention
        busy = busy._replace(launch=longer_of(on_chip, launched) - on_chip)
        return LayerTime(work, busy)

    def slowed(self, reach: int, seconds: float) -> float:
        """An exchange over that many neighbouring chips on networks slower than the cluster's."""
        is_inside = reach <= self.cluster.scaleup_chips
        return seconds * (self.inner_slowdown if is_inside else self.outer_slowdown)

    def ends(self, shard: Shard) -> tuple[WorkTime, WorkTime]:
        """The embedding on the first stage and the head with its loss on the last."""
        known = self._ends.get(shard)
        if known is None:
            known = self._ends[shard] = (
                self.work_time(embedding_work(self.model, shard)),
                self.work_time(head_work(self.model, shard)),
            )
        return known
