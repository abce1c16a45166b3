"""What a plan keeps in the memory of its fullest chip, by part.

Bytes per parameter: 2 for the weights, 4 for the gradients summed in fp32, 12 for Adam's master
copy and two moments; ZeRO 1 shares the moments over the data-parallel group, 2 the gradients too,
3 the weights too.

Source: Rajbhandari et al., ZeRO (SC20, arXiv 1910.02054) section 3; activations as counted by
Korthikanti et al. (MLSys 2023, arXiv 2205.05198) section 4, with grouped heads, gated networks and
attention that keeps no scores.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.extrapolate.pipeline import PLAIN, StageKind, layers_in_flight, stage_kinds
from harness.extrapolate.priors import CONTEXT_BYTES, FRAGMENTATION
from harness.extrapolate.schedule import schedule_of
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


def stages_of(
    model: ModelSpec,
    pipeline: int,
    virtual_stages: int,
    schedule: str = PLAIN,
    layers_per_stage: tuple[int, ...] = (),
) -> tuple[StageKind, ...]:
    """The stages of the model's pipeline, by kind."""
    # Chunks in turn matter only where the leading layers are unlike the others.
    is_mixed = model.num_moe_layers and model.num_dense_layers
    has_chunks = is_mixed or schedule != PLAIN or layers_per_stage
    chunks = virtual_stages if has_chunks else 1
    return stage_kinds(
        model.num_layers, model.num_dense_layers, pipeline, chunks, schedule, layers_per_stage
    )


def stage_parameters(
    model: ModelSpec, shard: Shard, stages: Sequence[StageKind]
) -> tuple[StageParameters, ...]:
    """Parameters per chip of each kind of stage; a tied table is on the first and the last."""
    dense = layer_parameters_per_chip(model, shard, LayerKind.DENSE)[0] if model.ffn else 0
    moe = layer_parameters_per_chip(model, shard, LayerKind.MOE) if model.experts else (0, 0)
    found = []
    for stage in stages:
        shared = float(stage.num_dense * dense + stage.num_moe * moe[0])
        if stage.is_first:
            shared += model.embedding_parameters / shard.tensor
        if stage.is_last:
            head = model.head_parameters if stage.is_first else model.vocab * model.hidden
            shared += head / shard.tensor + model.final_norm_parameters
        found.append(StageParameters(shared=shared, experts=float(stage.num_moe * moe[1])))
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
        routed = experts.num_experts_per_token
        elements += routed * (2 * model.hidden + per_width * experts.expert_ffn)
        elements += experts.num_shared_experts * per_width * experts.expert_ffn
    return size * elements + LOG_SUM_EXP_BYTES * heads


def memory_use(
    model: ModelSpec,
    plan: PlanChoice,
    sequence_length: int,
    dtype: str,
    limit_bytes: float = math.inf,
) -> MemoryUse:
    """Bytes per chip of the fullest stage, or of the first one found beyond the limit."""
    fullest, most = None, -math.inf
    for _, use in memory_by_stage(model, plan, sequence_length, dtype):
        total = use.total_bytes
        if total > most:
            fullest, most = use, total
        if most > limit_bytes:
            break
    assert fullest is not None, "a pipeline has a stage"
    return fullest


def memory_by_stage(
    model: ModelSpec, plan: PlanChoice, sequence_length: int, dtype: str
) -> Iterator[tuple[StageKind, MemoryUse]]:
    """Bytes per chip of each kind of stage, at its fullest position."""
    shard = shard_of(plan, sequence_length, dtype)
    stages = stages_of(
        model, plan.pipeline, plan.virtual_stages, plan.schedule, plan.layers_per_stage
    )
    held = stage_parameters(model, shard, stages)
    size = SIZE_BYTES[dtype]
    tokens = shard.microbatch_size * shard.sequence_length / plan.context
    layers = tuple(
        activation_bytes_per_token(model, kind, size) * tokens / plan.tensor if count else 0.0
        for kind, count in (
            (LayerKind.DENSE, model.num_dense_layers),
            (LayerKind.MOE, model.num_moe_layers),
        )
    )
    for stage, of_stage in zip(stages, held, strict=True):
        yield stage, _stage(model, plan, shard, of_stage, stage, layers)


def whole_gradient_share(plan: PlanChoice, num_layers: int) -> float:
    """Share of a stage's gradients that ZeRO 2 keeps whole: what is summed and what is leaving.

    Without a pipeline a layer's gradients leave in each microbatch. In a pipeline those of a chunk
    leave when its round of microbatches ends, while those of the next chunk are being summed; a
    stage of a single chunk sums all of them until the step ends.

    Source: Llama 3 (arXiv 2407.21783) section 3.3.2; Megatron-LM, overlap_grad_reduce.
    """
    if plan.pipeline == 1:
        return min(1.0, 2 / num_layers)
    return min(1.0, 2 / plan.virtual_stages)


def _stage(
    model: ModelSpec,
    plan: PlanChoice,
    shard: Shard,
    held: StageParameters,
    stage: StageKind,
    layers: tuple[float, ...],
) -> MemoryUse:
    """Bytes of one stage; `layers` are the activations of a dense layer and of one with experts."""
    size = SIZE_BYTES[shard.dtype]
    schedule = schedule_of(plan.schedule, plan.virtual_stages)
    chips = plan.data * plan.context * schedule.parameter_copies
    expert_chips = max(1.0, chips * plan.tensor / plan.expert)

    def kept_parameters(least_stage: int) -> float:
        """Parameters whose state of that kind stays on the chip."""
        if plan.zero_stage < least_stage:
            return held.shared + held.experts
        return held.shared / chips + held.experts / expert_chips

    num_layers = stage.num_layers
    weights = size * kept_parameters(3)
    whole = held.shared + held.experts
    gradients = GRADIENT_BYTES * kept_parameters(2)
    if plan.zero_stage == 2:
        share = whole_gradient_share(plan, num_layers)
        gradients = share * GRADIENT_BYTES * whole + (1 - share) * gradients
    if plan.zero_stage == 3:
        # This layer and the next one, gathered, with the gradients of one.
        weights += (2 * size + GRADIENT_BYTES) * whole / max(1, num_layers)
    tokens = shard.microbatch_size * shard.sequence_length / plan.context
    in_flight = layers_in_flight(
        1,
        pipeline=plan.pipeline,
        virtual_stages=plan.virtual_stages,
        num_microbatches=plan.num_microbatches,
        stage=stage.position,
        schedule=plan.schedule,
    )
    dense, moe = layers
    kept, working = stage.num_dense * dense + stage.num_moe * moe, 0.0
    if plan.recompute == "full":
        # Each layer keeps its input; the one that is computed again has all the rest.
        kept = num_layers * size * model.hidden * tokens / plan.tensor
        working = max(dense if stage.num_dense else 0.0, moe if stage.num_moe else 0.0)
    activations = kept * stage.microbatch_share * in_flight + working
    logits = 0.0
    if stage.is_last:
        logits = tokens * model.vocab / plan.tensor * (LOSS_BYTES + size)
    tensors = (
        ("weights", weights),
        ("gradients", gradients),
        ("optimizer", OPTIMIZER_BYTES * kept_parameters(1)),
        ("activations", activations),
        ("logits", logits),
    )
    lost = FRAGMENTATION * math.fsum(num_bytes for _, num_bytes in tensors)
    return MemoryUse(
        parts=(*tensors, ("fragmentation", lost), ("buffers and driver", float(CONTEXT_BYTES)))
    )
