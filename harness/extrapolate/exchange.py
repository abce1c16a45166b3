"""What the chips of a plan send to each other for a layer of a microbatch.

Each function gives seconds, those that the computation waits for and, where some of it can hide,
those that run beside it.
"""

from typing import NamedTuple

from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.collectives import (
    Span,
    all_gather_s,
    all_reduce_s,
    all_to_all_s,
    placed,
    reduce_scatter_s,
)
from harness.extrapolate.shard_table import SIZE_BYTES
from harness.workload.model import ModelSpec
from harness.workload.step import LayerKind, Shard


class Exchanged(NamedTuple):
    """Seconds of communication that show, and those beside the computation."""

    exposed: float = 0.0
    hidden: float = 0.0


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
    model: ModelSpec,
    cluster: ClusterSpec,
    shard: Shard,
    *,
    passes: int,
    are_cut: bool = False,
    are_copies_merged: bool = True,
) -> float:
    """Tokens sent to their experts and back, forward and backward; nothing hides them.

    Where each expert is cut by tensor, its group has one chip of every tensor group, and what it
    receives is gathered over the tensor group before its products and scattered after them.

    A token whose experts share a scale-up domain enters it once where copies are merged, and is
    handed on inside; else each of its copies crosses the network.

    Source: Megatron-LM, megatron/core/transformer/moe/README.md, expert tensor parallelism;
    DeepSeek-V3 (arXiv 2412.19437) section 3.2.2, dispatch in two hops.
    """
    experts = model.experts
    if shard.expert == 1 or experts is None:
        return 0.0
    stride = shard.tensor if are_cut else 1
    group = placed(cluster, (Span(stride, shard.expert),))
    width = model.expert_hidden / model.hidden
    token_bytes = width * activation_bytes(model, shard) / shard.tensor
    sent = token_bytes * experts.num_experts_per_token
    times = 2 * passes + 2
    domains = -(-shard.expert * stride // cluster.scaleup_chips)
    if are_copies_merged and domains > 1:
        # Of D domains, each but its own is reached by one of K copies at least.
        reached = (domains - 1) * (1 - (1 - 1 / domains) ** experts.num_experts_per_token)
        # All-to-all sends the share (D - 1)/D of its bytes out of the domain.
        crossing = token_bytes * reached * domains / (domains - 1)
        inside = placed(cluster, (Span(stride, max(1, shard.expert // domains)),))
        seconds = times * max(all_to_all_s(group, crossing), all_to_all_s(inside, sent))
    else:
        seconds = times * all_to_all_s(group, sent)
    if are_cut and shard.tensor > 1:
        within = placed(cluster, (Span(1, shard.tensor),))
        seconds += times * all_gather_s(within, sent * shard.tensor)
    return seconds


def head_exchange_s(model: ModelSpec, cluster: ClusterSpec, shard: Shard) -> float:
    """The input of the output matrix gathered, and its gradient scattered."""
    if shard.tensor == 1:
        return 0.0
    group = placed(cluster, (Span(1, shard.tensor),))
    return 2 * all_gather_s(group, activation_bytes(model, shard))
