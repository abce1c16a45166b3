"""What the chips of plans send to each other between stages and over the data group.

One value for each plan of a table; a layer's own exchange is in `exchange`.
"""

from typing import NamedTuple

import numpy as np

from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.collectives import (
    Span,
    all_gather_s,
    all_reduce_s,
    placed,
    point_to_point_s,
    reduce_scatter_s,
)
from harness.extrapolate.memory import PlanCounts, StageParameters
from harness.extrapolate.pipeline import PLAIN
from harness.extrapolate.plans import Floats, Ints, PlanTable
from harness.extrapolate.rates import PlanRates
from harness.extrapolate.schedule import messages_waited, schedule_code
from harness.extrapolate.shard_table import SIZE_BYTES


class Exchanged(NamedTuple):
    """Seconds of communication that show, and those beside the computation; shape (N,)."""

    exposed: Floats
    hidden: Floats


class StateExchange(NamedTuple):
    """What the collectives of a stage's state take, in seconds; shape (N,)."""

    scatter_s: Floats
    """Its gradients reduced and scattered over the chips that share them."""
    gather_s: Floats
    """Its weights gathered over them."""
    between_s: Floats
    """The shares of gradients summed over the groups of such chips; 0 where there is one."""
    beside_s: Floats
    """Of the scatter, what is on the networks that this sum needs."""


def stage_stride(plans: PlanTable) -> Ints:
    """Chips from one stage to the next, in the order of the cables.

    Chips are numbered tensor first, then context, then the part of the data group that
    shares experts, then pipeline, then the rest of the data group: what talks most sits
    closest (Llama 3, arXiv 2407.21783 section 3.3.2).
    """
    return plans.tensor * plans.context * _inner_data(plans)


def _inner_data(plans: PlanTable) -> Ints:
    inner = np.maximum(1, plans.expert // (plans.tensor * plans.context))
    return np.minimum(plans.data, inner)


def message_s(cluster: ClusterSpec, counts: PlanCounts) -> Floats:
    """The activations of a microbatch to the next stage."""
    num_bytes = counts.shards.input_bytes.take(counts.shards.index)
    return point_to_point_s(cluster, stage_stride(counts.plans), num_bytes)


def state_exchange(
    cluster: ClusterSpec, counts: PlanCounts, held: StageParameters, rates: PlanRates
) -> StateExchange:
    """The collectives of each plan, whose fullest stage holds these parameters.

    Hybrid sharding scatters and gathers inside groups of the nearest chips of the data group; each
    chip then sums its share of the gradients with those who hold the same share.

    Source: Zhao et al. (VLDB 2023, arXiv 2304.11277) section 3.2.2.
    """
    plans = counts.plans
    inner_data, stride = _inner_data(plans), stage_stride(plans)
    is_hybrid = plans.shard_group > 0
    replicas = np.where(is_hybrid, plans.shard_group // plans.context, plans.data)
    near = np.minimum(inner_data, replicas)
    far = -(-replicas // near)
    outer = Span(stride * plans.pipeline, far)
    inner = Span(plans.tensor * plans.context, near)
    shared = placed(cluster, (Span(plans.tensor, plans.context), inner, outer))
    size = SIZE_BYTES[counts.dtype]
    on_wire = min(size, rates.gradient_bytes_on_wire)
    scatter = reduce_scatter_s(shared, on_wire * held.shared)
    gather = all_gather_s(shared, size * held.shared)
    if counts.model.num_moe_layers:
        same_experts = np.maximum(1, stride // plans.expert)
        experts = placed(cluster, (Span(plans.expert, same_experts), outer))
        scatter = scatter + reduce_scatter_s(experts, on_wire * held.experts)
        gather = gather + all_gather_s(experts, size * held.experts)
    between = np.zeros_like(scatter)
    if not is_hybrid.any():
        return StateExchange(scatter, gather, between, between)
    rest = Span(stride * plans.pipeline * far, -(-plans.data // (inner_data * far)))
    alike = placed(cluster, (Span(plans.tensor * plans.context * near, inner_data // near), rest))
    chips = np.maximum(1, plans.shard_group)
    between = all_reduce_s(alike, on_wire * held.shared / chips)
    if counts.model.num_moe_layers:
        expert_chips = np.maximum(1.0, chips * plans.tensor / plans.expert)
        share = on_wire * held.experts / expert_chips
        between = between + all_reduce_s(placed(cluster, (rest,)), share)
    reach = plans.tensor * plans.context * near
    is_inside = (far == 1) & (reach <= cluster.scaleup_chips)
    return StateExchange(
        scatter, gather, np.where(is_hybrid, between, 0.0), np.where(is_inside, 0.0, scatter)
    )


def pipeline_exchange_s(plans: PlanTable, message_s: Floats, microbatch_s: Floats) -> Floats:
    """Messages between stages that nothing hides.

    Filling and draining shows 2 (p - 1) messages. In between, plain 1F1B sends and receives
    in turn with the computation; an interleaved schedule hides messages that are shorter
    than a chunk (Megatron-LM, overlap_p2p_comm). Of the other schedules those are counted that the
    order of work waits for. The simulated count of the 1F1B forms is other than theirs here, by
    which the model's error was found on published runs.
    """
    chunks = plans.virtual_stages
    fill = 2 * (plans.pipeline - 1) * message_s
    beyond_chunk = 2 * chunks * np.maximum(0.0, message_s - microbatch_s / chunks / 2)
    per_microbatch = np.where(chunks > 1, beyond_chunk, 2 * message_s)
    seconds = fill + plans.num_microbatches * per_microbatch
    is_plain = plans.schedule == schedule_code(PLAIN)
    if not is_plain.all():
        waited = messages_waited(
            plans.schedule,
            pipeline=plans.pipeline,
            virtual_stages=chunks,
            num_microbatches=plans.num_microbatches,
        )
        seconds = np.where(is_plain, seconds, waited * message_s)
    return np.where(plans.pipeline == 1, 0.0, seconds)


def data_exchange(
    plans: PlanTable,
    sent: StateExchange,
    *,
    num_layers: int,
    microbatch_s: Floats,
    rates: PlanRates,
) -> Exchanged:
    """Gradient reduction and weight gather of the fullest stage of a model with those layers.

    Gradients of a layer leave as soon as it has them from the last microbatch, so all but
    the last layer's can hide behind that microbatch's backward pass, with interleaved
    stages behind those of the last round; weights arrive before each layer's first forward.

    With hybrid sharding the shares of gradients are summed between the groups once per step, behind
    the same backward pass. A group inside a scale-up domain scatters on other links than this
    sum takes, so the two run at once; else one waits for the other.

    Source: the window of Megatron-LM's distributed optimizer with overlap_grad_reduce and
    overlap_param_gather, as in Calculon, calculon/llm/llm.py; the two at once: PyTorch,
    torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py, all_reduce_stream.
    """
    m, chunks = plans.num_microbatches, plans.virtual_stages
    layers = -(-num_layers // plans.pipeline)
    window = np.where(chunks > 1, plans.pipeline * (chunks - 1) / chunks, 1.0)
    # Gradients leave after each round of microbatches that a chunk does in a row; a stage of
    # a single chunk sums them until the step ends.
    leaves_in_rounds = (plans.zero_stage == 2) & ((plans.pipeline == 1) | (chunks > 1))
    scatters = np.where(leaves_in_rounds, -(-m // plans.pipeline), 1)
    scatter_shown = _shown_s(sent.scatter_s, layers, microbatch_s * 2 / 3 * window)
    gather_shown = _shown_s(sent.gather_s, layers, microbatch_s / 3 * window)
    shown = scatters * scatter_shown + gather_shown
    taken = scatters * sent.scatter_s + sent.gather_s
    # Under ZeRO 3 every microbatch gathers twice and scatters once.
    per_pass = rates.sharded_exchange_factor * (2 * sent.gather_s + sent.scatter_s)
    never = np.minimum(1.0, rates.sharded_exposed_share)
    shown_sharded = never * per_pass + np.maximum(0.0, (1 - never) * per_pass - microbatch_s)
    is_gathered = plans.zero_stage == 3
    shown = np.where(is_gathered, m * shown_sharded, shown)
    taken = np.where(is_gathered, m * per_pass, taken)
    if plans.shard_group.any():
        room_s = microbatch_s * 2 / 3 * window
        both = _shown_s(sent.beside_s + sent.between_s, layers, room_s)
        shown = shown + both - _shown_s(sent.beside_s, layers, room_s)
        taken = taken + sent.between_s
    return Exchanged(shown, np.maximum(0.0, taken - shown))


def _shown_s(seconds: Floats, layers: Ints, room_s: Floats) -> Floats:
    """Of an exchange, the last layer's and what is longer than the computation beside it."""
    return seconds / layers + np.maximum(0.0, seconds * (1 - 1 / layers) - room_s)
