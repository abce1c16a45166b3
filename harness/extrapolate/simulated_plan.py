"""The pipeline of a plan by simulation: for the few best plans of a search, stage by stage."""

from dataclasses import dataclass

from harness.extrapolate.exchange import head_exchange_s
from harness.extrapolate.pipeline import Busy, model_stages
from harness.extrapolate.priors import CONTENTION
from harness.extrapolate.schedule import schedule_of
from harness.extrapolate.schedule_simulator import StagePasses, simulate
from harness.extrapolate.step import StepModel
from harness.extrapolate.work_order import work_order
from harness.projection import PlanChoice
from harness.workload.model import ModelSpec
from harness.workload.step import LayerKind


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSeconds:
    """Seconds of one microbatch forward and backward on one chip, with what its group exchanges."""

    dense: float
    """A dense layer."""
    moe: float
    """A layer with experts."""
    embedding: float
    """What the first stage does beside its layers."""
    head: float
    """What the last stage does beside its layers."""
    forward_share: float = 1 / 3
    """Of all of them, the forward."""
    weight_share: float = 1 / 3
    """Of all of them, the backward for the weights."""


def layer_seconds(steps: StepModel, plan: PlanChoice) -> LayerSeconds:
    """The times of the step model, for the chips of a plan."""
    shard, model = steps.shard(plan), steps.model
    hides = schedule_of(plan.schedule, plan.virtual_stages).hides_expert_exchange
    busy = {LayerKind.DENSE: Busy(), LayerKind.MOE: Busy()}
    counts = {LayerKind.DENSE: model.num_dense_layers, LayerKind.MOE: model.num_moe_layers}
    for kind, count in counts.items():
        if count:
            of_layer = steps.layer(shard, kind, plan.recompute, plan.context_exchange).busy
            busy[kind] = of_layer.hiding_experts(CONTENTION.value) if hides else of_layer
    embedding, head = steps.ends(shard)
    gathered = head_exchange_s(model, steps.cluster, shard)
    # What is computed again comes before the backward for the input.
    most = busy[max(counts, key=lambda kind: counts[kind])]
    once = 1 - most.recompute / most.total
    return LayerSeconds(
        dense=busy[LayerKind.DENSE].total,
        moe=busy[LayerKind.MOE].total,
        embedding=embedding.forward_s + embedding.backward_s,
        head=head.forward_s + head.backward_s + gathered,
        forward_share=once / 3,
        weight_share=once / 3,
    )


def simulated_pipeline_s(
    model: ModelSpec, plan: PlanChoice, seconds: LayerSeconds, *, message_s: float = 0.0
) -> float:
    """From a step's first forward to its last backward: all microbatches with the bubble.

    A schedule whose devices need not wait for one another at the end (`Schedule.is_skewed`) takes
    the longest span of a device. `message_s` is the time of one message between stages.
    """
    p, v, m = plan.pipeline, plan.virtual_stages, plan.num_microbatches
    schedule = schedule_of(plan.schedule, v)
    along = model_stages(
        model.num_layers, model.num_dense_layers, p, v, plan.schedule, plan.layers_per_stage
    )
    totals = [stage.num_dense * seconds.dense + stage.num_moe * seconds.moe for stage in along]
    totals[0] += seconds.embedding
    totals[-1] += seconds.head
    input_share = 1 - seconds.forward_share - seconds.weight_share
    stages = [
        StagePasses(
            forward_s=total * seconds.forward_share,
            input_s=total * input_share,
            weight_s=total * seconds.weight_share,
        )
        for total in totals
    ]
    order = work_order(schedule, pipeline=p, virtual_stages=v, num_microbatches=m)
    ran = simulate(order, stages, message_s=message_s)
    return ran.longest_span_s if schedule.is_skewed else ran.makespan_s
