"""What plans keep in the memory of their fullest chip, by part.

Bytes per parameter: 2 for the weights, 4 for the gradients summed in fp32, 12 for Adam's master
copy and two moments; ZeRO 1 shares the moments over the data-parallel group, 2 the gradients too,
3 the weights too. Hybrid sharding shares them over a part of the group.

Source: Rajbhandari et al., ZeRO (SC20, arXiv 1910.02054) section 3; activations as counted by
Korthikanti et al. (MLSys 2023, arXiv 2205.05198) section 4, with grouped heads, gated networks and
attention that keeps no scores.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from harness.device.chip import ChipSpec
from harness.errors import ConfigError
from harness.extrapolate.plans import RECOMPUTES, Bools, Floats, Ints, PlanTable
from harness.extrapolate.rates import PRIOR_RATES, PlanRates
from harness.extrapolate.schedule import SCHEDULES, microbatches_held
from harness.extrapolate.shard_table import SIZE_BYTES, ShardTable
from harness.extrapolate.stage_table import StageColumns, StageTable
from harness.projection import PlanChoice
from harness.workload.model import ModelSpec
from harness.workload.step import Shard

GRADIENT_BYTES = 4
OPTIMIZER_BYTES = 12
LOSS_BYTES = 4
"""Of a logit, beside its own type: the loss is taken in fp32."""
FULL = RECOMPUTES.index("full")
PARAMETER_COPIES = np.array([schedule.parameter_copies for schedule in SCHEDULES])
"""Devices that hold the same stage, by the code of the schedule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Bytes by part, of the chip that holds most."""

    parts: tuple[tuple[str, float], ...]

    @property
    def total_bytes(self) -> float:
        """All parts together."""
        return sum(num_bytes for _, num_bytes in self.parts)


def memory_limit(chip: ChipSpec, device_memory_bytes: float | None) -> float:
    """The smaller of the data sheet's memory and the device's own, or the one that is known.

    Raises:
        ConfigError: when neither is known.
    """
    known = [size for size in (chip.memory_bytes, device_memory_bytes) if size]
    if not known:
        raise ConfigError(
            f"chip.memory_gib: that of {chip.name} is n/a, so no plan can be checked. "
            f"Write it into configs/chip/{chip.name}.yaml, or measure the chip (`chipscale run`)."
        )
    return min(known)


class StageParameters(NamedTuple):
    """Parameters that one chip of a stage holds."""

    shared: Floats
    """Of attention, norms, dense networks and tables: equal on all chips of the data group."""
    experts: Floats
    """Of the chip's own experts."""

    @property
    def whole(self) -> Floats:
        """All of them."""
        return self.shared + self.experts

    def shared_out(self, plans: PlanTable) -> Floats:
        """A chip's share of them when the data-parallel group, or a part of it, splits them up."""
        copies: Ints = PARAMETER_COPIES.take(plans.schedule)
        whole = plans.data * plans.context * copies
        chips = np.where(plans.shard_group > 0, plans.shard_group, whole)
        expert_chips = np.maximum(1.0, chips * plans.tensor / plans.expert)
        return self.shared / chips + self.experts / expert_chips


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCounts:
    """Plans of a model with their distinct shards and stages: all that counting needs."""

    model: ModelSpec
    dtype: str
    plans: PlanTable
    shards: ShardTable
    stages: StageTable

    @classmethod
    def of(cls, model: ModelSpec, plans: PlanTable, like: Shard) -> "PlanCounts":
        """The counts of the plans; `like` has all of a shard that a plan does not say."""
        return cls(
            model=model,
            dtype=like.dtype,
            plans=plans,
            shards=ShardTable.of(model, plans, like),
            stages=StageTable.of(model, plans),
        )

    def rows(self, which: slice | Ints | Bools) -> "PlanCounts":
        """Those plans alone."""
        return replace(
            self,
            plans=self.plans.rows(which),
            shards=self.shards.rows(which),
            stages=self.stages.rows(which),
        )


def stage_parameters(counts: PlanCounts, stage: StageColumns) -> StageParameters:
    """Parameters per chip of a kind of stage; a tied table is on the first and the last."""
    model, shards, tensor = counts.model, counts.shards, counts.plans.tensor
    shared = stage.num_dense * shards.dense_parameters.take(shards.index)
    if model.num_moe_layers:
        shared += stage.num_moe * shards.moe_parameters.take(shards.index)
        experts = stage.num_moe * shards.expert_parameters.take(shards.index)
    else:
        experts = np.zeros_like(shared)
    head = np.where(stage.is_first == 1, model.head_parameters, model.vocab * model.hidden)
    ends = stage.is_first * model.embedding_parameters + stage.is_last * head
    shared += ends / tensor + stage.is_last * model.final_norm_parameters
    if model.num_prediction_modules:
        shared += stage.is_last * shards.prediction_parameters.take(shards.index)
        experts = experts + stage.is_last * shards.prediction_expert_parameters.take(shards.index)
    return StageParameters(shared, experts)


def fullest_parameters(counts: PlanCounts) -> StageParameters:
    """Parameters per chip of the stage that holds most."""
    shared, experts = np.array(-np.inf), np.array(0.0)
    for stage in counts.stages.kinds():
        held = stage_parameters(counts, stage)
        is_fuller = held.whole > shared + experts
        shared = np.where(is_fuller, held.shared, shared)
        experts = np.where(is_fuller, held.experts, experts)
    return StageParameters(shared, experts)


def whole_gradient_share(plans: PlanTable, num_layers: Floats) -> Floats:
    """Share of a stage's gradients that ZeRO 2 keeps whole: what is summed and what is leaving.

    Without a pipeline a layer's gradients leave in each microbatch. In a pipeline those of a chunk
    leave when its round of microbatches ends, while those of the next chunk are being summed; a
    stage of a single chunk sums all of them until the step ends.

    Source: Llama 3 (arXiv 2407.21783) section 3.3.2; Megatron-LM, overlap_grad_reduce.
    """
    parts = np.where(plans.pipeline == 1, num_layers, plans.virtual_stages)
    return np.minimum(1.0, 2 / parts)


def stage_bytes(
    counts: PlanCounts, rates: PlanRates = PRIOR_RATES
) -> Iterator[tuple[StageColumns, tuple[tuple[str, Floats], ...]]]:
    """Bytes by part of each kind of stage, at its fullest position; one value for each plan."""
    model, plans, shards = counts.model, counts.plans, counts.shards
    size = SIZE_BYTES[counts.dtype]
    tokens = shards.tokens.take(shards.index)
    dense = shards.dense_activation_bytes.take(shards.index)
    moe = shards.moe_activation_bytes.take(shards.index)
    inputs = shards.input_bytes.take(shards.index)
    logits = tokens * model.vocab / plans.tensor * (LOSS_BYTES + size)
    is_full, zero = plans.recompute == FULL, plans.zero_stage
    pipeline, virtual_stages, num_microbatches = (
        column.astype(np.float64)
        for column in (plans.pipeline, plans.virtual_stages, plans.num_microbatches)
    )
    for stage in counts.stages.kinds():
        held = stage_parameters(counts, stage)
        whole, own = held.whole, held.shared_out(plans)
        num_layers = stage.num_layers
        weights = size * np.where(zero >= 3, own, whole)
        # Of ZeRO 3 this layer and the next one, gathered, with the gradients of one.
        gathered = (2 * size + GRADIENT_BYTES) * whole / np.maximum(1.0, num_layers)
        weights += np.where(zero == 3, gathered, 0.0)
        share = np.where(zero == 2, whole_gradient_share(plans, num_layers), zero < 2)
        gradients = GRADIENT_BYTES * (share * whole + (1 - share) * own)
        in_flight = stage.microbatch_share * microbatches_held(
            plans.schedule,
            pipeline=pipeline,
            virtual_stages=virtual_stages,
            num_microbatches=num_microbatches,
            position=stage.position,
        )
        # Recomputed in full, each layer keeps its input; the one computed again has all the rest.
        kept = np.where(is_full, num_layers * inputs, stage.num_dense * dense + stage.num_moe * moe)
        again = np.maximum((stage.num_dense > 0) * dense, (stage.num_moe > 0) * moe)
        tensors: tuple[tuple[str, Floats], ...] = (
            ("weights", weights),
            ("gradients", gradients),
            ("optimizer", OPTIMIZER_BYTES * np.where(zero >= 1, own, whole)),
            ("activations", kept * in_flight + is_full * again),
            ("logits", stage.is_last * logits),
        )
        lost = np.asarray(rates.fragmentation * sum(num_bytes for _, num_bytes in tensors))
        context = np.asarray(rates.context_bytes, dtype=np.float64)
        yield stage, (*tensors, ("fragmentation", lost), ("buffers and driver", context))


def total_bytes(counts: PlanCounts, rates: PlanRates = PRIOR_RATES) -> Floats:
    """Bytes per chip of the fullest stage of each plan."""
    most = np.zeros(len(counts.plans))
    for _, parts in stage_bytes(counts, rates):
        most = np.maximum(most, sum(num_bytes for _, num_bytes in parts))
    return most


def memory_by_stage(
    model: ModelSpec, plan: PlanChoice, sequence_length: int, dtype: str, expert_load: float = 1.0
) -> tuple[tuple[StageColumns, MemoryUse], ...]:
    """Bytes per chip of each kind of stage of one plan."""
    like = Shard(sequence_length=sequence_length, dtype=dtype, expert_load=expert_load)
    counts = PlanCounts.of(model, PlanTable.of(plan), like)
    return tuple(
        (stage, MemoryUse(parts=tuple((name, float(size.item())) for name, size in parts)))
        for stage, parts in stage_bytes(counts)
    )


def memory_use(
    model: ModelSpec, plan: PlanChoice, sequence_length: int, dtype: str, expert_load: float = 1.0
) -> MemoryUse:
    """Bytes per chip of the fullest stage of one plan."""
    stages = memory_by_stage(model, plan, sequence_length, dtype, expert_load)
    return max((use for _, use in stages), key=lambda use: use.total_bytes)
