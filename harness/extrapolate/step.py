"""StepTime: one training step of a plan, as parts that add up.

    step = m t_mb + bubble + exposed pipeline messages + c + jitter
    t_mb = the slowest stage's layers: compute + recomputation + exposed tensor, context and
           expert communication + what hidden communication costs the computation
    c    = exposed gradient reduction and weight gather + optimizer + what the host does per step

Source: the split into a time per microbatch and a time per step follows the strong-scaling series
of MLPerf Training, which it reproduces; the parts are cited where they are computed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.exchange import (
    activation_bytes,
    context_exchange_s,
    data_exchange,
    data_groups,
    expert_exchange_s,
    head_exchange_s,
    pipeline_exchange_s,
    tensor_exchange,
)
from harness.extrapolate.lookup import Lookup, OpTime
from harness.extrapolate.memory import StageParameters, shard_of, stage_parameters, stages_of
from harness.extrapolate.pipeline import Busy, StageKind, StageTimes, bubble_s
from harness.extrapolate.priors import (
    CONTENTION,
    GROWTH_PER_DOUBLING,
    HOST_S_PER_LAYER,
    HOST_S_PER_STEP,
)
from harness.extrapolate.schedule import schedule_of
from harness.projection import PlanChoice, Source, StepPart
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
    optimizer_work,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """One training step; the parts add up to `seconds`."""

    plan: PlanChoice
    parts: tuple[StepPart, ...]
    microbatch_s: float
    """One microbatch through the slowest stage."""
    once_s: float
    """What is done once per step, whatever the number of microbatches."""
    compute_low: float
    """Low end of the time of the ops over their time."""
    compute_high: float

    @property
    def seconds(self) -> float:
        """The whole step."""
        return sum(part.seconds for part in self.parts)


class Pipelined(Protocol):
    """What of a plan decides how long its pipeline takes."""

    @property
    def tensor(self) -> int: ...  # noqa: D102 - as in PlanChoice, and the same below
    @property
    def expert(self) -> int: ...  # noqa: D102
    @property
    def context(self) -> int: ...  # noqa: D102
    @property
    def microbatch_size(self) -> int: ...  # noqa: D102
    @property
    def pipeline(self) -> int: ...  # noqa: D102
    @property
    def virtual_stages(self) -> int: ...  # noqa: D102
    @property
    def num_microbatches(self) -> int: ...  # noqa: D102
    @property
    def recompute(self) -> str: ...  # noqa: D102
    @property
    def schedule(self) -> str: ...  # noqa: D102
    @property
    def layers_per_stage(self) -> tuple[int, ...]: ...  # noqa: D102


def _stage_times(stages: Sequence[tuple[StageKind, Busy]]) -> tuple[StageTimes, Busy]:
    """The slowest stage and the sum over all."""
    slowest = max((busy for _, busy in stages), key=lambda busy: busy.total)
    total = sum(stage.count * busy.total for stage, busy in stages)
    # What is computed again comes before the backward for the input.
    once = 1 - slowest.recompute / slowest.total
    times = StageTimes(
        slowest_s=slowest.total, sum_s=total, forward_share=once / 3, weight_share=once / 3
    )
    return times, slowest


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
    _layers: dict[tuple[Shard, LayerKind, str], LayerTime] = field(default_factory=dict)
    _ends: dict[Shard, tuple[WorkTime, WorkTime]] = field(default_factory=dict)
    _stage_times: dict[tuple[int, int, int, int, str, str, tuple[StageKind, ...]], StageTimes] = (
        field(default_factory=dict)
    )

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
        )

    def shard(self, plan: PlanChoice) -> Shard:
        """The part of model and batch that a chip of the plan works on."""
        shard = shard_of(plan, self.sequence_length, self.dtype)
        return replace(
            shard,
            linear_dtype=self.linear_dtype,
            is_attention_fused=self.is_attention_fused,
        )

    def work_time(self, items: tuple[WorkItem, ...]) -> WorkTime:
        """The items' times added up."""
        forward = backward = attention = low = high = 0.0
        for item in items:
            time: OpTime = self.lookup.time(item.problem)
            seconds = item.count * time.seconds
            low += item.count * time.low
            high += item.count * time.high
            if item.direction is Direction.FORWARD:
                forward += seconds
                if item.role.startswith("attention core"):
                    attention += seconds
            else:
                backward += seconds
        return WorkTime(forward, backward, attention, low, high)

    def layer(self, shard: Shard, kind: LayerKind, recompute: str) -> LayerTime:
        """One layer, timed once per shard, kind and recomputation."""
        key = (shard, kind, recompute)
        known = self._layers.get(key)
        if known is None:
            known = self._layers[key] = self._layer(shard, kind, recompute)
        return known

    def _layer(self, shard: Shard, kind: LayerKind, recompute: str) -> LayerTime:
        work = self.work_time(layer_work(self.model, shard, kind))
        # A host that launches ops one by one needs this long for a layer, however short they are.
        forward = max(work.forward_s, HOST_S_PER_LAYER.value / 3)
        backward = max(work.backward_s, HOST_S_PER_LAYER.value * 2 / 3)
        again = {"none": 0.0, "selective": work.attention_s, "full": forward}[recompute]
        passes = 2 if recompute == "full" else 1
        exposed, hidden = tensor_exchange(
            self.model,
            self.cluster,
            shard,
            kind,
            passes=passes,
            is_sequence_parallel=self.is_sequence_parallel,
        )
        context = context_exchange_s(self.model, self.cluster, shard, passes=passes)
        expert = 0.0
        if kind is LayerKind.MOE:
            expert = expert_exchange_s(self.model, self.cluster, shard, passes=passes)
        # What should hide behind the backward products but is longer shows after all.
        exposed += max(0.0, hidden - backward)
        busy = Busy(
            compute=forward + backward,
            recompute=again,
            tensor=exposed,
            context=context,
            expert=expert,
            contention=CONTENTION.value * min(hidden, backward),
        )
        return LayerTime(work, busy)

    def ends(self, shard: Shard) -> tuple[WorkTime, WorkTime]:
        """The embedding on the first stage and the head with its loss on the last."""
        known = self._ends.get(shard)
        if known is None:
            known = self._ends[shard] = (
                self.work_time(embedding_work(self.model, shard)),
                self.work_time(head_work(self.model, shard)),
            )
        return known

    def stage_kinds(self, plan: Pipelined) -> tuple[StageKind, ...]:
        """The stages of the plan's pipeline."""
        return stages_of(
            self.model, plan.pipeline, plan.virtual_stages, plan.schedule, plan.layers_per_stage
        )

    def busy(self, shard: Shard, stage: StageKind, recompute: str) -> Busy:
        """One microbatch on a stage of that kind."""
        embedding, head = self.ends(shard)
        busy = Busy()
        if stage.is_first:
            busy = busy.plus(Busy(compute=embedding.forward_s + embedding.backward_s))
        if stage.is_last:
            gathered = head_exchange_s(self.model, self.cluster, shard)
            busy = busy.plus(Busy(compute=head.forward_s + head.backward_s, tensor=gathered))
        for kind, count in ((LayerKind.DENSE, stage.num_dense), (LayerKind.MOE, stage.num_moe)):
            if count:
                busy = busy.plus(self.layer(shard, kind, recompute).busy.times(count))
        return busy

    def stages(
        self, shard: Shard, kinds: Sequence[StageKind], plan: Pipelined
    ) -> list[tuple[StageKind, Busy]]:
        """One microbatch on each kind of stage."""
        found = [
            (stage, self.busy(shard, stage, plan.recompute).times(stage.microbatch_share))
            for stage in kinds
        ]
        if schedule_of(plan.schedule, plan.virtual_stages).hides_expert_exchange:
            found = [(stage, busy.hiding_experts(CONTENTION.value)) for stage, busy in found]
        return found

    def fullest(self, plan: PlanChoice) -> StageParameters:
        """Parameters per chip of the stage that holds most."""
        held = stage_parameters(self.model, self.shard(plan), self.stage_kinds(plan))
        return max(held, key=lambda stage: stage.shared + stage.experts)

    def least_seconds(self, plan: Pipelined) -> float:
        """A lower bound of the step: the slowest stage's microbatches and the bubble."""
        kinds = self.stage_kinds(plan)
        key = (
            plan.tensor,
            plan.expert,
            plan.context,
            plan.microbatch_size,
            plan.recompute,
            plan.schedule,
            kinds,
        )
        known = self._stage_times.get(key)
        if known is None:
            shard = Shard(
                tensor=plan.tensor,
                expert=plan.expert,
                context=plan.context,
                microbatch_size=plan.microbatch_size,
                sequence_length=self.sequence_length,
                dtype=self.dtype,
                linear_dtype=self.linear_dtype,
                is_attention_fused=self.is_attention_fused,
            )
            stages = self.stages(shard, kinds, plan)
            known = self._stage_times[key] = _stage_times(stages)[0]
        return plan.num_microbatches * known.slowest_s + bubble_s(
            known,
            pipeline=plan.pipeline,
            virtual_stages=plan.virtual_stages,
            num_microbatches=plan.num_microbatches,
            schedule=plan.schedule,
        )

    def step(self, plan: PlanChoice) -> StepTime:
        """The step of a plan, part by part."""
        shard = self.shard(plan)
        times, slowest = _stage_times(self.stages(shard, self.stage_kinds(plan), plan))
        m = plan.num_microbatches
        bubble = bubble_s(
            times,
            pipeline=plan.pipeline,
            virtual_stages=plan.virtual_stages,
            num_microbatches=m,
            schedule=plan.schedule,
        )
        groups = data_groups(self.cluster, plan)
        message_bytes = activation_bytes(self.model, shard) / plan.tensor
        pipeline_s = pipeline_exchange_s(
            self.cluster, plan, message_bytes, groups.stage_stride, slowest.total
        )
        data = data_exchange(
            plan,
            groups,
            self.fullest(plan),
            num_layers=self.model.num_layers,
            dtype=self.dtype,
            microbatch_s=slowest.total,
        )
        contention_s = m * slowest.contention + CONTENTION.value * data.hidden
        optimizer = self.lookup.time(self.optimizer_item(plan).problem)
        hosted = HOST_S_PER_STEP.value
        busy_s = m * slowest.total
        jitter = self._jitter(plan.num_chips) * busy_s
        parts = (
            ("compute", m * slowest.compute),
            ("recomputation", m * slowest.recompute),
            ("exposed tensor-parallel communication", m * slowest.tensor),
            ("exposed context-parallel communication", m * slowest.context),
            ("exposed expert-parallel communication", m * slowest.expert),
            ("contention with hidden communication", contention_s),
            ("pipeline bubble", bubble),
            ("exposed pipeline communication", pipeline_s),
            ("exposed data-parallel communication", data.exposed),
            ("optimizer", optimizer.seconds),
            ("host, once per step", hosted),
            ("jitter across chips", jitter),
        )
        low, high = self._compute_spread(plan, optimizer)
        return StepTime(
            plan=plan,
            parts=tuple(
                StepPart(name=name, seconds=seconds) for name, seconds in parts if seconds > 0
            ),
            microbatch_s=slowest.total,
            once_s=data.exposed + optimizer.seconds + hosted,
            compute_low=low,
            compute_high=high,
        )

    def _compute_spread(self, plan: PlanChoice, optimizer: OpTime) -> tuple[float, float]:
        """The interval of all op times over their sum; ops are taken to err together."""
        shard = self.shard(plan)
        m = plan.num_microbatches
        low, high, total = optimizer.low, optimizer.high, optimizer.seconds
        embedding, head = self.ends(shard)
        kinds = zip(
            (LayerKind.DENSE, LayerKind.MOE),
            (self.model.num_dense_layers, self.model.num_moe_layers),
            strict=True,
        )
        timed = [
            (self.layer(shard, kind, plan.recompute).work, count / plan.pipeline)
            for kind, count in kinds
            if count
        ]
        timed += [(embedding, 1.0 / plan.pipeline), (head, 1.0 / plan.pipeline)]
        for work, count in timed:
            low += m * count * work.low_s
            high += m * count * work.high_s
            total += m * count * (work.forward_s + work.backward_s)
        return low / total, high / total

    def _jitter(self, num_chips: int) -> float:
        """Share of the busy time lost to the slowest of many chips, beyond one domain."""
        doublings = math.log2(max(1.0, num_chips / self.cluster.scaleup_chips))
        return GROWTH_PER_DOUBLING.value * doublings

    def optimizer_item(self, plan: PlanChoice) -> WorkItem:
        """The update of the parameters whose moments are on the fullest chip."""
        held = self.fullest(plan)
        chips = expert_chips = 1.0
        if plan.zero_stage >= 1:
            copies = schedule_of(plan.schedule, plan.virtual_stages).parameter_copies
            chips = float(plan.data * plan.context * copies)
            expert_chips = max(1.0, chips * plan.tensor / plan.expert)
        (item,) = optimizer_work(int(held.shared / chips + held.experts / expert_chips), self.dtype)
        return item

    def sources(self, plan: PlanChoice) -> tuple[tuple[WorkItem, float, Source], ...]:
        """Each piece of one microbatch's compute and of the optimizer on a chip, longest first.

        Layers are those of a chip averaged over the stages, so that head and embedding show.
        """
        shard = self.shard(plan)
        items: list[tuple[WorkItem, float]] = []
        for kind, count in (
            (LayerKind.DENSE, self.model.num_dense_layers),
            (LayerKind.MOE, self.model.num_moe_layers),
        ):
            layers = count / plan.pipeline
            if count:
                items += [(item, layers) for item in layer_work(self.model, shard, kind)]
        for item in (*embedding_work(self.model, shard), *head_work(self.model, shard)):
            items.append((item, 1 / plan.pipeline))
        items.append((self.optimizer_item(plan), 1.0))
        found: list[tuple[WorkItem, float, Source]] = []
        for item, times in items:
            time = self.lookup.time(item.problem)
            found.append((item, times * item.count * time.seconds, time.source))
        return tuple(sorted(found, key=lambda entry: -entry[1]))
