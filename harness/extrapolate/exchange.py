"""What the chips of a plan send to each other for a layer of a microbatch.

Each function gives seconds, those that the computation waits for and, where some of it can hide,
those that run beside it.
"""

from typing import NamedTuple

import numpy as np

from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.collectives import (
    Span,
    all_gather_s,
    all_reduce_s,
    all_to_all_s,
    placed,
    point_to_point_s,
    reduce_scatter_s,
)
from harness.extrapolate.shard_table import SIZE_BYTES
from harness.workload.model import ModelSpec
from harness.workload.step import LayerKind, Shard, chip_load


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


def context_exchange(
    model: ModelSpec,
    cluster: ClusterSpec,
    shard: Shard,
    form: str,
    *,
    passes: int,
    attention_s: float,
) -> Exchanged:
    """What the chips of a sequence send for a layer, `passes` times forward and once backward.

    Args:
        model: whose layer it is.
        cluster: its networks.
        shard: the part of model and batch of a chip.
        form: one of CONTEXT_EXCHANGES.
        passes: forward passes, recomputation included.
        attention_s: forward time of the attention core on a chip, behind which a ring hides.
    """
    if shard.context == 1:
        return Exchanged()
    if form == "ring":
        return _ring(model, cluster, shard, passes=passes, attention_s=attention_s)
    seconds = _all_to_all_s if form == "all_to_all" else _gathered_s
    return Exchanged(seconds(model, cluster, shard, passes=passes))


def _gathered_s(model: ModelSpec, cluster: ClusterSpec, shard: Shard, *, passes: int) -> float:
    """Keys and values gathered over the context group, and their gradients scattered.

    Source: Llama 3 (arXiv 2407.21783) section 3.3.2, all-gather based context parallelism.
    """
    group = placed(cluster, (Span(shard.tensor, shard.context),))
    num_bytes = _kv_bytes(model, shard)
    gathers = passes + 1
    return gathers * all_gather_s(group, num_bytes) + reduce_scatter_s(group, num_bytes)


def _ring(
    model: ModelSpec, cluster: ClusterSpec, shard: Shard, *, passes: int, attention_s: float
) -> Exchanged:
    """Blocks of keys and values handed on in a ring, each behind the attention to the last one.

    Of `c` blocks `c - 1` are sent; backward their gradients go with them. What a block takes longer
    than attention to it shows. Attention to a block takes twice as long backward, in which it has
    twice the products.

    Source: Liu et al., Ring Attention (arXiv 2310.01889) section 3.
    """
    chips = shard.context
    # Chips in a row; where they fill several domains the slowest hop is the one back to the first.
    is_inside = shard.tensor * chips <= cluster.scaleup_chips
    stride = shard.tensor if is_inside else shard.tensor * (chips - 1)
    block_bytes = _kv_bytes(model, shard) / chips
    block_s = attention_s / chips
    forward = point_to_point_s(cluster, stride, block_bytes)
    backward = point_to_point_s(cluster, stride, 2 * block_bytes)
    exposed = passes * np.maximum(0.0, forward - block_s)
    exposed = (chips - 1) * (exposed + np.maximum(0.0, backward - 2 * block_s))
    return Exchanged(exposed, (chips - 1) * (passes * forward + backward) - exposed)


def _all_to_all_s(model: ModelSpec, cluster: ClusterSpec, shard: Shard, *, passes: int) -> float:
    """Each chip of the sequence has all its tokens for a part of the heads during attention.

    Queries, keys and values are exchanged before and the result after, and their gradients so
    backward: 4 times each, (s/c) b h elements where keys have as many heads as queries.

    Source: Jacobs et al., DeepSpeed Ulysses (arXiv 2309.14509) section 3.2.
    """
    group = placed(cluster, (Span(shard.tensor, shard.context),))
    tokens = shard.microbatch_size * shard.sequence_length / shard.context
    heads = model.num_heads // shard.tensor
    kv_heads = kv_heads_of(model, shard.tensor)
    once = sum(
        all_to_all_s(group, tokens * width * SIZE_BYTES[shard.dtype])
        for width in (
            heads * model.query_key_dim,
            kv_heads * model.query_key_dim,
            kv_heads * model.value_dim,
            heads * model.value_dim,
        )
    )
    return (passes + 1) * once


def kv_heads_of(model: ModelSpec, tensor: int) -> int:
    """Key-value heads of each chip of a tensor group."""
    return max(1, model.num_kv_heads // tensor)


def heads_fit(model: ModelSpec, tensor: int, context: int) -> bool:
    """The key-value heads of a chip of the tensor group divide over the chips of a sequence.

    Source: Jacobs et al., DeepSpeed Ulysses (arXiv 2309.14509) section 3.2; heads that several
    chips would share are not modelled.
    """
    return kv_heads_of(model, tensor) % context == 0


def _kv_bytes(model: ModelSpec, shard: Shard) -> float:
    """Keys and values of a microbatch's whole sequences, those of one tensor chip."""
    tokens = shard.microbatch_size * shard.sequence_length
    width = kv_heads_of(model, shard.tensor) * (model.query_key_dim + model.value_dim)
    return float(tokens * width * SIZE_BYTES[shard.dtype])


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
    # The chip whose experts have most tokens receives and returns more than others send.
    token_bytes *= chip_load(model, shard)
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
