"""What a plan keeps in the memory of its fullest chip, by part.

Bytes per parameter: 2 for the weights, 4 for the gradients summed in fp32, 12 for Adam's master
copy and two moments; ZeRO 1 shares the moments over the data-parallel group, 2 the gradients too,
3 the weights too.

Source: Rajbhandari et al., ZeRO (SC20, arXiv 1910.02054) section 3; activations as counted by
Korthikanti et al. (MLSys 2023, arXiv 2205.05198) section 4, with grouped heads, gated networks and
attention that keeps no scores.
"""

import math
from dataclasses import dataclass

from harness.extrapolate.pipeline import layers_in_flight, stage_layers
from harness.extrapolate.priors import CONTEXT_BYTES, FRAGMENTATION
from harness.projection import PlanChoice
from harness.workload.model import ModelSpec
from harness.workload.step import LayerKind, Shard, layer_parameters_per_chip

GRADIENT_BYTES = 4
OPTIMIZER_BYTES = 12
LOG_SUM_EXP_BYTES = 4
LOSS_BYTES = 4
"""Of a logit, beside its own type: the loss is taken in fp32."""
SIZE_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class StageParameters:
    """Parameters that one chip of a stage holds."""

    shared: float
    """Of attention, norms, dense networks and tables: equal on all chips of the data group."""
    experts: float
    """Of the chip's own experts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Bytes by part, of the chip that holds most."""

    parts: tuple[tuple[str, float], ...]

    @property
    def total_bytes(self) -> float:
        """All parts together."""
        return sum(num_bytes for _, num_bytes in self.parts)


def shard_of(plan: PlanChoice, sequence_length: int, dtype: str) -> Shard:
    """The part of the model and batch that one chip of the plan works on."""
    return Shard(
        tensor=plan.tensor,
        expert=plan.expert,
        context=plan.context,
        microbatch_size=plan.microbatch_size,
        sequence_length=sequence_length,
        dtype=dtype,
    )


def layer_counts(model: ModelSpec, pipeline: int) -> tuple[tuple[int, int], ...]:
    """Dense layers and layers with experts of the first, an inner and the last stage."""
    inner, first, last = stage_layers(model.num_layers, pipeline)
    if pipeline == 1:
        whole = (model.num_dense_layers, model.num_moe_layers)
        return (whole, whole, whole)
    if not model.num_moe_layers:
        return ((first, 0), (inner, 0), (last, 0))
    dense = min(first, model.num_dense_layers)
    return ((dense, first - dense), (0, inner), (0, last))


def stage_parameters(model: ModelSpec, shard: Shard, pipeline: int) -> tuple[StageParameters, ...]:
    """Parameters per chip of the first, an inner and the last stage."""
    dense = layer_parameters_per_chip(model, shard, LayerKind.DENSE)[0] if model.ffn else 0
    moe = layer_parameters_per_chip(model, shard, LayerKind.MOE) if model.experts else (0, 0)
    embedding = model.embedding_parameters / shard.tensor
    head = model.vocab * model.hidden / shard.tensor
    found = []
    for index, (num_dense, num_moe) in enumerate(layer_counts(model, pipeline)):
        shared = float(num_dense * dense + num_moe * moe[0])
        if pipeline == 1:
            shared += embedding + model.head_parameters / shard.tensor + model.hidden
        else:
            shared += (embedding, 0.0, head + model.hidden)[index]
        found.append(StageParameters(shared=shared, experts=float(num_moe * moe[1])))
    return tuple(found)


def activation_bytes_per_token(model: ModelSpec, kind: LayerKind, size: int) -> float:
    """What one layer keeps per token for its backward pass, over all tensor-parallel chips."""
    heads, kv_heads = model.num_heads, model.num_kv_heads
    query, value = model.query_key_dim, model.value_dim
    latent = model.latent_attention
    elements = 4 * model.hidden + heads * (query + value)
    if latent is None:
        elements += kv_heads * (query + value)
    else:
        elements += heads * (query + value)
        elements += latent.q_lora_rank + latent.kv_lora_rank + latent.qk_rope_head_dim
    per_width = 3 if model.is_ffn_gated else 2
    if kind is LayerKind.DENSE:
        elements += per_width * model.ffn
    else:
        experts = model.experts
        assert experts is not None
        routed = experts.num_experts_per_token
        elements += routed * (2 * model.hidden + per_width * experts.expert_ffn)
        elements += experts.num_shared_experts * per_width * experts.expert_ffn
    return size * elements + LOG_SUM_EXP_BYTES * heads


def memory_use(model: ModelSpec, plan: PlanChoice, sequence_length: int, dtype: str) -> MemoryUse:
    """Bytes per chip of the fuller of the first and the last stage."""
    shard = shard_of(plan, sequence_length, dtype)
    stages = stage_parameters(model, shard, plan.pipeline)
    counts = layer_counts(model, plan.pipeline)
    first = _stage(model, plan, shard, stages[0], counts[0], is_first=True)
    if plan.pipeline == 1:
        return first
    last = _stage(model, plan, shard, stages[2], counts[2], is_first=False)
    return max(first, last, key=lambda use: use.total_bytes)


def _stage(
    model: ModelSpec,
    plan: PlanChoice,
    shard: Shard,
    held: StageParameters,
    counts: tuple[int, int],
    *,
    is_first: bool,
) -> MemoryUse:
    size = SIZE_BYTES[shard.dtype]
    chips = plan.data * plan.context
    expert_chips = max(1.0, chips * plan.tensor / plan.expert)
    stage = plan.zero_stage

    def shared(least_stage: int) -> float:
        """Parameters whose state of that kind stays on the chip."""
        if stage < least_stage:
            return held.shared + held.experts
        return held.shared / chips + held.experts / expert_chips

    num_layers = sum(counts)
    weights = size * shared(3)
    gradients = GRADIENT_BYTES * shared(2)
    whole = held.shared + held.experts
    if stage == 2 and chips > 1:
        # The chunk that is being summed is whole until its round of microbatches ends.
        gradients += GRADIENT_BYTES * whole / max(plan.virtual_stages, 2)
    if stage == 3:
        # This layer and the next one, gathered, with the gradients of one.
        weights += (2 * size + GRADIENT_BYTES) * whole / max(1, num_layers)
    tokens = shard.microbatch_size * shard.sequence_length / plan.context
    in_flight = 1.0
    if is_first:
        in_flight = layers_in_flight(
            1,
            pipeline=plan.pipeline,
            virtual_stages=plan.virtual_stages,
            num_microbatches=plan.num_microbatches,
        )
    kept = 0.0
    largest = 0.0
    for kind, count in zip((LayerKind.DENSE, LayerKind.MOE), counts, strict=True):
        if count:
            layer = activation_bytes_per_token(model, kind, size) * tokens / plan.tensor
            largest = max(largest, layer)
            kept += count * layer
    if plan.recompute == "full":
        kept = num_layers * size * model.hidden * tokens / plan.tensor
    else:
        largest = 0.0
    activations = kept * in_flight + largest
    logits = 0.0
    if plan.pipeline == 1 or not is_first:
        logits = tokens * model.vocab / plan.tensor * (LOSS_BYTES + size)
    tensors = (
        ("weights", weights),
        ("gradients", gradients),
        ("optimizer", OPTIMIZER_BYTES * shared(1)),
        ("activations", activations),
        ("logits", logits),
    )
    lost = FRAGMENTATION * math.fsum(num_bytes for _, num_bytes in tensors)
    return MemoryUse(
        parts=(*tensors, ("fragmentation", lost), ("buffers and driver", float(CONTEXT_BYTES)))
    )
