"""The best parallel plan for a number of chips, or the check of a plan that was given.

Plans are enumerated over tensor, context, expert, pipeline and virtual stages, microbatch,
recomputation and ZeRO stage; the data-parallel degree follows from the chips. They are sorted by
a lower bound (microbatches and bubble alone) and looked at in that order: memory first, then the
whole step, until no bound is left below the best step found.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from harness.errors import PlanError
from harness.extrapolate.memory import MemoryUse, memory_use
from harness.extrapolate.pipeline import most_layers
from harness.extrapolate.plan_errors import (
    changes,
    more_chips_text,
    nothing_legal,
    replica_too_large,
    too_large,
)
from harness.extrapolate.step import StepModel, StepTime
from harness.projection import PlanChoice
from harness.units import GIBI
from harness.workload.plan import ParallelSpec
from harness.workload.step import check_shard

MICROBATCH_SIZES = (1, 2, 4)
TOKENS_PER_CONTEXT_CHIP = 4096
"""Sequences are cut no shorter by context parallelism when it is searched."""
MAX_CONTEXT = 16
MAX_TENSOR = 16
"""Larger tensor groups are not searched: what is left of each product is too narrow to pay."""
MAX_EXPERT = 64
"""Experts are spread over at most so many chips when searched."""
BATCH_TOLERANCE = 0.1
"""A step may have this share more or fewer tokens than asked, so that every replica is busy."""
MAX_UNEVEN_SHARE = 0.06
"""Stages may be short of this share of all layers; more is waste that no plan needs."""


FIXABLE = (
    *("tensor", "pipeline", "data", "expert", "context"),
    *("virtual_stages", "microbatch_size", "zero_stage", "recompute"),
)
"""What a `ParallelSpec` may fix of a plan."""


@dataclass(frozen=True, slots=True)
class Found:
    """The best plan, its step and its memory."""

    step: StepTime
    memory: MemoryUse
    num_considered: int

    @property
    def plan(self) -> PlanChoice:
        """The plan itself."""
        return self.step.plan


def _divisors(number: int, most: int) -> list[int]:
    return [d for d in range(1, min(number, most) + 1) if number % d == 0]


def _pipelines(num_layers: int, most: int) -> list[int]:
    """Numbers of stages that leave few stages short of a layer."""
    allowed = 2 + MAX_UNEVEN_SHARE * num_layers
    found = []
    for p in range(1, min(num_layers, most) + 1):
        short = -(-num_layers // p) * p - num_layers
        if short <= min(allowed, p - 1):
            found.append(p)
    return found


def _only(fixed: int | None, options: Sequence[int]) -> Sequence[int]:
    return options if fixed is None else (fixed,)


def batches(
    sequences: int, microbatch_size: int, most_data: int, fixed_data: int | None
) -> Iterator[tuple[int, int]]:
    """Data-parallel degrees and microbatches that give about that many sequences per step.

    With all replicas busy the batch may be BATCH_TOLERANCE off; else replicas stay idle.
    """
    if fixed_data is not None:
        wanted = sequences / (fixed_data * microbatch_size)
        yield fixed_data, max(1, round(wanted))
        return
    per_replica = sequences / (most_data * microbatch_size)
    m = max(1, round(per_replica))
    if abs(m / per_replica - 1) <= BATCH_TOLERANCE:
        yield most_data, m
    more = math.ceil(per_replica)
    data = sequences // (microbatch_size * more)
    if 1 <= data < most_data:
        yield data, more


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plan but for its ZeRO stage, which no bound depends on."""

    tensor: int
    context: int
    expert: int
    pipeline: int
    data: int
    microbatch_size: int
    num_microbatches: int
    virtual_stages: int
    recompute: str

    @property
    def sequences(self) -> int:
        """Sequences of one step."""
        return self.data * self.microbatch_size * self.num_microbatches

    def plan(self, zero_stage: int) -> PlanChoice:
        """The plan with that ZeRO stage."""
        return PlanChoice(
            tensor=self.tensor,
            pipeline=self.pipeline,
            data=self.data,
            expert=self.expert,
            context=self.context,
            virtual_stages=self.virtual_stages,
            microbatch_size=self.microbatch_size,
            num_microbatches=self.num_microbatches,
            zero_stage=zero_stage,
            recompute=self.recompute,
        )


def zero_stages(parallel: ParallelSpec, pipeline: int) -> tuple[int, ...]:
    """ZeRO stages to try; stage 3 gathers weights for every microbatch, so not in a pipeline."""
    if parallel.zero_stage is not None:
        return (parallel.zero_stage,)
    return (1, 2, 3) if pipeline == 1 else (1, 2)


def candidates(steps: StepModel, parallel: ParallelSpec, num_chips: int) -> Iterator[Candidate]:
    """Every plan worth a look for at most so many chips, fixed degrees kept."""
    recomputes = ("none", "full") if parallel.recompute is None else (parallel.recompute,)
    for tensor, context, expert, pipeline, most_data in _degrees(steps, parallel, num_chips):
        layers = most_layers(steps.model.num_layers, pipeline)
        virtual = _divisors(layers, layers) if pipeline > 1 else [1]
        for size in _only(parallel.microbatch_size, MICROBATCH_SIZES):
            counts = batches(parallel.global_batch_sequences, size, most_data, parallel.data)
            for data, m in counts:
                for chunks in _only(parallel.virtual_stages, virtual):
                    for recompute in recomputes:
                        yield Candidate(
                            tensor, context, expert, pipeline, data, size, m, chunks, recompute
                        )


def _degrees(
    steps: StepModel, parallel: ParallelSpec, num_chips: int
) -> Iterator[tuple[int, int, int, int, int]]:
    """Tensor, context, expert and pipeline degrees, and the most replicas that then fit."""
    model = steps.model
    domain = min(steps.cluster.scaleup_chips, num_chips)
    most_tensor = min(parallel.max_tensor or MAX_TENSOR, domain)
    most_context = min(MAX_CONTEXT, parallel.sequence_length // TOKENS_PER_CONTEXT_CHIP)
    contexts = [c for c in (1, 2, 4, 8, 16) if c == 1 or c <= most_context]
    experts = [1]
    if model.experts is not None:
        experts = _divisors(model.experts.num_experts, MAX_EXPERT)
    for tensor in _only(parallel.tensor, _divisors(model.num_heads, most_tensor)):
        if parallel.tensor is None and not _divides(steps, tensor):
            continue
        for context in _only(parallel.context, contexts):
            group = tensor * context
            pipelines = _pipelines(model.num_layers, num_chips // group)
            for pipeline in _only(parallel.pipeline, pipelines):
                most_data = num_chips // (group * pipeline)
                if most_data < max(1, parallel.data or 1):
                    continue
                for expert in _only(parallel.expert, experts):
                    is_placed = expert <= group * most_data
                    is_placed &= not (expert % group and group % expert)
                    if is_placed or parallel.expert is not None:
                        yield tensor, context, expert, pipeline, most_data


def _divides(steps: StepModel, tensor: int) -> bool:
    model = steps.model
    kv_heads = model.num_kv_heads
    fits_kv = model.latent_attention is not None or not (kv_heads % tensor and tensor % kv_heads)
    expert_ffn = model.experts.expert_ffn if model.experts else 0
    return fits_kv and model.ffn % tensor == 0 and expert_ffn % tensor == 0


def check_fixed(steps: StepModel, parallel: ParallelSpec, num_chips: int) -> None:
    """Refuse fixed degrees that cut the model unevenly or do not fit the chips.

    Raises:
        PlanError: with the arithmetic and the nearest degrees that fit.
    """
    first = PlanChoice(
        tensor=parallel.tensor or 1,
        pipeline=parallel.pipeline or 1,
        data=parallel.data or 1,
        expert=parallel.expert or 1,
        context=parallel.context or 1,
    )
    model = steps.model
    check_shard(model, steps.shard(first), "parallel")
    if first.pipeline > model.num_layers:
        raise PlanError(
            f"parallel.pipeline: {first.pipeline} stages, but {model.name} has only "
            f"{model.num_layers} layers. Set parallel.pipeline={model.num_layers} or fewer."
        )
    layers = most_layers(model.num_layers, first.pipeline)
    chunks = parallel.virtual_stages or 1
    if parallel.pipeline is not None and layers % chunks:
        fits = max(_divisors(layers, chunks))
        raise PlanError(
            f"parallel.virtual_stages: {chunks} does not divide the {layers} layers of a stage "
            f"({model.num_layers} layers over {first.pipeline} stages). "
            f"Set parallel.virtual_stages={fits}."
        )
    degrees = (("data", first.data), ("tensor", first.tensor), ("pipeline", first.pipeline))
    parts = [f"{name} {degree}" for name, degree in degrees]
    if first.context > 1:
        parts.append(f"context {first.context}")
    product = f"parallel: {' x '.join(parts)} = {first.num_chips} chips"
    replica = first.num_chips // first.data
    most = num_chips // replica
    if most < 1:
        raise replica_too_large(product, replica, num_chips)
    all_fixed = None not in (parallel.tensor, parallel.pipeline, parallel.data)
    if first.num_chips > num_chips or (all_fixed and first.data < most):
        idle = num_chips - most * replica
        rest = "no chip stays idle" if idle == 0 else f"{idle} chips stay idle"
        raise PlanError(
            f"{product}, but cluster.num_chips is {num_chips}. Set parallel.data={most} and {rest}."
        )
    if parallel.data is not None:
        least = parallel.data * (parallel.microbatch_size or 1)
        if parallel.global_batch_sequences < least:
            raise PlanError(
                f"parallel.data: {least} replicas' sequences are more than the "
                f"{parallel.global_batch_sequences} of parallel.global_batch_tokens="
                f"{parallel.global_batch_tokens}. Set parallel.global_batch_tokens="
                f"{least * parallel.sequence_length} or more."
            )


def best_plan(
    steps: StepModel, parallel: ParallelSpec, num_chips: int, memory_limit: float
) -> Found | None:
    """The plan with most tokens per second whose memory fits, or None."""
    bounded = [
        (steps.least_seconds(found) / found.sequences, index, found)
        for index, found in enumerate(candidates(steps, parallel, num_chips))
    ]
    bounded.sort()
    best: tuple[float, StepTime, MemoryUse] | None = None
    num_considered = 0
    for _, _, found in bounded:
        num_considered += len(zero_stages(parallel, found.pipeline))
    for bound, _, found in bounded:
        if best is not None and bound >= best[0]:
            break
        for zero_stage in zero_stages(parallel, found.pipeline):
            plan = found.plan(zero_stage)
            memory = memory_use(steps.model, plan, steps.sequence_length, steps.dtype, memory_limit)
            if memory.total_bytes > memory_limit:
                continue
            step = steps.step(plan)
            rate = step.seconds / found.sequences
            if best is None or rate < best[0]:
                best = (rate, step, memory)
    return None if best is None else Found(best[1], best[2], num_considered)


def memory_error(
    steps: StepModel, parallel: ParallelSpec, num_chips: int, memory_limit: float
) -> PlanError:
    """Why nothing fits: the leanest plan's memory by part, and the nearest plan that does fit."""
    fixed = {name: getattr(parallel, name) for name in FIXABLE}
    leanest: tuple[float, int, PlanChoice, MemoryUse] | None = None
    for index, found in enumerate(candidates(steps, parallel, num_chips)):
        plan = found.plan(zero_stages(parallel, found.pipeline)[-1])
        use = memory_use(steps.model, plan, steps.sequence_length, steps.dtype)
        if leanest is None or use.total_bytes < leanest[0]:
            leanest = (use.total_bytes, index, plan, use)
    if leanest is None:
        return nothing_legal(steps.model.name, num_chips, fixed)
    _, _, plan, use = leanest
    free = replace(
        parallel,
        tensor=None,
        pipeline=None,
        data=None,
        virtual_stages=None,
        microbatch_size=None,
        zero_stage=None,
        recompute=None,
    )
    nearest = best_plan(steps, free, num_chips, memory_limit)
    if nearest is not None:
        size = nearest.memory.total_bytes / GIBI
        chosen = {name: getattr(nearest.plan, name) for name in FIXABLE}
        advice = f"{nearest.plan.label} fits ({size:.1f} GiB). Set {changes(fixed, chosen)}."
        return too_large(plan.label, use.parts, memory_limit, advice)

    def fits(count: int) -> bool:
        larger = steps.cluster.with_num_chips(count)
        model = StepModel.of(steps.model, larger, steps.lookup, free)
        return best_plan(model, free, count, memory_limit) is not None

    most = steps.cluster.tiers[-1].chips
    advice = more_chips_text(fits, steps.model.name, num_chips, most)
    return too_large(plan.label, use.parts, memory_limit, advice)
