"""project: from the times of ops on one chip to a training step on a whole cluster."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.device.chip import ChipSpec
from harness.errors import ConfigError, PlanError
from harness.extrapolate.at_scale import (
    TrainingGoal,
    at_scale,
    scale_assumptions,
    slower_parts,
    training_run,
)
from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.lookup import CostFunction, Lookup
from harness.extrapolate.priors import (
    BEST_SHARE_OF_PEAK,
    GROWTH_PER_DOUBLING,
    MATRIX_SHARE_OF_BEST,
)
from harness.extrapolate.search import Found, best_plan, check_fixed, memory_error
from harness.extrapolate.step import StepModel, StepTime
from harness.projection import (
    Interval,
    OpShare,
    PlanChoice,
    Projection,
    ScalePoint,
    Source,
    StepPart,
)
from harness.record import Record
from harness.roofline import Roofline
from harness.workload.model import CausalCount, ModelSpec
from harness.workload.plan import ParallelSpec
from harness.workload.step import WorkItem

CONFIDENCE = 0.9
CHIP_OF_THE_RUN = "this"
"""What a cluster writes for its chip when it is made of whatever was measured."""
SMALLEST_CLUSTER = 8
NO_GOAL = TrainingGoal()
BEYOND_CRITICAL = 0.5
"""Worth of a token at the critical batch; below it the batch is said before anything else."""

FASTER_THAN_MODEL = 0.05
"""ln of predicted over published step time that 95 % of the dense bf16 runs on H100 stay within;
`tests/validation` computes it, and the same of those slower than predicted."""
SLOWER_THAN_MODEL_DENSE = 0.13
SLOWER_THAN_MODEL_MOE = 0.74
"""The same of models with experts: imbalance and the rate of small grouped products are not
modelled, and 95 % of the published runs are at most this much slower."""
DISCREPANCY_PER_DOUBLING = 0.02
"""What is added per doubling beyond CHECKED_CHIPS, where nothing is published; assumed."""
CHECKED_CHIPS = 16384
"""The most chips of a published run that was checked: Llama-3.1 405B (arXiv 2407.21783)."""


@dataclass(frozen=True, slots=True)
class _Context:
    """What is the same for every number of chips."""

    steps: StepModel
    parallel: ParallelSpec
    memory_limit: float
    peak_flops_per_s: float | None
    """Dense, of the data sheet."""
    chip: ChipSpec
    goal: TrainingGoal


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelError:
    """How far the model's step times are from published ones, as natural logarithms."""

    faster: float
    """Of runs that were faster than predicted."""
    slower: float


def model_error(model: ModelSpec) -> ModelError:
    """The error of the published runs that are like that model."""
    slower = SLOWER_THAN_MODEL_DENSE if model.experts is None else SLOWER_THAN_MODEL_MOE
    return ModelError(faster=FASTER_THAN_MODEL, slower=slower)


def spread(step: StepTime, num_chips: int, error: ModelError) -> tuple[float, float]:
    """Low and high end of the step's time over its value, at CONFIDENCE.

    The spread of the op times, weighted by their share of the step, and the model's own error
    against published runs are independent and add as squares of logarithms.
    """
    timed = ("compute", "recomputation", "optimizer")
    compute = sum(part.seconds for part in step.parts if part.name in timed)
    share = compute / step.seconds
    beyond = DISCREPANCY_PER_DOUBLING * max(0.0, math.log2(num_chips / CHECKED_CHIPS))
    slower = math.hypot(error.slower + beyond, math.log1p(share * (step.compute_high - 1)))
    faster = math.hypot(error.faster + beyond, math.log1p(share * (1 / step.compute_low - 1)))
    return math.exp(-faster), math.exp(slower)


def scale_point(context: _Context, found: Found, num_chips: int) -> ScalePoint:
    """What the plan does on a cluster of that size."""
    plan, step = found.plan, found.step
    sequences = plan.data * plan.microbatch_size * plan.num_microbatches
    tokens = sequences * context.steps.sequence_length
    low, high = spread(step, num_chips, model_error(context.steps.model))
    seconds = step.seconds + sum(part.seconds for part in _added(context, found, num_chips))
    point = ScalePoint(
        num_chips=num_chips,
        num_chips_used=plan.num_chips,
        plan=plan,
        global_batch_sequences=sequences,
        step_time_s=Interval(value=seconds, low=seconds * low, high=seconds * high),
        tokens_per_second=Interval(
            value=tokens / seconds, low=tokens / (seconds * high), high=tokens / (seconds * low)
        ),
        mfu=_utilization(context, plan, tokens / seconds),
        goodput=1.0,
    )
    return at_scale(
        point,
        context.steps,
        context.chip,
        context.goal,
        sequence_length=context.steps.sequence_length,
    )


def _added(context: _Context, found: Found, num_chips: int) -> tuple[StepPart, ...]:
    """What the cluster's file adds to the step."""
    return slower_parts(context.steps, found.step, context.chip, num_chips)


def _flops_per_s_per_chip(
    context: _Context, plan: PlanChoice, tokens_per_s: float, *, hardware: bool = False
) -> float:
    """Model FLOP/s of a chip in use, or with recomputation those executed."""
    model, length = context.steps.model, context.steps.sequence_length
    flops = model.model_flops_per_token(length, CausalCount.CAUSAL)
    if hardware and plan.recompute == "full":
        flops += model.forward_flops_per_token(length, CausalCount.CAUSAL)
        flops -= 2.0 * model.vocab * model.hidden
    if hardware and plan.recompute == "selective":
        flops += model.num_layers * model.attention_flops_per_token(length)
    return tokens_per_s * flops / plan.num_chips


def _utilization(
    context: _Context, plan: PlanChoice, tokens_per_s: float, *, hardware: bool = False
) -> float | None:
    """FLOP/s of a chip over its data sheet's peak; None where the sheet gives none."""
    peak = context.peak_flops_per_s
    if peak is None:
        return None
    return _flops_per_s_per_chip(context, plan, tokens_per_s, hardware=hardware) / peak


def _memory_limit(chip: ChipSpec, device_memory_bytes: float | None) -> float:
    """The smaller of the data sheet's memory and the device's own, or the one that is known."""
    known = [size for size in (chip.memory_bytes, device_memory_bytes) if size]
    if not known:
        raise ConfigError(
            f"chip {chip.name}: the memory size is n/a, so no plan can be checked. "
            "Set memory_gib in its file."
        )
    return min(known)


def cluster_sizes(num_chips: int) -> tuple[int, ...]:
    """Powers of two from SMALLEST_CLUSTER below the number of chips, and the number itself."""
    sizes = []
    size = SMALLEST_CLUSTER
    while size < num_chips:
        sizes.append(size)
        size *= 2
    return (*sizes, num_chips)


def project(
    *,
    chip: ChipSpec,
    model: ModelSpec,
    cluster: ClusterSpec,
    parallel: ParallelSpec,
    cost: CostFunction,
    records: Sequence[Record] = (),
    roofs: Roofline | None = None,
    device_memory_bytes: float | None = None,
    strict: bool = False,
    goal: TrainingGoal = NO_GOAL,
    sizes: Sequence[int] | None = None,
) -> Projection:
    """A training step of the model on the cluster, with the best plan or the one that is fixed.

    `cost` gives the least work of a problem; `records` are the measurements of this chip, and
    without any the projection rests on the data sheet and published rates alone. `roofs` are its
    measured roofs, those of the records if none are given.
    `device_memory_bytes` is what the device said it has; the smaller of it and the data sheet's
    memory is the limit. `goal` is what is trained for, where that is known.
    `sizes` are the smaller numbers of chips of the scaling curve, those of `cluster_sizes` where
    none are given.

    Raises:
        PlanError: when no plan fits the chips or their memory, with the arithmetic and the
            nearest plan that does; or when `strict` and an op on the plan was not measured.
        ConfigError: when a rate that is needed is neither measured nor known.
    """
    assert not cluster.is_mixed, "islands of different chips are projected by project_mixed"
    memory_limit = _memory_limit(chip, device_memory_bytes)
    lookup = Lookup(chip, cost, records, roofs)
    context = _Context(
        steps=StepModel.of(model, cluster, lookup, parallel),
        parallel=parallel,
        memory_limit=memory_limit,
        peak_flops_per_s=chip.peak(parallel.dtype),
        chip=chip,
        goal=goal,
    )
    check_fixed(context.steps, parallel, cluster.num_chips)
    found = best_plan(context.steps, parallel, cluster.num_chips, memory_limit)
    if found is None:
        raise memory_error(context.steps, parallel, cluster.num_chips, memory_limit)
    work = context.steps.sources(found.plan)
    if strict:
        _refuse_unmeasured(work)
    headline = scale_point(context, found, cluster.num_chips)
    sizes = cluster_sizes(cluster.num_chips)[:-1] if sizes is None else sizes
    scaling = [*_smaller(context, sizes), headline]
    total = sum(seconds for _, seconds, _ in work)
    tokens_per_s = headline.tokens_per_second.value
    return Projection(
        model=model.name,
        chip=chip.name,
        cluster=cluster.name,
        dtype=parallel.dtype,
        sequence_length=parallel.sequence_length,
        headline=headline,
        scaling=tuple(scaling),
        parts=(*found.step.parts, *_added(context, found, cluster.num_chips)),
        ops=tuple(
            OpShare(
                op=f"{item.problem.op}.{item.problem.dtype}.{item.problem.mode}",
                role=item.role,
                seconds=seconds,
                source=source,
                problem_id=item.problem.id,
            )
            for item, seconds, source in work
        ),
        source_share=_source_share([(s, seconds / total) for _, seconds, s in work]),
        memory_bytes_per_chip=found.memory.total_bytes,
        memory_limit_bytes=memory_limit,
        memory_parts=found.memory.parts,
        mfu=headline.mfu,
        hfu=_utilization(context, found.plan, tokens_per_s, hardware=True),
        interval_confidence=CONFIDENCE,
        interval_basis=_interval_basis(model, cluster.num_chips),
        assumptions=assumptions(context, headline, chip),
        num_plans_considered=found.num_considered,
        run_ids=tuple(sorted({record.run_id for record in records})),
        training_run=training_run(headline, goal),
    )


def _smaller(context: _Context, sizes: Sequence[int]) -> list[ScalePoint]:
    """The best plan at each smaller size, where one fits; a fixed data degree is let go."""
    parallel = replace(context.parallel, data=None)
    points = []
    for size in sizes:
        found = best_plan(context.steps, parallel, size, context.memory_limit)
        if found is not None:
            points.append(scale_point(context, found, size))
    return points


def _source_share(shares: Sequence[tuple[Source, float]]) -> tuple[tuple[Source, float], ...]:
    totals: dict[Source, float] = {}
    for source, share in shares:
        totals[source] = totals.get(source, 0.0) + share
    return tuple((source, totals[source]) for source in Source if source in totals)


def _refuse_unmeasured(work: Sequence[tuple[WorkItem, float, Source]]) -> None:
    # One problem may stand in several places of a layer; it is measured once.
    missing: dict[str, str] = {}
    for item, _, source in work:
        if source is not Source.MEASURED:
            missing.setdefault(item.problem.id, f"{item.problem.id} ({item.role})")
    if missing:
        raise PlanError(
            f"strict: {len(missing)} problems of the plan were not measured: "
            f"{'; '.join(missing.values())}. Measure them with a suite of this model and "
            "shard, or set strict=false to project from other sizes and rates."
        )


def _interval_basis(model: ModelSpec, num_chips: int) -> str:
    error = model_error(model)
    kind = "models with experts" if model.experts is not None else "dense models"
    text = (
        "the intervals of the op times (measured, from other sizes or of the rates "
        "taken from elsewhere), joined with the model's own error against published runs of "
        f"{kind}, which were up to {math.expm1(error.slower):.0%} slower and "
        f"{-math.expm1(-error.faster):.0%} faster"
    )
    if num_chips > CHECKED_CHIPS:
        text += (
            f"; this is let grow by {DISCREPANCY_PER_DOUBLING:.0%} per doubling beyond the "
            f"{CHECKED_CHIPS:,} chips of the largest run checked"
        )
    return f"{text}."


def _without_peak(context: _Context, headline: ScalePoint) -> str:
    dtype = context.parallel.dtype
    text = f"The data sheet's {dtype} peak is n/a, so MFU and HFU are n/a"
    roof = context.steps.lookup.roof.peak(dtype)
    if roof is None:
        return f"{text}."
    tokens_per_s = headline.tokens_per_second.value
    share = _flops_per_s_per_chip(context, headline.plan, tokens_per_s) / roof
    return f"{text}; model FLOPs are {share:.1%} of the measured {dtype} matrix roof."


def assumptions(context: _Context, headline: ScalePoint, chip: ChipSpec) -> tuple[str, ...]:
    """Everything the projection takes on trust, one sentence each."""
    plan = headline.plan
    steps, parallel = context.steps, context.parallel
    cluster, lookup = steps.cluster, steps.lookup
    batch, *at_scale_taken = scale_assumptions(headline)
    is_beyond = headline.batch is not None and headline.batch.share < BEYOND_CRITICAL
    # Beyond the critical batch this is the first thing to know.
    found = [batch, *cluster.assumptions] if is_beyond else list(cluster.assumptions)
    sequences = plan.data * plan.microbatch_size * plan.num_microbatches
    tokens = sequences * steps.sequence_length
    asked = parallel.global_batch_tokens
    text = f"A step has {tokens:,} tokens ({sequences:,} sequences), where {asked:,} were asked for"
    found.append(f"{text}.")
    if not lookup.records:
        found.append(
            "Nothing was measured: all op times come from the data sheet and published rates."
        )
    if lookup.roof.peak(parallel.dtype) is None and chip.achievable(parallel.dtype) is None:
        found.append(
            f"No measured {parallel.dtype} rate is published for {chip.title}: matrix products "
            f"run at {BEST_SHARE_OF_PEAK.value * MATRIX_SHARE_OF_BEST.value:.0%} of the peak, as "
            "the median of other chips."
        )
    if context.peak_flops_per_s is None:
        found.append(_without_peak(context, headline))
    found += [
        "Networks are taken from the cluster's file, not measured.",
        "Every chip is as fast as the one measured, but for jitter that costs "
        f"{GROWTH_PER_DOUBLING.value:.2%} of the busy time per doubling of the chips.",
        *([] if is_beyond else [batch]),
        *at_scale_taken,
        "Gradients are reduced in 16 bits and summed in fp32; Adam keeps fp32 moments.",
    ]
    if steps.model.experts is not None:
        found.append("Tokens are spread evenly over the experts, and nothing hides their exchange.")
    if plan.context > 1:
        found.append("The chips of a sequence share its query-key pairs evenly.")
    return tuple(found)
