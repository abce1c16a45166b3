"""StepTimes: one training step of each of many plans, as parts that add up.

    step = m t_mb + bubble + exposed pipeline messages + c + jitter
    t_mb = the slowest stage's layers: compute + recomputation + exposed tensor, context and
           expert communication + what hidden communication costs the computation
    c    = exposed gradient reduction and weight gather + optimizer + what the host does per step

All of it is elementwise, so that one plan, a million plans or one plan with many draws of its
rates take the same way. Layers are timed once per distinct shard (`layer_table`).

Source: the split into a time per microbatch and a time per step follows the strong-scaling series
of MLPerf Training, which it reproduces; the parts are cited where they are computed.
"""

from dataclasses import dataclass

import numpy as np

from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.distinct import distinct
from harness.extrapolate.layer_table import LayerTable
from harness.extrapolate.memory import PlanCounts, fullest_parameters
from harness.extrapolate.optimizer_time import OptimizerCurve, optimizer_curve
from harness.extrapolate.pipeline import Busy
from harness.extrapolate.plan_exchange import (
    StateExchange,
    data_exchange,
    message_s,
    pipeline_exchange_s,
    state_exchange,
)
from harness.extrapolate.plans import Bools, Floats, Ints, PlanTable
from harness.extrapolate.rates import PlanRates
from harness.extrapolate.schedule import SCHEDULES, idle_s
from harness.extrapolate.step import StepModel
from harness.extrapolate.timed_work import TimedWork, timed_work
from harness.projection import PlanChoice, StepPart
from harness.workload.step import (
    LayerKind,
    WorkItem,
    embedding_work,
    head_work,
    layer_work,
    optimizer_work,
)

HIDES_EXPERTS = np.array([schedule.hides_expert_exchange for schedule in SCHEDULES], dtype=float)
"""1 where a schedule hides the exchange of experts, by its code."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """A training step of each of N plans, in seconds; shape (N,), with draws (D, N)."""

    parts: tuple[tuple[str, Floats], ...]
    seconds: Floats
    """All parts together."""
    microbatch_s: Floats
    """One microbatch through the slowest stage."""
    once_s: Floats
    """What is done once per step, whatever the number of microbatches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedPlans:
    """Plans with all that their steps are made of, looked up."""

    cluster: ClusterSpec
    rates: PlanRates
    counts: PlanCounts
    layers: LayerTable
    message_s: Floats
    """A microbatch's activations to the next stage."""
    sent: StateExchange
    num_updated: Floats
    """Parameters whose moments are on the fullest chip, shape (N,)."""
    optimizer: OptimizerCurve

    @classmethod
    def of(
        cls, steps: StepModel, counts: PlanCounts, rates: PlanRates | None = None
    ) -> "TimedPlans":
        """The plans with their layers, messages and optimizer; `rates` are the software's."""
        rates = PlanRates.of(steps.lookup.constants) if rates is None else rates
        plans = counts.plans
        # Many plans differ in nothing that these depend on.
        alike = distinct(
            *(plans.tensor, plans.context, plans.expert, plans.pipeline, plans.data),
            plans.shard_group,
            counts.stages.layout,
        )
        groups = counts.rows(alike.first)
        held = fullest_parameters(groups)
        sent = state_exchange(steps.cluster, groups, held, rates)
        own = held.shared_out(groups.plans).take(alike.group)
        updated = np.floor(np.where(plans.zero_stage >= 1, own, held.whole.take(alike.group)))
        num_updated = np.maximum(1.0, updated)
        return cls(
            cluster=steps.cluster,
            rates=rates,
            counts=counts,
            layers=LayerTable.of(steps, counts),
            message_s=message_s(steps.cluster, counts) * rates.outer_slowdown,
            sent=StateExchange(
                *(seconds.take(alike.group, axis=-1) * rates.outer_slowdown for seconds in sent)
            ),
            num_updated=num_updated,
            optimizer=optimizer_curve(
                steps.lookup, counts.dtype, num_updated.min(), num_updated.max()
            ),
        )

    def rows(self, which: slice | Ints | Bools) -> "TimedPlans":
        """Those plans alone."""
        return TimedPlans(
            cluster=self.cluster,
            rates=self.rates,
            counts=self.counts.rows(which),
            layers=self.layers.rows(which),
            message_s=self.message_s[..., which],
            sent=StateExchange(*(seconds[..., which] for seconds in self.sent)),
            num_updated=self.num_updated[which],
            optimizer=self.optimizer,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slowest:
    """The stage of each plan that takes longest, and all stages together."""

    parts: tuple[Floats, ...]
    """By the parts of Busy."""
    seconds: Floats
    sum_s: Floats


def _slowest(timed: TimedPlans) -> _Slowest:
    layers, plans, rates = timed.layers, timed.counts.plans, timed.rates
    dense_s, moe_s = layers.of_plans(layers.dense_s), layers.of_plans(layers.moe_s)
    dense = dict(zip(Busy._fields, layers.dense, strict=True))
    moe = dict(zip(Busy._fields, layers.moe, strict=True))
    embedding, head = layers.of_plans(layers.embedding_s), layers.of_plans(layers.head_s)
    gathered = layers.of_plans(layers.head_exchange_s)
    # What the schedule hides of the exchange of experts: all that the computation is longer than.
    hides = HIDES_EXPERTS.take(plans.schedule)
    beside = layers.of_plans(dense["compute"] + dense["recompute"])
    beside_moe = layers.of_plans(moe["compute"] + moe["recompute"])
    sent = layers.of_plans(moe["expert"])
    most = np.array(-np.inf)
    total = num_dense = num_moe = is_first = is_last = hidden = np.array(0.0)
    for stage in timed.counts.stages.kinds():
        share = stage.microbatch_share
        of_ends = stage.is_first * embedding + stage.is_last * head
        seconds = stage.num_dense * dense_s + stage.num_moe * moe_s + of_ends
        seconds = seconds + stage.is_last * gathered
        computing = stage.num_dense * beside + stage.num_moe * beside_moe + of_ends
        behind = hides * share * np.minimum(stage.num_moe * sent, computing)
        seconds = share * seconds + (rates.contention - 1) * behind
        total = total + stage.count * seconds
        is_slower = seconds > most
        most = np.where(is_slower, seconds, most)
        num_dense = np.where(is_slower, share * stage.num_dense, num_dense)
        num_moe = np.where(is_slower, share * stage.num_moe, num_moe)
        is_first = np.where(is_slower, share * stage.is_first, is_first)
        is_last = np.where(is_slower, share * stage.is_last, is_last)
        hidden = np.where(is_slower, behind, hidden)
    compute, recompute, tensor, context, expert, contention, launch = (
        num_dense * layers.of_plans(of_dense) + num_moe * layers.of_plans(of_moe)
        for of_dense, of_moe in zip(layers.dense, layers.moe, strict=True)
    )
    return _Slowest(
        parts=(
            compute + is_first * embedding + is_last * head,
            recompute,
            tensor + is_last * gathered,
            context,
            expert - hidden,
            contention + rates.contention * hidden,
            launch,
        ),
        seconds=most,
        sum_s=total,
    )


def step_times(timed: TimedPlans) -> StepTimes:
    """The step of each plan, part by part."""
    plans, rates, slowest = timed.counts.plans, timed.rates, _slowest(timed)
    compute, recompute, tensor, context, expert, contention, launch = slowest.parts
    m = plans.num_microbatches.astype(np.float64)
    # What is computed again comes before the backward for the input.
    once = 1 - recompute / slowest.seconds
    bubble = idle_s(
        plans.schedule,
        pipeline=plans.pipeline,
        virtual_stages=plans.virtual_stages,
        num_microbatches=m,
        slowest_s=slowest.seconds,
        sum_s=slowest.sum_s,
        forward_share=once / 3,
        weight_share=once / 3,
    )
    messages_s = pipeline_exchange_s(plans, timed.message_s, slowest.seconds)
    data = data_exchange(
        plans,
        timed.sent,
        num_layers=timed.counts.model.num_layers,
        microbatch_s=slowest.seconds,
        rates=rates,
    )
    optimizer = timed.optimizer.at(timed.num_updated, timed.optimizer.seconds)
    doublings = np.log2(np.maximum(1.0, plans.num_chips / timed.cluster.scaleup_chips))
    busy_s = m * slowest.seconds
    parts: tuple[tuple[str, Floats], ...] = (
        ("compute", m * compute),
        ("recomputation", m * recompute),
        ("exposed tensor-parallel communication", m * tensor),
        ("exposed context-parallel communication", m * context),
        ("exposed expert-parallel communication", m * expert),
        ("contention with hidden communication", m * contention + rates.contention * data.hidden),
        ("waiting for the host", m * launch),
        ("pipeline bubble", bubble),
        ("exposed pipeline communication", messages_s),
        ("exposed data-parallel communication", data.exposed),
        ("optimizer", optimizer),
        ("host, once per step", rates.host_s_per_step * np.ones_like(m)),
        ("jitter across chips", rates.growth_per_doubling * doublings * busy_s),
    )
    seconds = parts[0][1].copy()
    for _, part in parts[1:]:
        seconds = seconds + part
    return StepTimes(
        parts=parts,
        seconds=seconds,
        microbatch_s=slowest.seconds,
        once_s=data.exposed + optimizer + rates.host_s_per_step,
    )


def ops_spread(timed: TimedPlans) -> tuple[Floats, Floats]:
    """The ends of the interval of all op times over their sum; ops are taken to err together."""
    plans, layers, curve = timed.counts.plans, timed.layers, timed.optimizer
    rounds = plans.num_microbatches / plans.pipeline
    seconds, low, high = (
        rounds * layers.of_plans(of_layers) + curve.at(timed.num_updated, of_optimizer)
        for of_layers, of_optimizer in (
            (layers.ops_s, curve.seconds),
            (layers.ops_low_s, curve.low),
            (layers.ops_high_s, curve.high),
        )
    )
    return low / seconds, high / seconds


def timed_plan(steps: StepModel, plan: PlanChoice) -> TimedPlans:
    """One plan as a table of one row."""
    counts = PlanCounts.of(steps.model, PlanTable.of(plan), steps.one_chip)
    return TimedPlans.of(steps, counts)


NEGLIGIBLE = 1e-9
"""Share of a step below which a part of it is not told."""


def step_time(steps: StepModel, plan: PlanChoice) -> StepTime:
    """The step of one plan."""
    timed = timed_plan(steps, plan)
    times = step_times(timed)
    low, high = ops_spread(timed)
    return StepTime(
        plan=plan,
        parts=tuple(
            StepPart(name=name, seconds=seconds.item())
            for name, seconds in times.parts
            if seconds.item() > NEGLIGIBLE * times.seconds.item()
        ),
        microbatch_s=times.microbatch_s.item(),
        once_s=times.once_s.item(),
        compute_low=low.item(),
        compute_high=high.item(),
    )


def fullest_stage(steps: StepModel, plan: PlanChoice) -> tuple[float, float]:
    """Parameters per chip of the stage that holds most: shared ones, and those of experts."""
    counts = PlanCounts.of(steps.model, PlanTable.of(plan), steps.one_chip)
    held = fullest_parameters(counts)
    return held.shared.item(), held.experts.item()


def optimizer_item(steps: StepModel, plan: PlanChoice) -> WorkItem:
    """The update of the parameters whose moments are on the fullest chip."""
    (num_updated,) = timed_plan(steps, plan).num_updated
    (item,) = optimizer_work(int(num_updated), steps.dtype)
    return item


def work_of(steps: StepModel, plan: PlanChoice) -> TimedWork:
    """Each piece of one microbatch's compute and of the optimizer on a chip, longest first.

    Layers are those of a chip averaged over the stages, so that head and embedding show.
    """
    model, shard = steps.model, steps.shard(plan)
    items: list[tuple[WorkItem, float]] = []
    for kind, count in (
        (LayerKind.DENSE, model.num_dense_layers),
        (LayerKind.MOE, model.num_moe_layers),
    ):
        layers = count / plan.pipeline
        if count:
            items += [(item, layers) for item in layer_work(model, shard, kind)]
    for item in (*embedding_work(model, shard), *head_work(model, shard)):
        items.append((item, 1 / plan.pipeline))
    items.append((optimizer_item(steps, plan), 1.0))
    return timed_work(steps.lookup, items)
