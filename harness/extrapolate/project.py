"""project: from the times of ops on one chip to a training step on a whole cluster."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.device.chip import ChipSpec
from harness.extrapolate.at_scale import (
    TrainingGoal,
    at_scale,
    scale_assumptions,
    slower_parts,
    training_run,
)
from harness.extrapolate.calibration import (
    ALL_SOFTWARE,
    AUTO,
    NONE,
    Calibration,
    Residual,
)
from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.lookup import CostFunction, Lookup
from harness.extrapolate.memory import memory_limit
from harness.extrapolate.plan_step import StepTime, work_of
from harness.extrapolate.priors import BEST_SHARE_OF_PEAK
from harness.extrapolate.schedule import schedule_of
from harness.extrapolate.search import Found, best_plan, check_fixed, memory_error
from harness.extrapolate.simulated_plan import layer_seconds, simulated_pipeline_s
from harness.extrapolate.step import StepModel
from harness.extrapolate.timed_work import op_shares, refuse_unmeasured, source_share
from harness.extrapolate.uncertainty import (
    CHECKED_CHIPS,
    DISCREPANCY_PER_DOUBLING,
    NUM_DRAWS,
    Uncertainty,
    uncertainty,
)
from harness.projection import (
    Interval,
    PlanChoice,
    Projection,
    ScalePoint,
    StepPart,
)
from harness.record import Record
from harness.roofline import Roofline
from harness.units import duration
from harness.workload.model import CausalCount, ModelSpec
from harness.workload.plan import ParallelSpec
from harness.workload.step import chip_load

CONFIDENCE = 0.8
"""From P10 to P90."""
SMALLEST_CLUSTER = 8
MOST_SIMULATED_PIECES = 200_000
"""Pipelines of more are not run piece by piece; so many take half a second."""
NO_GOAL = TrainingGoal()
BEYOND_CRITICAL = 0.5
"""Worth of a token at the critical batch; below it the batch is said before anything else."""


@dataclass(frozen=True, slots=True)
class Context:
    """What is the same for every number of chips."""

    steps: StepModel
    parallel: ParallelSpec
    memory_limit: float
    peak_flops_per_s: float | None
    """Dense, of the data sheet."""
    spreads: Mapping[str, float]
    """The 90 % ratio of each calibrated constant."""
    residual: Residual
    software: str
    """Whose constants hold, empty for priors."""
    chip: ChipSpec
    goal: TrainingGoal

    def uncertainty(self, plan: PlanChoice) -> Uncertainty:
        """Draws of the plan's step."""
        return uncertainty(self.steps, plan, self.spreads, self.residual)


def scale_point(context: Context, found: Found, num_chips: int) -> ScalePoint:
    """What the plan does on a cluster of that size."""
    plan, step = found.plan, found.step
    sequences = plan.data * plan.microbatch_size * plan.num_microbatches
    tokens = sequences * context.steps.sequence_length
    drawn = context.uncertainty(plan)
    # What the cluster's file adds grows with the rest of the step.
    added = 1 + sum(part.seconds for part in _added(context, found, num_chips)) / step.seconds
    low, _, high = drawn.quantiles(drawn.seconds * added)
    seconds = step.seconds * added
    point = ScalePoint(
        num_chips=num_chips,
        num_chips_used=plan.num_chips,
        plan=plan,
        global_batch_sequences=sequences,
        step_time_s=Interval(value=seconds, low=low, high=high),
        tokens_per_second=Interval(value=tokens / seconds, low=tokens / high, high=tokens / low),
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


def _added(context: Context, found: Found, num_chips: int) -> tuple[StepPart, ...]:
    """What the cluster's file adds to the step."""
    return slower_parts(context.steps, found.step, context.chip, num_chips)


def _flops_per_s_per_chip(
    context: Context, plan: PlanChoice, tokens_per_s: float, *, hardware: bool = False
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
    context: Context, plan: PlanChoice, tokens_per_s: float, *, hardware: bool = False
) -> float | None:
    """FLOP/s of a chip over its data sheet's peak; None where the sheet gives none."""
    peak = context.peak_flops_per_s
    if peak is None:
        return None
    return _flops_per_s_per_chip(context, plan, tokens_per_s, hardware=hardware) / peak


def cluster_sizes(num_chips: int) -> tuple[int, ...]:
    """Powers of two from SMALLEST_CLUSTER below the number of chips, and the number itself."""
    sizes = []
    size = SMALLEST_CLUSTER
    while size < num_chips:
        sizes.append(size)
        size *= 2
    return (*sizes, num_chips)


def context_of(
    *,
    chip: ChipSpec,
    model: ModelSpec,
    cluster: ClusterSpec,
    parallel: ParallelSpec,
    cost: CostFunction,
    records: Sequence[Record],
    roofs: Roofline | None,
    device_memory_bytes: float | None,
    calibration: Calibration,
    goal: TrainingGoal = NO_GOAL,
) -> Context:
    """What every plan of a projection has in common; the arguments are those of `project`.

    Raises:
        ConfigError: when a rate that is needed is neither measured nor known.
    """
    software = parallel.software
    if software == AUTO:
        software = calibration.software_of(chip.name)
    lookup = Lookup(chip, cost, records, roofs, calibration.constants(chip.name, software))
    return Context(
        steps=StepModel.of(model, cluster, lookup, parallel),
        parallel=parallel,
        memory_limit=memory_limit(chip, device_memory_bytes),
        peak_flops_per_s=chip.peak(parallel.dtype),
        spreads=calibration.spreads(chip.name, software),
        residual=calibration.residual(
            # Of software that runs on other chips, only what is common to all of it is known.
            software if calibration.ran_on(software, chip.name) else ALL_SOFTWARE,
            has_experts=model.experts is not None,
        ),
        software=software,
        chip=chip,
        goal=goal,
    )


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
    calibration: Calibration = NONE,
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
    context = context_of(
        chip=chip,
        model=model,
        cluster=cluster,
        parallel=parallel,
        cost=cost,
        records=records,
        roofs=roofs,
        device_memory_bytes=device_memory_bytes,
        calibration=calibration,
        goal=goal,
    )
    memory_limit = context.memory_limit
    check_fixed(context.steps, parallel, cluster.num_chips)
    found = best_plan(context.steps, parallel, cluster.num_chips, memory_limit)
    if found is None:
        raise memory_error(context.steps, parallel, cluster.num_chips, memory_limit)
    work = work_of(context.steps, found.plan)
    if strict:
        refuse_unmeasured(work, "the plan", "Measure them with a suite of this model and shard")
    headline = scale_point(context, found, cluster.num_chips)
    sizes = cluster_sizes(cluster.num_chips)[:-1] if sizes is None else sizes
    scaling = [*_smaller(context, sizes), headline]
    tokens_per_s = headline.tokens_per_second.value
    return Projection(
        model=model.name,
        chip=chip.name,
        cluster=cluster.name,
        dtype=parallel.dtype,
        linear_dtype=parallel.linear_dtype,
        software=context.software,
        sequence_length=parallel.sequence_length,
        headline=headline,
        scaling=tuple(scaling),
        parts=(*found.step.parts, *_added(context, found, cluster.num_chips)),
        ops=op_shares(work),
        source_share=source_share(work),
        memory_bytes_per_chip=found.memory.total_bytes,
        memory_limit_bytes=memory_limit,
        memory_parts=found.memory.parts,
        mfu=headline.mfu,
        hfu=_utilization(context, found.plan, tokens_per_s, hardware=True),
        interval_confidence=CONFIDENCE,
        interval_basis=_interval_basis(context, cluster.num_chips),
        causes=context.uncertainty(found.plan).causes,
        assumptions=(*assumptions(context, headline, chip), *_simulated(context.steps, found.step)),
        num_plans_considered=found.summary.num_enumerated,
        search=found.summary,
        run_ids=tuple(sorted({record.run_id for record in records})),
        training_run=training_run(headline, goal),
    )


def _smaller(context: Context, sizes: Sequence[int]) -> list[ScalePoint]:
    """The best plan at each smaller size, where one fits; a fixed data degree is let go."""
    parallel = replace(context.parallel, data=None)
    points = []
    for size in sizes:
        found = best_plan(context.steps, parallel, size, context.memory_limit)
        if found is not None:
            points.append(scale_point(context, found, size))
    return points


def _interval_basis(context: Context, num_chips: int) -> str:
    residual = context.residual
    kind = "models with experts" if context.steps.model.experts is not None else "dense models"
    text = (
        f"P10 to P90 of {NUM_DRAWS:,} draws of every input (times of ops, rates of networks, "
        "constants of the software) and of the model's own error: published runs of "
        f"{kind} that were left out of its calibration took {residual.low:.2f} to "
        f"{residual.high:.2f} of the predicted time"
    )
    if num_chips > CHECKED_CHIPS:
        text += (
            f"; {DISCREPANCY_PER_DOUBLING:.0%} is added per doubling beyond the "
            f"{CHECKED_CHIPS:,} chips of the largest run checked"
        )
    return f"{text}."


def _without_peak(context: Context, headline: ScalePoint) -> str:
    dtype = context.parallel.dtype
    text = f"The data sheet's {dtype} peak is n/a, so MFU and HFU are n/a"
    roof = context.steps.lookup.roof.peak(dtype)
    if roof is None:
        return f"{text}."
    tokens_per_s = headline.tokens_per_second.value
    share = _flops_per_s_per_chip(context, headline.plan, tokens_per_s) / roof
    return f"{text}; model FLOPs are {share:.1%} of the measured {dtype} matrix roof."


def _simulated(steps: StepModel, step: StepTime) -> tuple[str, ...]:
    """What the headline's pipeline takes when it is run piece by piece, beside the formula."""
    plan = step.plan
    pieces = 3 * plan.pipeline * plan.virtual_stages * plan.num_microbatches
    if plan.pipeline == 1 or pieces > MOST_SIMULATED_PIECES:
        return ()
    ran_s = simulated_pipeline_s(steps.model, plan, layer_seconds(steps, plan))
    bubble_s = sum(part.seconds for part in step.parts if part.name == "pipeline bubble")
    formula_s = plan.num_microbatches * step.microbatch_s + bubble_s
    title = schedule_of(plan.schedule, plan.virtual_stages).title
    return (
        f"The bubble of {title} follows from a formula: microbatches and bubble take "
        f"{duration(formula_s)}, and {duration(ran_s)} when they are simulated piece by piece "
        f"({formula_s / ran_s - 1:+.1%}).",
    )


def assumptions(context: Context, headline: ScalePoint, chip: ChipSpec) -> tuple[str, ...]:
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
    if not lookup.records:
        found.append(
            "Nothing was measured: all op times come from the data sheet and published rates."
        )
    if lookup.roof.peak(parallel.dtype) is None and chip.achievable(parallel.dtype) is None:
        share = BEST_SHARE_OF_PEAK.value * lookup.constants.matrix_share
        found.append(
            f"No measured {parallel.dtype} rate is published for {chip.title}: matrix products "
            f"run at {share:.0%} of the peak, as the median of other chips."
        )
    if context.peak_flops_per_s is None:
        found.append(_without_peak(context, headline))
    if tokens != asked:
        found.append(
            f"A step has {tokens:,} tokens ({sequences:,} sequences), where {asked:,} were asked "
            "for, so that every replica is busy."
        )
    found += [
        "Networks are taken from the cluster's file, not measured.",
        f"Every chip is as fast as {'the one measured' if lookup.records else 'its sheet'}, but "
        "for jitter that costs "
        f"{lookup.constants.growth_per_doubling:.2%} of the busy time per doubling of the chips.",
        *([] if is_beyond else [batch]),
        *at_scale_taken,
        "Gradients are reduced in 16 bits and summed in fp32; Adam keeps fp32 moments.",
    ]
    schedule = schedule_of(plan.schedule, plan.virtual_stages)
    if schedule.is_skewed:
        found.append(
            f"{schedule.title} lets each stage go on to its optimizer when its own work is done; "
            "a barrier over all stages, as for the norm of all gradients, adds up to "
            f"{plan.pipeline - 1} forward passes of a stage."
        )
    if steps.model.experts is not None:
        hidden = (
            f"{schedule.title} hides their exchange behind the computation of another microbatch"
            if schedule.hides_expert_exchange
            else "nothing hides their exchange"
        )
        load = chip_load(steps.model, steps.shard(plan))
        spread = (
            f"The busiest expert gets {steps.expert_load:.2f} times the mean of all tokens and the "
            f"busiest chip {load:.2f} times, for which the others wait"
            if steps.expert_load > 1
            else "Tokens are spread evenly over the experts"
        )
        found.append(f"{spread}, and {hidden}.")
    if plan.context > 1:
        found.append("The chips of a sequence share its query-key pairs evenly.")
    return tuple(found)
