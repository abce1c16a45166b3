"""One plan at a time, in plain numbers: the formulas of docs/extrapolation.md written out again.

The arrays of `harness.extrapolate.plan_step` and `memory` are held against it.
"""

import math
from collections.abc import Iterator

from harness.extrapolate.collectives import (
    Group,
    Span,
    all_gather_s,
    all_reduce_s,
    placed,
    point_to_point_s,
    reduce_scatter_s,
)
from harness.extrapolate.constants import Constants
from harness.extrapolate.exchange import activation_bytes, head_exchange_s
from harness.extrapolate.pipeline import (
    Busy,
    StageKind,
    StageTimes,
    bubble_s,
    layers_in_flight,
    most_layers,
    stage_kinds,
)
from harness.extrapolate.priors import (
    CONTENTION,
    CONTEXT_BYTES,
    FRAGMENTATION,
    GRADIENT_BYTES_ON_WIRE,
)
from harness.extrapolate.schedule import schedule_of
from harness.extrapolate.shard_table import SIZE_BYTES, activation_bytes_per_token
from harness.extrapolate.step import StepModel
from harness.projection import PlanChoice
from harness.workload.model import ModelSpec
from harness.workload.step import (
    LayerKind,
    Shard,
    layer_parameters_per_chip,
    optimizer_work,
    prediction_parameters_per_chip,
)


def stages(model: ModelSpec, plan: PlanChoice) -> tuple[StageKind, ...]:
    return stage_kinds(
        model.num_layers,
        model.num_dense_layers,
        plan.pipeline,
        plan.virtual_stages,
        plan.schedule,
        plan.layers_per_stage,
    )


def parameters(model: ModelSpec, shard: Shard, stage: StageKind) -> tuple[float, float]:
    """Shared and expert parameters that a chip of the stage holds."""
    shared = experts = 0.0
    if stage.num_dense:
        shared += stage.num_dense * layer_parameters_per_chip(model, shard, LayerKind.DENSE)[0]
    if stage.num_moe:
        whole, own = layer_parameters_per_chip(model, shard, LayerKind.MOE)
        shared, experts = shared + stage.num_moe * whole, float(stage.num_moe * own)
    if stage.is_first:
        shared += model.embedding_parameters / shard.tensor
    if stage.is_last:
        head = model.head_parameters if stage.is_first else model.vocab * model.hidden
        shared += head / shard.tensor + model.final_norm_parameters
        if model.num_prediction_modules:
            further = prediction_parameters_per_chip(model, shard)
            shared, experts = shared + further[0], experts + further[1]
    return shared, experts


def fullest(steps: StepModel, plan: PlanChoice) -> tuple[float, float]:
    held = [parameters(steps.model, steps.shard(plan), one) for one in stages(steps.model, plan)]
    return max(held, key=sum)


def shared_out(plan: PlanChoice, shared: float, experts: float) -> float:
    whole = plan.data * plan.context * schedule_of(plan.schedule).parameter_copies
    chips = plan.shard_group or whole
    return shared / chips + experts / max(1.0, chips * plan.tensor / plan.expert)


def memory(model: ModelSpec, plan: PlanChoice, shard: Shard) -> Iterator[dict[str, float]]:
    """Bytes by part of each kind of stage."""
    size = SIZE_BYTES[shard.dtype]
    tokens = shard.microbatch_size * shard.sequence_length / plan.context
    per_layer = [
        activation_bytes_per_token(model, kind, size) * tokens / plan.tensor if count else 0.0
        for kind, count in (
            (LayerKind.DENSE, model.num_dense_layers),
            (LayerKind.MOE, model.num_moe_layers),
        )
    ]
    for stage in stages(model, plan):
        shared, experts = parameters(model, shard, stage)
        whole, own = shared + experts, shared_out(plan, shared, experts)
        weights = size * (own if plan.zero_stage == 3 else whole)
        gradients = 4 * (own if plan.zero_stage >= 2 else whole)
        if plan.zero_stage == 3:
            weights += (2 * size + 4) * whole / max(1, stage.num_layers)
        if plan.zero_stage == 2:
            parts = stage.num_layers if plan.pipeline == 1 else plan.virtual_stages
            share = min(1.0, 2 / parts)
            gradients = share * 4 * whole + (1 - share) * gradients
        in_flight = layers_in_flight(
            1,
            pipeline=plan.pipeline,
            virtual_stages=plan.virtual_stages,
            num_microbatches=plan.num_microbatches,
            stage=stage.position,
            schedule=plan.schedule,
        )
        in_flight *= stage.microbatch_share
        counts = (stage.num_dense, stage.num_moe)
        kept, working = sum(n * one for n, one in zip(counts, per_layer, strict=True)), 0.0
        if plan.recompute == "full":
            kept = stage.num_layers * size * model.hidden * tokens / plan.tensor
            working = max(one if n else 0.0 for n, one in zip(counts, per_layer, strict=True))
        logits = tokens * model.vocab / plan.tensor * (4 + size) if stage.is_last else 0.0
        parts_found = {
            "weights": weights,
            "gradients": gradients,
            "optimizer": 12 * (own if plan.zero_stage >= 1 else whole),
            "activations": kept * in_flight + working,
            "logits": logits,
        }
        lost = FRAGMENTATION * sum(parts_found.values())
        yield parts_found | {"fragmentation": lost, "buffers and driver": float(CONTEXT_BYTES)}


def busy(steps: StepModel, plan: PlanChoice, stage: StageKind) -> Busy:
    """One microbatch on a stage."""
    shard = steps.shard(plan)
    embedding, head = steps.ends(shard)
    found = Busy()
    if stage.is_first:
        found = found.plus(Busy(compute=embedding.forward_s + embedding.backward_s))
    if stage.is_last:
        gathered = head_exchange_s(steps.model, steps.cluster, shard)
        found = found.plus(Busy(compute=head.forward_s + head.backward_s, tensor=gathered))
    for kind, count in ((LayerKind.DENSE, stage.num_dense), (LayerKind.MOE, stage.num_moe)):
        if count:
            layer = steps.layer(shard, kind, plan.recompute, plan.context_exchange)
            found = found.plus(layer.busy.times(count))
    found = found.times(stage.microbatch_share)
    if schedule_of(plan.schedule).hides_expert_exchange:
        found = found.hiding_experts(CONTENTION.value)
    return found


def groups(steps: StepModel, plan: PlanChoice) -> tuple[Group, Group, int]:
    """Chips that share all but experts, those that share experts, and those of a stage's inside."""
    inner_chips = plan.tensor * plan.context
    inner_data = min(plan.data, max(1, plan.expert // inner_chips))
    stride = inner_chips * inner_data
    replicas = plan.shard_group // plan.context if plan.shard_group else plan.data
    inner = min(inner_data, replicas)
    outer = Span(stride * plan.pipeline, -(-replicas // inner))
    shared = (Span(plan.tensor, plan.context), Span(inner_chips, inner), outer)
    experts = (Span(plan.expert, max(1, stride // plan.expert)), outer)
    return placed(steps.cluster, shared), placed(steps.cluster, experts), stride


def summed_between(steps: StepModel, plan: PlanChoice, wire: int) -> tuple[float, bool]:
    """Sum of gradients over the groups that share states, and whether those are in a domain."""
    if not plan.shard_group:
        return 0.0, True
    inner_chips = plan.tensor * plan.context
    inner_data = min(plan.data, max(1, plan.expert // inner_chips))
    replicas = plan.shard_group // plan.context
    near, far = min(inner_data, replicas), max(1, replicas // inner_data)
    rest = Span(inner_chips * inner_data * plan.pipeline * far, -(-plan.data // (inner_data * far)))
    alike = placed(steps.cluster, (Span(inner_chips * near, inner_data // near), rest))
    shared, experts = fullest(steps, plan)
    found = all_reduce_s(alike, wire * shared / plan.shard_group)
    if experts:
        share = wire * experts / max(1.0, plan.shard_group * plan.tensor / plan.expert)
        found += all_reduce_s(placed(steps.cluster, (rest,)), share)
    return found, far == 1 and inner_chips * near <= steps.cluster.scaleup_chips


def step(steps: StepModel, plan: PlanChoice) -> dict[str, float]:
    """Seconds by part of one training step."""
    model, m, v = steps.model, plan.num_microbatches, plan.virtual_stages
    found = [(stage, busy(steps, plan, stage)) for stage in stages(model, plan)]
    slowest = max((one for _, one in found), key=lambda one: one.total)
    microbatch_s = slowest.total
    # What is computed again comes before the backward for the input.
    third = (1 - slowest.recompute / microbatch_s) / 3
    times = StageTimes(
        slowest_s=microbatch_s,
        sum_s=sum(stage.count * one.total for stage, one in found),
        forward_share=third,
        weight_share=third,
    )
    shared_group, expert_group, stride = groups(steps, plan)
    message = 0.0
    if plan.pipeline > 1:
        num_bytes = activation_bytes(model, steps.shard(plan)) / plan.tensor
        one = point_to_point_s(steps.cluster, stride, num_bytes)
        between = 2 * one
        if v > 1:
            between = 2 * v * max(0.0, one - microbatch_s / v / 2)
        message = 2 * (plan.pipeline - 1) * one + m * between
        if plan.schedule != "1f1b":
            message = one * float(schedule_of(plan.schedule).messages(plan.pipeline, v, m))
    shared, experts = fullest(steps, plan)
    size = SIZE_BYTES[steps.dtype]
    wire = min(size, GRADIENT_BYTES_ON_WIRE)
    scatter = reduce_scatter_s(shared_group, wire * shared)
    scatter += reduce_scatter_s(expert_group, wire * experts)
    gather = all_gather_s(shared_group, size * shared)
    gather += all_gather_s(expert_group, size * experts)
    constants = steps.lookup.constants
    exposed, hidden = data(plan, scatter, gather, model.num_layers, microbatch_s, constants)
    summed, is_inside = summed_between(steps, plan, wire)
    layers = most_layers(model.num_layers, plan.pipeline)
    room = microbatch_s * 2 / 3 * (plan.pipeline * (v - 1) / v if v > 1 else 1.0)
    taken = [0.0 if is_inside else scatter, summed + (0.0 if is_inside else scatter)]
    before, after = (one / layers + max(0.0, one * (1 - 1 / layers) - room) for one in taken)
    exposed, hidden = exposed + after - before, hidden + summed - (after - before)
    updated = shared + experts
    if plan.zero_stage >= 1:
        updated = shared_out(plan, shared, experts)
    (item,) = optimizer_work(int(updated), steps.dtype)
    doublings = math.log2(max(1.0, plan.num_chips / steps.cluster.scaleup_chips))
    return {
        "compute": m * slowest.compute,
        "recomputation": m * slowest.recompute,
        "exposed tensor-parallel communication": m * slowest.tensor,
        "exposed context-parallel communication": m * slowest.context,
        "exposed expert-parallel communication": m * slowest.expert,
        "contention with hidden communication": m * slowest.contention + CONTENTION.value * hidden,
        "waiting for the host": m * slowest.launch,
        "pipeline bubble": bubble_s(
            times,
            pipeline=plan.pipeline,
            virtual_stages=v,
            num_microbatches=m,
            schedule=plan.schedule,
        ),
        "exposed pipeline communication": message,
        "exposed data-parallel communication": exposed,
        "optimizer": steps.lookup.time(item.problem).seconds,
        "host, once per step": constants.host_s_per_step,
        "jitter across chips": constants.growth_per_doubling * doublings * m * microbatch_s,
    }


def data(
    plan: PlanChoice,
    scatter: float,
    gather: float,
    num_layers: int,
    microbatch_s: float,
    constants: Constants,
) -> tuple[float, float]:
    """Exposed and hidden seconds of the data group's exchange."""
    layers = most_layers(num_layers, plan.pipeline)
    m, v = plan.num_microbatches, plan.virtual_stages
    if plan.zero_stage == 3:
        per_pass = constants.sharded_exchange_factor * (2 * gather + scatter)
        never = min(1.0, constants.sharded_exposed_share)
        shown = never * per_pass + max(0.0, (1 - never) * per_pass - microbatch_s)
        return m * shown, m * max(0.0, per_pass - shown)
    window = plan.pipeline * (v - 1) / v if v > 1 else 1.0
    scatters = 1
    if plan.zero_stage == 2 and (plan.pipeline == 1 or v > 1):
        scatters = -(-m // plan.pipeline)
    shown = hidden = 0.0
    for exchange, count, room in (
        (scatter, scatters, microbatch_s * 2 / 3 * window),
        (gather, 1, microbatch_s / 3 * window),
    ):
        exposed = exchange / layers + max(0.0, exchange * (1 - 1 / layers) - room)
        shown += count * exposed
        hidden += count * (exchange - exposed)
    return shown, max(0.0, hidden)
