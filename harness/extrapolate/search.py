"""The best parallel plan for a number of chips, or the check of a plan that was given.

Every legal plan is looked at (`legal_plans`): its memory first, then the whole step of each that
fits. What was found is told with what else there was.
"""

from dataclasses import dataclass, replace

import numpy as np

from harness.errors import PlanError
from harness.extrapolate.fastest_context import check_context_exchange, with_fastest_context
from harness.extrapolate.hybrid_sharding import check_shard_group
from harness.extrapolate.legal_plans import divisors, experts_fit, fills_domains, legal_plans
from harness.extrapolate.memory import MemoryUse, PlanCounts, memory_use, total_bytes
from harness.extrapolate.pipeline import PLAIN, most_layers
from harness.extrapolate.plan_errors import (
    changes,
    more_chips_text,
    nothing_legal,
    replica_too_large,
    too_large,
)
from harness.extrapolate.plan_step import StepTime, TimedPlans, step_time, step_times
from harness.extrapolate.plans import Floats, Ints, PlanTable
from harness.extrapolate.schedule import Placement, schedule_of
from harness.extrapolate.step import StepModel
from harness.projection import TIE, Alternative, PlanChoice, SearchSummary
from harness.units import GIBI
from harness.workload.model import ModelSpec
from harness.workload.plan import ParallelSpec
from harness.workload.step import check_shard

MAX_ALTERNATIVES = 4
FIXABLE = (
    *("tensor", "pipeline", "data", "expert", "context"),
    *("virtual_stages", "microbatch_size", "zero_stage", "shard_group", "recompute", "schedule"),
    "context_exchange",
)
"""What a `ParallelSpec` may fix of a plan."""
RANKED = 10_000
"""So many of the fastest plans are ranked, for one of each kind; a kind has some hundred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The best plan, its step and its memory, and how it was found."""

    step: StepTime
    memory: MemoryUse
    summary: SearchSummary

    @property
    def plan(self) -> PlanChoice:
        """The plan itself."""
        return self.step.plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """Plans of a table that fit, with their steps; shape (F,) of N plans."""

    num_plans: int
    plans: PlanTable
    seconds: Floats

    @property
    def seconds_per_sequence(self) -> Floats:
        """What a plan is chosen by: plans differ a little in the size of their step."""
        return self.seconds / self.plans.sequences


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
    domain = steps.cluster.tiers[0].chips
    if not fills_domains(steps.cluster, first.tensor, num_chips):
        fits = max(divisors(domain, first.tensor))
        raise PlanError(
            f"parallel.tensor: {first.tensor} neither divides the {domain} chips of a scale-up "
            f"domain nor is a multiple of them. Set parallel.tensor={fits}."
        )
    if first.pipeline > model.num_layers:
        raise PlanError(
            f"parallel.pipeline: {first.pipeline} stages, but {model.name} has only "
            f"{model.num_layers} layers. Set parallel.pipeline={model.num_layers} or fewer."
        )
    layers = most_layers(model.num_layers, first.pipeline)
    chunks = parallel.virtual_stages or 1
    # Chunks of a pipeline that goes there and back may differ by a layer, as stages may.
    is_folded = schedule_of(parallel.schedule or PLAIN).placement is Placement.THERE_AND_BACK
    check_schedule(parallel, model)
    check_layers_per_stage(parallel, model)
    is_cut = is_folded or bool(parallel.layers_per_stage)
    if parallel.pipeline is not None and layers % chunks and not is_cut:
        fits = max(divisors(layers, chunks))
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
    _check_experts(model, parallel)
    check_shard_group(parallel)
    check_context_exchange(parallel, model)
    check_expert_load(parallel, model)


def check_layers_per_stage(parallel: ParallelSpec, model: ModelSpec) -> None:
    """Refuse layers per stage that are not those of the model or of the pipeline.

    Raises:
        PlanError: with the nearest that are.
    """
    given = parallel.layers_per_stage
    if not given:
        return
    found = ",".join(str(count) for count in given)
    total = sum(given)
    if total != model.num_layers:
        nearest = list(given)
        while sum(nearest) != model.num_layers and len(nearest) <= model.num_layers:
            # A layer more for the shortest stage, or one less for the longest, the last one first.
            step = 1 if sum(nearest) < model.num_layers else -1
            least = min(nearest) if step > 0 else max(nearest)
            place = len(nearest) - 1 - nearest[::-1].index(least)
            nearest[place] += step
        if len(nearest) > model.num_layers:
            nearest = [1] * model.num_layers
        raise PlanError(
            f"parallel.layers_per_stage: [{found}] are {total} layers, but {model.name} has "
            f"{model.num_layers}. Set parallel.layers_per_stage="
            f"[{','.join(str(count) for count in nearest)}]."
        )
    chunks = parallel.virtual_stages or schedule_of(parallel.schedule or PLAIN).least_chunks
    if parallel.pipeline is None or parallel.pipeline * chunks != len(given):
        said = "null" if parallel.pipeline is None else f"{parallel.pipeline}"
        raise PlanError(
            f"parallel.layers_per_stage: {len(given)} stages, but parallel.pipeline is {said} with "
            f"{chunks} per chip. Set parallel.pipeline={max(1, len(given) // chunks)}, or "
            "parallel.virtual_stages to the stages per chip."
        )


def check_schedule(parallel: ParallelSpec, model: ModelSpec) -> None:
    """Refuse a schedule that the fixed degrees rule out.

    Raises:
        PlanError: with what the schedule needs and the nearest that has it.
    """
    if parallel.schedule is None:
        return
    schedule = schedule_of(parallel.schedule)
    pipeline = parallel.pipeline or max(2, schedule.least_pipeline)
    chunks = parallel.virtual_stages or schedule.least_chunks
    m = 2 * schedule.microbatches_per_device * pipeline + 2
    if parallel.data is not None and parallel.microbatch_size is not None:
        replicas_sequences = parallel.data * parallel.microbatch_size
        m = max(1, round(parallel.global_batch_sequences / replicas_sequences))
    fault = schedule.fault(pipeline=pipeline, virtual_stages=chunks, num_microbatches=m)
    if not fault and pipeline * chunks > model.num_layers:
        fault = (
            f"{schedule.name} cuts {model.name} into {pipeline * chunks} stages, but it has only "
            f"{model.num_layers} layers. Set parallel.pipeline={model.num_layers // chunks} or less"
        )
    if fault:
        raise PlanError(f"parallel.schedule: {fault}.")


def _check_experts(model: ModelSpec, parallel: ParallelSpec) -> None:
    """Refuse experts on chips that do not make whole groups of a stage."""
    tensor, context = parallel.tensor, parallel.context
    data, expert = parallel.data, parallel.expert
    if model.experts is None or not (tensor and context and data and expert):
        return
    group = tensor * context
    if experts_fit(group, expert, data, data):
        return
    fitting = [
        degree
        for degree in divisors(model.experts.num_experts, expert)
        if experts_fit(group, degree, data, data)
    ]
    raise PlanError(
        f"parallel.expert: {expert} chips that share experts do not divide the "
        f"{group * data} of a stage (tensor {tensor} x context {context} x data {data}) in whole "
        f"groups. Set parallel.expert={max(fitting)}."
    )


def check_expert_load(parallel: ParallelSpec, model: ModelSpec) -> None:
    """Refuse a load that no routing gives.

    Raises:
        PlanError: with the nearest that one does.
    """
    load, experts = parallel.expert_load, model.experts
    if load is None:
        return
    if experts is None:
        raise PlanError(
            f"parallel.expert_load: {load:g}, but {model.name} has no experts. "
            "Set parallel.expert_load=null."
        )
    # A token goes to an expert once at most.
    most = experts.num_experts / experts.num_experts_per_token
    if load > most:
        raise PlanError(
            f"parallel.expert_load: {load:g} is more than {most:g}, at which every token of "
            f"{model.name} goes to the busiest expert ({experts.num_experts_per_token} of "
            f"{experts.num_experts}). Set parallel.expert_load={most:g} or less."
        )


def fullest_bytes(counts: PlanCounts) -> Floats:
    """Bytes per chip of the fullest stage of each plan, so many plans at a time."""
    chunks = [total_bytes(counts.rows(rows)) for rows in counts.plans.chunks()]
    return np.concatenate(chunks) if chunks else np.zeros(0)


def evaluate(
    steps: StepModel, plans: PlanTable, memory_limit: float, is_exchange_open: bool = False
) -> Evaluated:
    """The steps of all plans that fit the memory, each with its best exchange if that is open."""
    counts = PlanCounts.of(steps.model, plans, steps.one_chip)
    counts = counts.rows(np.flatnonzero(fullest_bytes(counts) <= memory_limit))
    if not len(counts.plans):
        return Evaluated(num_plans=len(plans), plans=counts.plans, seconds=np.zeros(0))
    if is_exchange_open:
        counts = with_fastest_context(steps, counts)
    fitting = counts.plans
    timed = TimedPlans.of(steps, counts)
    chunks = [step_times(timed.rows(rows)).seconds for rows in fitting.chunks()]
    return Evaluated(num_plans=len(plans), plans=fitting, seconds=np.concatenate(chunks))


def best_plan(
    steps: StepModel, parallel: ParallelSpec, num_chips: int, memory_limit: float
) -> Found | None:
    """The plan with most tokens per second whose memory fits, or None."""
    plans = legal_plans(steps.model, steps.cluster, parallel, num_chips)
    is_open = parallel.context_exchange is None
    found = evaluate(steps, plans, memory_limit, is_open) if len(plans) else None
    if found is None or not len(found.plans):
        return None
    plan = found.plans.plan(int(np.argmin(found.seconds_per_sequence)))
    step = step_time(steps, plan)
    return Found(
        step=step,
        memory=memory_of(steps, plan),
        summary=_summary(steps, found, step),
    )


def memory_of(steps: StepModel, plan: PlanChoice) -> MemoryUse:
    """Bytes per chip of the fullest stage of one plan."""
    return memory_use(steps.model, plan, steps.sequence_length, steps.dtype, steps.expert_load)


def _summary(steps: StepModel, found: Evaluated, step: StepTime) -> SearchSummary:
    """What else there was, and what holds the best plan back."""
    rates = found.seconds_per_sequence
    best = rates.min()
    kinds = _kinds(found.plans)
    tied = np.unique(kinds[rates < best * (1 + TIE)])
    others = [part for part in step.parts if part.name != "compute"]
    largest = max(others, key=lambda part: part.seconds, default=None)
    doubled = replace(step.plan, num_microbatches=2 * step.plan.num_microbatches)
    return SearchSummary(
        num_enumerated=found.num_plans,
        num_fitting=len(found.plans),
        num_tied_kinds=len(tied) - 1,
        alternatives=tuple(
            Alternative(
                plan=found.plans.plan(row),
                step_time_s=float(found.seconds[row]),
                tokens_per_second=float(steps.sequence_length / rates[row]),
                slower=float(1 - best / rates[row]),
                is_tie=bool(rates[row] < best * (1 + TIE)),
            )
            for row in _best_of_each_kind(rates, kinds)[1 : 1 + MAX_ALTERNATIVES]
        ),
        largest_part=largest.name if largest else "",
        largest_part_share=largest.seconds / step.seconds if largest else 0.0,
        double_batch_gain=2 * step.seconds / step_time(steps, doubled).seconds - 1,
    )


def _kinds(plans: PlanTable) -> Ints:
    """A number for each kind of plan."""
    kind = np.zeros(len(plans), dtype=np.int64)
    for column in (
        *(plans.tensor, plans.pipeline, plans.context, plans.expert),
        *(plans.zero_stage, plans.shard_group, plans.recompute),
    ):
        kind = kind * (int(column.max()) + 1) + column
    return kind


def _best_of_each_kind(rates: Floats, kinds: Ints) -> list[int]:
    """The rows of the best plan of the fastest kinds, the fastest first."""
    num_ranked = min(len(rates), RANKED)
    rows = np.argpartition(rates, num_ranked - 1)[:num_ranked]
    rows = rows[np.argsort(rates[rows], kind="stable")]
    _, first = np.unique(kinds[rows], return_index=True)
    return [int(row) for row in rows[np.sort(first)]]


def memory_error(
    steps: StepModel, parallel: ParallelSpec, num_chips: int, memory_limit: float
) -> PlanError:
    """Why nothing fits: the leanest plan's memory by part, and the nearest plan that does fit."""
    fixed = {name: getattr(parallel, name) for name in FIXABLE}
    plans = legal_plans(steps.model, steps.cluster, parallel, num_chips)
    if not len(plans):
        return nothing_legal(steps.model.name, num_chips, fixed)
    counts = PlanCounts.of(steps.model, plans, steps.one_chip)
    plan = plans.plan(int(np.argmin(fullest_bytes(counts))))
    use = memory_of(steps, plan)
    free = replace(
        parallel,
        tensor=None,
        pipeline=None,
        data=None,
        virtual_stages=None,
        microbatch_size=None,
        zero_stage=None,
        shard_group=None,
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
