"""What the chips of a plan send to each other: per layer, per microbatch and per step.

Each function gives seconds, those that the computation waits for and, where some of it can hide,
those that run beside it.
"""

from typing import NamedTuple

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
from harness.extrapolate.memory import SIZE_BYTES, StageParameters
from harness.extrapolate.pipeline import PLAIN, most_layers
from harness.extrapolate.priors import GRADIENT_BYTES_ON_WIRE
from harness.extrapolate.schedule import schedule_of
from harness.projection import PlanChoice
from harness.workload.model import ModelSpec
from harness.workload.step import LayerKind, Shard


class Exchanged(NamedTuple):
    """Seconds of communication that show, and those beside the computation."""

    exposed: float = 0.0
    hidden: float = 0.0


class DataGroups(NamedTuple):
    """Chips that hold the same weights, and how far the next stage of a pipeline is."""

    shared: Group
    """The same attention, norms, dense networks and tables."""
    experts: Group
    stage_stride: int
    """Chips from one stage to the next, in the order of the cables."""


def activation_bytes(model: ModelSpec, shard: Shard) -> float:
    """The hidden states of a microbatch, those of one context chip."""
    tokens = shard.microbatch_size * shard.sequence_length / shard.context
    return tokens * model.hidden * SIZE_BYTES[shard.dtype]


def tensor_exchange(
    model: ModelSpec,
    cluster: ClusterSpec,
    shard: Shard,
    kind: LayerKind,
    *,
    passes: int,
    is_sequence_parallel: bool,
) -> Exchanged:
    """The tensor-parallel communication of a layer, `passes` times forward and once backward.

    A block gathers before its first and scatters after its last product. Backward, the
    gather of the output's gradient is exposed; the scatter of the input's gradient runs beside
    the weight gradient, and the input is gathered again beside the activation gradient.

    Source: Korthikanti et al. (arXiv 2205.05198) section 4.2.2; the overlap is that of
    Megatron-LM, megatron/core/tensor_parallel/layers.py.
    """
    if shard.tensor == 1:
        return Exchanged()
    group = placed(cluster, (Span(1, shard.tensor),))
    num_bytes = activation_bytes(model, shard)
    blocks = 2
    if kind is LayerKind.MOE:
        # Experts are sent the tokens of each chip; only shared experts are cut by tensor.
        experts = model.experts
        blocks = 2 if experts is not None and experts.num_shared_experts else 1
    if not is_sequence_parallel:
        reduced = all_reduce_s(group, num_bytes)
        return Exchanged(blocks * passes * reduced, blocks * reduced)
    gathered = all_gather_s(group, num_bytes)
    scattered = reduce_scatter_s(group, num_bytes)
    exposed = blocks * (passes * (gathered + scattered) + gathered)
    return Exchanged(exposed, blocks * (gathered + scattered))


def context_exchange_s(
    model: ModelSpec, cluster: ClusterSpec, shard: Shard, *, passes: int
) -> float:
    """Keys and values gathered over the context group, and their gradients scattered.

    Source: Llama 3 (arXiv 2407.21783) section 3.3.2, all-gather based context parallelism.
    """
    if shard.context == 1:
        return 0.0
    group = placed(cluster, (Span(shard.tensor, shard.context),))
    tokens = shard.microbatch_size * shard.sequence_length
    kv_heads = max(1, model.num_kv_heads // shard.tensor)
    width = kv_heads * (model.query_key_dim + model.value_dim)
    num_bytes = float(tokens * width * SIZE_BYTES[shard.dtype])
    gathers = passes + 1
    return gathers * all_gather_s(group, num_bytes) + reduce_scatter_s(group, num_bytes)


def expert_exchange_s(
    model: ModelSpec, cluster: ClusterSpec, shard: Shard, *, passes: int
) -> float:
    """Tokens sent to their experts and back, forward and backward; nothing hides them."""
    experts = model.experts
    if shard.expert == 1 or experts is None:
        return 0.0
    group = placed(cluster, (Span(1, shard.expert),))
    sent = activation_bytes(model, shard) / shard.tensor * experts.num_experts_per_token
    return (2 * passes + 2) * all_to_all_s(group, sent)


def head_exchange_s(model: ModelSpec, cluster: ClusterSpec, shard: Shard) -> float:
    """The input of the output matrix gathered, and its gradient scattered."""
    if shard.tensor == 1:
        return 0.0
    group = placed(cluster, (Span(1, shard.tensor),))
    return 2 * all_gather_s(group, activation_bytes(model, shard))


def data_groups(cluster: ClusterSpec, plan: PlanChoice) -> DataGroups:
    """The data-parallel groups of a plan.

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
        cluster,
        (
            Span(plan.tensor, plan.context),
            Span(inner_chips, inner_data),
            Span(outer_stride, outer_data),
        ),
    )
    same_experts = max(1, inner_chips * inner_data // plan.expert)
    experts = placed(cluster, (Span(plan.expert, same_experts), Span(outer_stride, outer_data)))
    return DataGroups(shared, experts, stride)


def pipeline_exchange_s(
    cluster: ClusterSpec, plan: PlanChoice, num_bytes: float, stride: int, microbatch_s: float
) -> float:
    """Messages of `num_bytes` between stages that nothing hides.

    Filling and draining shows 2 (p - 1) messages. In between, plain 1F1B sends and receives
    in turn with the computation; an interleaved schedule hides messages that are shorter
    than a chunk (Megatron-LM, overlap_p2p_comm). Of the other schedules those are counted that the
    order of work waits for. The simulated count of the 1F1B forms is other than theirs here, by
    which the model's error was found on published runs.
    """
    if plan.pipeline == 1:
        return 0.0
    message = point_to_point_s(cluster, stride, num_bytes)
    if plan.schedule != PLAIN:
        schedule = schedule_of(plan.schedule)
        waited = schedule.messages(plan.pipeline, plan.virtual_stages, plan.num_microbatches)
        return float(waited) * message
    fill = 2 * (plan.pipeline - 1) * message
    per_microbatch = 2 * message
    if plan.virtual_stages > 1:
        chunk = microbatch_s / plan.virtual_stages / 2
        per_microbatch = 2 * plan.virtual_stages * max(0.0, message - chunk)
    return fill + plan.num_microbatches * per_microbatch


def data_exchange(
    plan: PlanChoice,
    groups: DataGroups,
    held: StageParameters,
    *,
    num_layers: int,
    dtype: str,
    microbatch_s: float,
) -> Exchanged:
    """Gradient reduction and weight gather of a stage that holds these parameters.

    Gradients of a layer leave as soon as it has them from the last microbatch, so all but
    the last layer's can hide behind that microbatch's backward pass, with interleaved
    stages behind those of the last round; weights arrive before each layer's first forward.

    Source: the window of Megatron-LM's distributed optimizer with overlap_grad_reduce and
    overlap_param_gather, as in Calculon, calculon/llm/llm.py.
    """
    size = SIZE_BYTES[dtype]
    on_wire = min(size, GRADIENT_BYTES_ON_WIRE)
    scatter = reduce_scatter_s(groups.shared, on_wire * held.shared)
    scatter += reduce_scatter_s(groups.experts, on_wire * held.experts)
    gather = all_gather_s(groups.shared, size * held.shared)
    gather += all_gather_s(groups.experts, size * held.experts)
    if scatter + gather == 0:
        return Exchanged()
    layers = most_layers(num_layers, plan.pipeline)
    forward_s, backward_s = microbatch_s / 3, microbatch_s * 2 / 3
    if plan.zero_stage == 3:
        # Every microbatch gathers twice and scatters once, layer by layer.
        per_pass = 2 * gather + scatter
        shown = per_pass / layers + max(0.0, per_pass * (1 - 1 / layers) - microbatch_s)
        rounds = plan.num_microbatches
        return Exchanged(rounds * shown, rounds * max(0.0, per_pass - shown))
    window = 1.0
    if plan.virtual_stages > 1:
        window = plan.pipeline * (plan.virtual_stages - 1) / plan.virtual_stages
    scatters = 1.0
    if plan.zero_stage == 2 and (plan.pipeline == 1 or plan.virtual_stages > 1):
        # Gradients leave after each round of microbatches that a chunk does in a row; a stage of
        # a single chunk sums them until the step ends.
        scatters = float(-(-plan.num_microbatches // plan.pipeline))
    shown = hidden = 0.0
    for exchange, count, room in (
        (scatter, scatters, backward_s * window),
        (gather, 1.0, forward_s * window),
    ):
        exposed = exchange / layers + max(0.0, exchange * (1 - 1 / layers) - room)
        shown += count * exposed
        hidden += count * (exchange - exposed)
    return Exchanged(shown, max(0.0, hidden))
