"""What a replica keeps in the memory of a chip: weights, work space, and the cache that is left.

    cache per token    L 2 k d_head bytes, or L (kv_rank + rope) bytes with latent attention
    chips that share   min(tensor, key-value heads); 1 with latent attention, which has one of each

Source: DeepSeek-V2 (arXiv 2405.04434) table 1; Kwon et al. (arXiv 2309.06180) section 4.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.extrapolate.serving.priors import CACHE_FILL, CACHE_SIGMAS, MEMORY_FOR_MODEL
from harness.extrapolate.serving.schedule import Floats
from harness.extrapolate.serving.spec import ServingSpec
from harness.serving_projection import ReplicaPlan
from harness.workload.model import ModelSpec
from harness.workload.step import LayerKind, Shard, layer_parameters_per_chip

SIZE_BYTES = {"fp8": 1, "int8": 1, "bf16": 2, "fp16": 2, "fp32": 4}
LOGIT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Layers of one stage of a pipeline."""

    num_dense: int
    num_moe: int
    is_first: bool
    is_last: bool

    @property
    def num_layers(self) -> int:
        """All of them."""
        return self.num_dense + self.num_moe


def stages(model: ModelSpec, pipeline: int) -> tuple[Stage, ...]:
    """The stages in order; where layers are left over, the first stages have one more."""
    each, over = divmod(model.num_layers, pipeline)
    found, begin = [], 0
    for index in range(pipeline):
        end = begin + each + (1 if index < over else 0)
        dense = max(0, min(end, model.num_dense_layers) - begin)
        found.append(
            Stage(
                num_dense=dense,
                num_moe=end - begin - dense,
                is_first=index == 0,
                is_last=index == pipeline - 1,
            )
        )
        begin = end
    return tuple(found)


def cache_bytes_per_token(model: ModelSpec, cache_dtype: str) -> float:
    """Keys and values of one token in all layers."""
    (whole,) = stages(model, 1)
    layers = _attention_layers(model, whole)
    return float(layers * model.kv_elements_per_token * SIZE_BYTES[cache_dtype])


def cache_shares(model: ModelSpec, tensor: int) -> int:
    """Chips of a tensor group among which the cache of a sequence is shared."""
    return 1 if model.latent_attention is not None else min(tensor, model.num_kv_heads)


def weight_bytes(model: ModelSpec, plan: ReplicaPlan, stage: Stage, spec: ServingSpec) -> float:
    """Weights on one chip of a stage, in bytes.

    Matrices of layers are in their own type; norms, router and tables in that of the model. Where
    experts do not divide evenly, the fullest chip has one more.
    """
    size, narrow = SIZE_BYTES[spec.dtype], SIZE_BYTES[spec.weight_dtype or spec.dtype]
    shard = Shard(tensor=plan.tensor)
    total: float = 0.0
    if stage.num_dense:
        held = layer_parameters_per_chip(model, shard, LayerKind.DENSE)[0]
        wide = model.vector_parameters(has_experts=False)
        total += stage.num_dense * (narrow * (held - wide) + size * wide)
    experts = model.experts
    if stage.num_moe and experts is not None:
        held = layer_parameters_per_chip(model, shard, LayerKind.MOE)[0]
        wide = model.vector_parameters(has_experts=True) + model.hidden * experts.num_experts
        own = -(-experts.num_experts // plan.expert) * model.expert_parameters
        total += stage.num_moe * (narrow * (held - wide + own) + size * wide)
    if stage.is_first:
        total += size * model.embedding_parameters / plan.tensor
    if stage.is_last and not (stage.is_first and model.is_embedding_tied):
        total += size * model.vocab * model.hidden / plan.tensor
    return total


def work_bytes(model: ModelSpec, plan: ReplicaPlan, spec: ServingSpec, num_tokens: int) -> float:
    """Activations of the widest layer for so many tokens at once, and the logits of a batch.

    The residual stream twice, the network's width thrice, and each token once per expert it goes
    to, there and back.
    """
    size = SIZE_BYTES[spec.dtype]
    elements: float = 4 * model.hidden + 3 * model.ffn / plan.tensor
    if model.experts is not None:
        rows = model.experts.num_experts_per_token / plan.tensor
        elements += rows * (2 * model.hidden + 3 * model.experts.expert_ffn)
    return num_tokens * elements * size


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRoom:
    """A chip of one stage of an attention group."""

    weights: float
    """Bytes."""
    free: float
    """Bytes beside weights and work space; negative where those do not fit."""
    bytes_per_token: float
    bytes_per_sequence: float
    """Of state spaces, whose size does not grow with the sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRoom:
    """The cache of one attention group and what its sequences take of it."""

    stages: tuple[StageRoom, ...]
    work: float
    """Bytes of work space."""
    limit: float
    """Bytes that the model may have."""

    @property
    def capacity_tokens(self) -> float:
        """Tokens of sequences without a state that fit; negative where the weights do not."""
        return min(
            (room.free / room.bytes_per_token for room in self.stages if room.bytes_per_token),
            default=np.inf,
        )

    def holds(self, tokens: Floats, sequences: Floats) -> NDArray[np.bool_]:
        """[choice] whether so many sequences with so many tokens together fit every stage."""
        found = np.ones(np.shape(tokens), dtype=bool)
        for room in self.stages:
            kept = tokens * room.bytes_per_token + sequences * room.bytes_per_sequence
            found &= kept <= room.free
        return found

    @property
    def parts(self) -> tuple[tuple[str, float], ...]:
        """Bytes by name on the chip with least room, as they fill the limit."""
        tightest = min(self.stages, key=lambda room: room.free)
        cache = max(0.0, tightest.free)
        return (("weights", tightest.weights), ("work space", self.work), ("cache", cache))


def cache_room(
    model: ModelSpec,
    plan: ReplicaPlan,
    spec: ServingSpec,
    memory_bytes: float,
    num_tokens: int,
    num_logits: int = 0,
) -> CacheRoom:
    """What is left for the cache beside the weights and the work space of so many tokens.

    `num_logits` are the sequences whose next token is drawn at once.
    """
    limit = memory_bytes * MEMORY_FOR_MODEL.value
    work = work_bytes(model, plan, spec, num_tokens)
    work += num_logits * model.vocab / plan.tensor * LOGIT_BYTES
    size = SIZE_BYTES[spec.cache_dtype or spec.dtype]
    per_layer = size * model.kv_elements_per_token / CACHE_FILL.value
    per_layer /= cache_shares(model, plan.tensor)
    found = []
    for stage in stages(model, plan.pipeline):
        weights = weight_bytes(model, plan, stage, spec)
        found.append(
            StageRoom(
                weights=weights,
                free=limit - weights - work,
                bytes_per_token=_attention_layers(model, stage) * per_layer,
                bytes_per_sequence=stage.num_moe * _state_bytes(model, plan, spec),
            )
        )
    return CacheRoom(stages=tuple(found), work=work, limit=limit)


def _attention_layers(model: ModelSpec, stage: Stage) -> int:
    """Layers that keep keys and values; those with experts have a state where the model has one."""
    return stage.num_layers if model.state_space is None else stage.num_dense


def _state_bytes(model: ModelSpec, plan: ReplicaPlan, spec: ServingSpec) -> float:
    """State of one sequence in one layer: that of every channel, and what the convolution sees.

    Source: Dao and Gu (arXiv 2405.21060) section 7.
    """
    space = model.state_space
    if space is None:
        return 0.0
    elements = space.width * space.state + space.convolution * space.convolved
    return SIZE_BYTES[spec.dtype] * elements / plan.tensor


def cached_tokens(spec: ServingSpec, num_sequences: Floats) -> Floats:
    """Tokens that so many sequences keep, but for 5 % of the moments.

    Each is at a random place of its output, so a length has the mean s_in + s_out / 2 and the
    deviation s_out / sqrt(12); those of a sum of many are the usual ones.
    """
    mean = spec.input_tokens + spec.output_tokens / 2
    deviation = spec.output_tokens / np.sqrt(12)
    most = num_sequences * (spec.input_tokens + spec.output_tokens)
    likely = num_sequences * mean + CACHE_SIGMAS * deviation * np.sqrt(num_sequences)
    kept: Floats = np.minimum(most, likely)
    return kept
