"""What the chips of many plans hold of the model: parameters and activations by distinct shard."""

from dataclasses import dataclass, replace

import numpy as np

from harness.extrapolate.distinct import distinct
from harness.extrapolate.plans import Bools, Floats, Ints, PlanTable
from harness.workload.model import ModelSpec
from harness.workload.step import (
    LayerKind,
    Shard,
    chip_load,
    layer_parameters_per_chip,
    prediction_parameters_per_chip,
)

LOG_SUM_EXP_BYTES = 4
SIZE_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTable:
    """Counts of each distinct shard; all but `index` have shape (S,)."""

    shards: tuple[Shard, ...]
    index: Ints
    """The shard of each plan, shape (N,)."""
    dense_parameters: Floats
    """Of a dense layer, per chip."""
    moe_parameters: Floats
    """Of a layer with experts, per chip, all but its experts."""
    expert_parameters: Floats
    """Of the chip's own experts of a layer."""
    prediction_parameters: Floats
    """Of the modules that predict further tokens, on the last stage, all but their experts."""
    prediction_expert_parameters: Floats
    dense_activation_bytes: Floats
    """What a dense layer keeps of a microbatch for its backward pass, per chip."""
    moe_activation_bytes: Floats
    input_bytes: Floats
    """The hidden states of a microbatch, those of one chip."""
    tokens: Floats
    """Of a microbatch, those of one tensor group."""

    @classmethod
    def of(cls, model: ModelSpec, plans: PlanTable, like: Shard) -> "ShardTable":
        """The shards of the plans; `like` has all of a shard that a plan does not say."""
        columns = (plans.tensor, plans.expert, plans.context, plans.microbatch_size)
        alike = distinct(*columns)
        shards = tuple(
            replace(like, tensor=int(t), expert=int(e), context=int(c), microbatch_size=int(b))
            for t, e, c, b in zip(*(column[alike.first] for column in columns), strict=True)
        )
        dense = [_parameters(model, shard, LayerKind.DENSE) for shard in shards]
        moe = [_parameters(model, shard, LayerKind.MOE) for shard in shards]
        further = [
            prediction_parameters_per_chip(model, shard) if model.num_prediction_modules else (0, 0)
            for shard in shards
        ]
        tensor = np.array([shard.tensor for shard in shards], dtype=np.float64)
        tokens = np.array(
            [one.microbatch_size * one.sequence_length / one.context for one in shards]
        )
        sizes = [SIZE_BYTES[shard.dtype] for shard in shards]
        kept = {
            kind: np.array(
                [
                    activation_bytes_per_token(model, kind, size, chip_load(model, shard))
                    for size, shard in zip(sizes, shards, strict=True)
                ]
            )
            if count
            else np.zeros(len(shards))
            for kind, count in (
                (LayerKind.DENSE, model.num_dense_layers),
                (LayerKind.MOE, model.num_moe_layers),
            )
        }
        return cls(
            shards=shards,
            index=alike.group,
            dense_parameters=np.array([shared for shared, _ in dense], dtype=np.float64),
            moe_parameters=np.array([shared for shared, _ in moe], dtype=np.float64),
            expert_parameters=np.array([own for _, own in moe], dtype=np.float64),
            prediction_parameters=np.array([shared for shared, _ in further], dtype=np.float64),
            prediction_expert_parameters=np.array([own for _, own in further], dtype=np.float64),
            dense_activation_bytes=kept[LayerKind.DENSE] * tokens / tensor,
            moe_activation_bytes=kept[LayerKind.MOE] * tokens / tensor,
            input_bytes=np.array(sizes, dtype=np.float64) * model.hidden * tokens / tensor,
            tokens=tokens,
        )

    def rows(self, which: slice | Ints | Bools) -> "ShardTable":
        """The same shards, of those plans alone."""
        return replace(self, index=self.index[which])


def _parameters(model: ModelSpec, shard: Shard, kind: LayerKind) -> tuple[int, int]:
    counts = {LayerKind.DENSE: model.num_dense_layers, LayerKind.MOE: model.num_moe_layers}
    has_kind = counts[kind]
    return layer_parameters_per_chip(model, shard, kind) if has_kind else (0, 0)


def activation_bytes_per_token(
    model: ModelSpec, kind: LayerKind, size: int, load: float = 1.0
) -> float:
    """What one layer keeps per token for its backward pass, over all tensor-parallel chips.

    `load` is that of the experts of a chip over the mean.
    """
    heads, kv_heads = model.num_heads, model.num_kv_heads
    query, value = model.query_key_dim, model.value_dim
    latent = model.latent_attention
    elements: float = 4 * model.hidden + heads * (query + value)
    space = model.state_space if kind is LayerKind.MOE else None
    if space is not None:
        # What is projected, what is convolved, and the channels before and after their norm.
        heads = 0
        elements = 4 * model.hidden + space.projected + space.convolved + 2 * space.width
    elif latent is None:
        elements += kv_heads * (query + value)
    else:
        # The compressed projections are kept before and after their norms.
        elements += heads * (query + value)
        elements += 2 * (latent.q_lora_rank + latent.kv_lora_rank) + latent.qk_rope_head_dim
    if model.has_qk_norm:
        elements += (heads + kv_heads) * query
    per_width = 3 if model.is_ffn_gated else 2
    if kind is LayerKind.DENSE:
        elements += per_width * model.ffn
    else:
        experts = model.experts
        assert experts is not None
        routed = load * experts.num_experts_per_token
        elements += routed * (2 * model.expert_hidden + per_width * experts.expert_ffn)
        elements += experts.num_shared_experts * per_width * experts.expert_ffn
    return size * elements + LOG_SUM_EXP_BYTES * heads
