"""StepTime: one training step of a plan, as parts that add up.

    step = m t_mb + bubble + exposed pipeline messages + c + jitter
    t_mb = the slowest stage's layers: compute + recomputation + exposed tensor, context and
           expert communication + what hidden communication costs the computation
    c    = exposed gradient reduction and weight gather + optimizer + what the host does per step

Source: the split into a time per microbatch and a time per step follows the strong-scaling series
of MLPerf Training, which it reproduces; the parts are cited where they are computed.
"""

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.collectives import (
    Group,
    Span,
    all_gather_s,
    all_reduce_s,
    all_to_all_s,
    placed,
    point_to_point_s,
    reduce_scatter_s,
)
from harness.extrapolate.lookup import Lookup, OpTime
from harness.extrapolate.memory import (
    SIZE_BYTES,
    StageParameters,
    layer_counts,
    shard_of,
    stage_parameters,
)
from harness.extrapolate.pipeline import StageTimes, bubble_s
from harness.extrapolate.priors import (
    CONTENTION,
    GRADIENT_BYTES_ON_WIRE,
    GROWTH_PER_DOUBLING,
    HOST_S_PER_LAYER,
    HOST_S_PER_STEP,
)
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


class Busy(NamedTuple):
    """Seconds in which a stage works on one microbatch, by reason."""

    compute: float = 0.0
    recompute: float = 0.0
    tensor: float = 0.0
    context: float = 0.0
    expert: float = 0.0
    contention: float = 0.0

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


def _stage_times(stages: tuple[Busy, Busy, Busy], pipeline: int) -> tuple[StageTimes, Busy]:
    """The slowest stage and the sum over all, from the first, an inner and the last one."""
    first, inner, last = stages
    if pipeline == 1:
        return StageTimes(slowest_s=first.total, sum_s=first.total), first
    present = (first, inner, last) if pipeline > 2 else (first, last)
    slowest = max(present, key=lambda busy: busy.total)
    total = first.total + last.total + (pipeline - 2) * inner.total
    return StageTimes(slowest_s=slowest.total, sum_s=total), slowest


@dataclass(slots=True)
class StepModel:
    """Step times of plans for one model on one cluster; layers are timed once per shard."""

    model: ModelSpec
    cluster: ClusterSpec
    lookup: Lookup
    sequence_length: int
    dtype: str
    is_sequence_parallel: bool = True
    """Tensor groups cut norms and residuals along the sequence; False is plain all-reduce."""
    is_attention_fused: bool = True
    _layers: dict[tuple[Shard, LayerKind, str], LayerTime] = field(default_factory=dict)
    _ends: dict[Shard, tuple[WorkTime, WorkTime]] = field(default_factory=dict)
    _stage_times: dict[tuple[int, int, int, int, int, str], StageTimes] = field(
        default_factory=dict
    )
    _parameters: dict[tuple[Shard, int], tuple[StageParameters, ...]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: ModelSpec, cluster: ClusterSpec, lookup: Lookup, parallel: ParallelSpec
    ) -> "StepModel":
        """The step model of what a plan is asked to do."""
        return cls(model, cluster, lookup, parallel.sequence_length, parallel.dtype)

    def shard(self, plan: PlanChoice) -> Shard:
        """The part of model and batch that a chip of the plan works on."""
        shard = shard_of(plan, self.sequence_length, self.dtype)
        return replace(shard, is_attention_fused=self.is_attention_fused)

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
        exposed, hidden = self._tensor(shard, kind, passes)
        context = self._context(shard, passes)
        expert = self._expert(shard, passes) if kind is LayerKind.MOE else 0.0
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

    def _activation_bytes(self, shard: Shard) -> float:
        tokens = shard.microbatch_size * shard.sequence_length / shard.context
        return tokens * self.model.hidden * SIZE_BYTES[self.dtype]

    def _tensor(self, shard: Shard, kind: LayerKind, passes: int) -> tuple[float, float]:
        """Exposed and hidden tensor-parallel communication of a layer.

        A block gathers before its first and scatters after its last product. Backward, the
        gather of the output's gradient is exposed; the scatter of the input's gradient runs beside
        the weight gradient, and the input is gathered again beside the activation gradient.

        Source: Korthikanti et al. (arXiv 2205.05198) section 4.2.2; the overlap is that of
        Megatron-LM, megatron/core/tensor_parallel/layers.py.
        """
        if shard.tensor == 1:
            return 0.0, 0.0
        group = placed(self.cluster, (Span(1, shard.tensor),))
        num_bytes = self._activation_bytes(shard)
        blocks = 2
        if kind is LayerKind.MOE:
            # Experts are sent the tokens of each chip; only shared experts are cut by tensor.
            experts = self.model.experts
            blocks = 2 if experts is not None and experts.num_shared_experts else 1
        if not self.is_sequence_parallel:
            reduced = all_reduce_s(group, num_bytes)
            return blocks * passes * reduced, blocks * reduced
        gathered = all_gather_s(group, num_bytes)
        scattered = reduce_scatter_s(group, num_bytes)
        exposed = blocks * (passes * (gathered + scattered) + gathered)
        return exposed, blocks * (gathered + scattered)

    def _context(self, shard: Shard, passes: int) -> float:
        """Keys and values gathered over the context group, and their gradients scattered.

        Source: Llama 3 (arXiv 2407.21783) section 3.3.2, all-gather based context parallelism.
        """
        if shard.context == 1:
            return 0.0
        group = placed(self.cluster, (Span(shard.tensor, shard.context),))
        tokens = shard.microbatch_size * shard.sequence_length
        kv_heads = max(1, self.model.num_kv_heads // shard.tensor)
        width = kv_heads * (self.model.query_key_dim + self.model.value_dim)
        num_bytes = float(tokens * width * SIZE_BYTES[self.dtype])
        gathers = passes + 1
        return gathers * all_gather_s(group, num_bytes) + reduce_scatter_s(group, num_bytes)

    def _expert(self, shard: Shard, passes: int) -> float:
        """Tokens sent to their experts and back, forward and backward; nothing hides them."""
        experts = self.model.experts
        if shard.expert == 1 or experts is None:
            return 0.0
        group = placed(self.cluster, (Span(1, shard.expert),))
        sent = self._activation_bytes(shard) / shard.tensor * experts.num_experts_per_token
        return (2 * passes + 2) * all_to_all_s(group, sent)

    def ends(self, shard: Shard) -> tuple[WorkTime, WorkTime]:
        """The embedding on the first stage and the head with its loss on the last."""
        known = self._ends.get(shard)
        if known is None:
            known = self._ends[shard] = (
                self.work_time(embedding_work(self.model, shard)),
                self.work_time(head_work(self.model, shard)),
            )
        return known

    def stages(self, shard: Shard, pipeline: int, recompute: str) -> tuple[Busy, Busy, Busy]:
        """One microbatch on the first, an inner and the last stage."""
        embedding, head = self.ends(shard)
        at_ends = (
            Busy(compute=embedding.forward_s + embedding.backward_s),
            Busy(),
            Busy(compute=head.forward_s + head.backward_s, tensor=self._head_exchange(shard)),
        )
        found = []
        for index, counts in enumerate(layer_counts(self.model, pipeline)):
            busy = at_ends[index]
            if pipeline == 1:
                busy = at_ends[0].plus(at_ends[2])
            for kind, count in zip((LayerKind.DENSE, LayerKind.MOE), counts, strict=True):
                if count:
                    busy = busy.plus(self.layer(shard, kind, recompute).busy.times(count))
            found.append(busy)
        return found[0], found[1], found[2]

    def _head_exchange(self, shard: Shard) -> float:
        if shard.tensor == 1:
            return 0.0
        group = placed(self.cluster, (Span(1, shard.tensor),))
        return 2 * all_gather_s(group, self._activation_bytes(shard))

    def groups(self, plan: PlanChoice) -> tuple[Group, Group, int]:
        """The data-parallel groups of shared weights and of experts, and the pipeline's stride.

        Chips are numbered tensor first, then context, then the part of the data group that
        shares experts, then pipeline, then the rest of the data group: what talks most sits
        closest (Llama 3, arXiv 2407.21783 section 3.3.2).
        """
        inner_chips = plan.tensor * plan.context
        inner_data = min(plan.data, max(1, plan.expert // inner_chips))
        stride = inner_chips * inner_data
        outer_stride = stride * plan.pipeline
        outer_data = -(-plan.data // inner_data)
        shared = placed(
            self.cluster,
            (
                Span(plan.tensor, plan.context),
                Span(inner_chips, inner_data),
                Span(outer_stride, outer_data),
            ),
        )
        same_experts = max(1, inner_chips * inner_data // plan.expert)
        experts = placed(
            self.cluster, (Span(plan.expert, same_experts), Span(outer_stride, outer_data))
        )
        return shared, experts, stride

    def parameters(self, plan: PlanChoice) -> tuple[StageParameters, ...]:
        """Parameters per chip of the first, an inner and the last stage."""
        shard = self.shard(plan)
        key = (shard, plan.pipeline)
        known = self._parameters.get(key)
        if known is None:
            known = self._parameters[key] = stage_parameters(self.model, shard, plan.pipeline)
        return known

    def least_seconds(self, plan: Pipelined) -> float:
        """A lower bound of the step: the slowest stage's microbatches and the bubble."""
        key = (
            plan.tensor,
            plan.expert,
            plan.context,
            plan.microbatch_size,
            plan.pipeline,
            plan.recompute,
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
                is_attention_fused=self.is_attention_fused,
            )
            stages = self.stages(shard, plan.pipeline, plan.recompute)
            known = self._stage_times[key] = _stage_times(stages, plan.pipeline)[0]
        return plan.num_microbatches * known.slowest_s + bubble_s(
            known,
            pipeline=plan.pipeline,
            virtual_stages=plan.virtual_stages,
            num_microbatches=plan.num_microbatches,
        )

    def step(self, plan: PlanChoice) -> StepTime:
        """The step of a plan, part by part."""
        stages = self.stages(self.shard(plan), plan.pipeline, plan.recompute)
        times, slowest = _stage_times(stages, plan.pipeline)
        m = plan.num_microbatches
        bubble = bubble_s(
            times,
            pipeline=plan.pipeline,
            virtual_stages=plan.virtual_stages,
            num_microbatches=m,
        )
        shared_group, expert_group, stride = self.groups(plan)
        pipeline_s = self._pipeline_exchange(plan, stride, slowest)
        held = max(self.parameters(plan), key=lambda stage: stage.shared + stage.experts)
        data_s, data_contention = self._data_exchange(
            plan, held, slowest, shared_group, expert_group
        )
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
            ("contention with hidden communication", m * slowest.contention + data_contention),
            ("pipeline bubble", bubble),
            ("exposed pipeline communication", pipeline_s),
            ("exposed data-parallel communication", data_s),
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
            once_s=data_s + optimizer.seconds + hosted,
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

    def _pipeline_exchange(self, plan: PlanChoice, stride: int, slowest: Busy) -> float:
        """Messages between stages that nothing hides.

        Filling and draining shows 2 (p - 1) messages. In between, plain 1F1B sends and receives
        in turn with the computation; an interleaved schedule hides messages that are shorter
        than a chunk (Megatron-LM, overlap_p2p_comm).
        """
        if plan.pipeline == 1:
            return 0.0
        num_bytes = self._activation_bytes(self.shard(plan)) / plan.tensor
        message = point_to_point_s(self.cluster, stride, num_bytes)
        fill = 2 * (plan.pipeline - 1) * message
        per_microbatch = 2 * message
        if plan.virtual_stages > 1:
            chunk = slowest.total / plan.virtual_stages / 2
            per_microbatch = 2 * plan.virtual_stages * max(0.0, message - chunk)
        return fill + plan.num_microbatches * per_microbatch

    def _data_exchange(
        self,
        plan: PlanChoice,
        held: StageParameters,
        slowest: Busy,
        shared_group: Group,
        expert_group: Group,
    ) -> tuple[float, float]:
        """Exposed gradient reduction and weight gather, and what the hidden part costs.

        Gradients of a layer leave as soon as it has them from the last microbatch, so all but
        the last layer's can hide behind that microbatch's backward pass, with interleaved
        stages behind those of the last round; weights arrive before each layer's first forward.

        Source: the window of Megatron-LM's distributed optimizer with overlap_grad_reduce and
        overlap_param_gather, as in Calculon, calculon/llm/llm.py.
        """
        size = SIZE_BYTES[self.dtype]
        on_wire = min(size, GRADIENT_BYTES_ON_WIRE)
        scatter = reduce_scatter_s(shared_group, on_wire * held.shared)
        scatter += reduce_scatter_s(expert_group, on_wire * held.experts)
        gather = all_gather_s(shared_group, size * held.shared)
        gather += all_gather_s(expert_group, size * held.experts)
        if scatter + gather == 0:
            return 0.0, 0.0
        layers = max(1, -(-self.model.num_layers // plan.pipeline))
        forward_s, backward_s = slowest.total / 3, slowest.total * 2 / 3
        rounds = float(plan.num_microbatches)
        if plan.zero_stage == 3:
            # Every microbatch gathers twice and scatters once, layer by layer.
            per_pass = 2 * gather + scatter
            shown = per_pass / layers + max(0.0, per_pass * (1 - 1 / layers) - slowest.total)
            hidden = max(0.0, per_pass - shown)
            return rounds * shown, rounds * CONTENTION.value * hidden
        window = 1.0
        if plan.virtual_stages > 1:
            window = plan.pipeline * (plan.virtual_stages - 1) / plan.virtual_stages
        scatters = 1.0
        if plan.zero_stage == 2:
            # Gradients leave after each round of microbatches that a chunk does in a row.
            scatters = float(-(-plan.num_microbatches // plan.pipeline))
        shown = hidden = 0.0
        for exchange, count, room in (
            (scatter, scatters, backward_s * window),
            (gather, 1.0, forward_s * window),
        ):
            exposed = exchange / layers + max(0.0, exchange * (1 - 1 / layers) - room)
            shown += count * exposed
            hidden += count * (exchange - exposed)
        return shown, CONTENTION.value * max(0.0, hidden)

    def optimizer_item(self, plan: PlanChoice) -> WorkItem:
        """The update of the parameters whose moments are on the fullest chip."""
        held = max(self.parameters(plan), key=lambda stage: stage.shared + stage.experts)
        chips = expert_chips = 1.0
        if plan.zero_stage >= 1:
            chips = float(plan.data * plan.context)
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
