"""A training step on islands of different chips as one projection: one step, one batch, one bill.

Throughput, goodput, power and cost are of all islands together; parts, ops and memory are those of
the slowest island, which the others wait for.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from harness.device.chip import ChipSpec
from harness.errors import ConfigError, PlanError
from harness.extrapolate.at_scale import (
    TrainingGoal,
    energy_of,
    power_of_chip,
    scale_assumptions,
    state_bytes,
    training_run,
)
from harness.extrapolate.calibration import NONE, Calibration
from harness.extrapolate.cluster import ClusterSpec, Storage, Stragglers
from harness.extrapolate.critical_batch import batch_efficiency
from harness.extrapolate.goodput_interval import goodput_with_interval
from harness.extrapolate.islands import Part, Question, exchange_s, in_step
from harness.extrapolate.lookup import CostFunction, Lookup
from harness.extrapolate.power import draw_of
from harness.extrapolate.project import NO_GOAL
from harness.extrapolate.step import StepModel
from harness.extrapolate.step_power import step_work
from harness.projection import Interval, IslandShare, Projection, ScalePoint, StepPart
from harness.units import GIGA, span
from harness.workload.model import CausalCount, ModelSpec
from harness.workload.plan import ParallelSpec

SCALE_STEP = 4
"""From one number of chips of the scaling curve to the next; each is a search per island."""
EXCHANGE = "exposed exchange between islands"


def project_mixed(
    *,
    chips: Sequence[ChipSpec],
    model: ModelSpec,
    cluster: ClusterSpec,
    parallel: ParallelSpec,
    cost: CostFunction,
    strict: bool = False,
    goal: TrainingGoal = NO_GOAL,
    calibration: Calibration = NONE,
) -> Projection:
    """A training step on the islands of a mixed cluster; `chips` are those of the islands.

    Raises:
        PlanError: when an island cannot hold a replica of the model, or the batch gives it no
            sequence.
        ConfigError: when degrees are fixed that cannot be those of all islands, or a rate is
            unknown.
    """
    assert len(chips) == len(cluster.islands), "each island has its chip"
    if parallel.data is not None:
        raise ConfigError(
            f"parallel.data: {parallel.data} is fixed, but each island has as many replicas as "
            "fit. Set parallel.data=null."
        )
    question = Question(
        model=model,
        parallel=parallel,
        cost=cost,
        strict=strict,
        goal=goal,
        calibration=calibration,
    )
    parts = in_step(question, cluster, chips)
    headline = _point(question, cluster, parts)
    scaling = [*_smaller(question, cluster, chips), headline]
    slowest = max(parts, key=lambda part: part.seconds)
    own = slowest.projection
    exchanged = StepPart(name=EXCHANGE, seconds=exchange_s(cluster, model.num_parameters))
    return replace(
        own,
        chip=" + ".join(dict.fromkeys(chip.name for chip in chips)),
        cluster=cluster.name,
        headline=headline,
        scaling=tuple(scaling),
        parts=(*own.parts, exchanged),
        mfu=headline.mfu,
        hfu=_hfu(parallel, parts, headline),
        interval_basis=f"That of the slowest island: {own.interval_basis}",
        assumptions=_assumptions(question, cluster, parts, headline),
        num_plans_considered=sum(part.projection.num_plans_considered for part in parts),
        islands=tuple(_share(part, headline) for part in parts),
        training_run=training_run(headline, goal),
    )


def _smaller(
    question: Question, cluster: ClusterSpec, chips: Sequence[ChipSpec]
) -> list[ScalePoint]:
    """The same proportions on fewer chips, where every island can hold the model."""
    points = []
    size = cluster.num_chips // SCALE_STEP
    while size >= 8 * len(chips):
        smaller = cluster.with_num_chips(size)
        try:
            points.append(_point(question, smaller, in_step(question, smaller, chips)))
        except PlanError:
            break
        size //= SCALE_STEP
    return points[::-1]


def _point(question: Question, cluster: ClusterSpec, parts: Sequence[Part]) -> ScalePoint:
    """All islands together; the plan is that of the slowest."""
    slowest = max(parts, key=lambda part: part.seconds).point
    seconds = slowest.step_time_s.value + exchange_s(cluster, question.model.num_parameters)
    low = seconds * slowest.step_time_s.low / slowest.step_time_s.value
    high = seconds * slowest.step_time_s.high / slowest.step_time_s.value
    sequences = sum(part.sequences for part in parts)
    tokens = float(sequences * question.parallel.sequence_length)
    used = sum(part.point.num_chips_used for part in parts)
    wall_time = goodput_with_interval(
        replace(cluster, storage=_storage(cluster), stragglers=_stragglers(cluster)),
        num_chips=used,
        state_bytes=state_bytes(question.model, question.parallel.dtype),
        step_s=seconds,
        num_replicas=sum(part.point.plan.data for part in parts),
    )
    draws = []
    for part in parts:
        constants = question.calibration.constants(part.chip.name, question.parallel.software)
        lookup = Lookup(part.chip, question.cost, constants=constants)
        power = power_of_chip(part.chip, part.cluster, lookup)
        if power is not None:
            steps = StepModel.of(question.model, part.cluster, lookup, question.parallel)
            work = step_work(steps, part.point.plan, power)
            draws.append(draw_of(part.cluster, power, work, part.point.num_chips_used))
    step_s = Interval(value=seconds, low=low, high=high)
    energy = None
    if len(draws) == len(parts):
        energy = energy_of(draws, step_s, tokens, wall_time)
    return ScalePoint(
        num_chips=cluster.num_chips,
        num_chips_used=used,
        plan=slowest.plan,
        global_batch_sequences=sequences,
        step_time_s=step_s,
        tokens_per_second=Interval(value=tokens / seconds, low=tokens / high, high=tokens / low),
        mfu=_mfu(question, parts, tokens / seconds),
        goodput=wall_time.share,
        wall_time=wall_time,
        energy=energy,
        batch=batch_efficiency(
            tokens,
            num_active_parameters=question.model.num_active_parameters,
            train_tokens=question.goal.tokens,
            train_loss=question.goal.loss,
        ),
    )


def _storage(cluster: ClusterSpec) -> Storage | None:
    """The cluster's own, or the slowest rates of all islands."""
    each = [island.storage for island in cluster.islands]
    known = [one for one in each if one is not None]
    if cluster.storage is not None or len(known) < len(each):
        return cluster.storage
    return Storage(
        write_bytes_per_s_per_chip=min(one.write_bytes_per_s_per_chip for one in known),
        read_bytes_per_s_per_chip=min(one.read_bytes_per_s_per_chip for one in known),
        host_copy_bytes_per_s_per_chip=min(one.host_copy_bytes_per_s_per_chip for one in known),
        is_asynchronous=all(one.is_asynchronous for one in known),
        overhead_s=max(one.overhead_s for one in known),
        source="the slowest rates of the islands",
    )


def _stragglers(cluster: ClusterSpec) -> Stragglers | None:
    """The cluster's own, or stalls of all islands; their spread is in their own steps."""
    known = [island.stragglers for island in cluster.islands if island.stragglers is not None]
    if cluster.stragglers is not None or not known:
        return cluster.stragglers
    stalls = math.fsum(
        island.num_chips * island.stragglers.stalls_per_chip_hour
        for island in cluster.islands
        if island.stragglers is not None
    )
    return replace(
        max(known, key=lambda one: one.stall_s), stalls_per_chip_hour=stalls / cluster.num_chips
    )


def _peak(parallel: ParallelSpec, parts: Sequence[Part]) -> float | None:
    """Dense peaks of all chips in use; None where one is not known."""
    total = 0.0
    for part in parts:
        peak = part.chip.peak(parallel.dtype)
        if peak is None:
            return None
        total += peak * part.point.num_chips_used
    return total


def _mfu(question: Question, parts: Sequence[Part], tokens_per_s: float) -> float | None:
    peak = _peak(question.parallel, parts)
    if peak is None:
        return None
    length = question.parallel.sequence_length
    flops = question.model.model_flops_per_token(length, CausalCount.CAUSAL)
    return tokens_per_s * flops / peak


def _hfu(parallel: ParallelSpec, parts: Sequence[Part], headline: ScalePoint) -> float | None:
    """FLOPs of all islands, each in its own time, over the peaks in the common time."""
    peak = _peak(parallel, parts)
    if peak is None:
        return None
    done = 0.0
    for part in parts:
        own, hfu = part.chip.peak(parallel.dtype), part.projection.hfu
        assert own is not None, "the sum of the peaks is known"
        assert hfu is not None, "a peak that is known gives a share of it"
        done += hfu * own * part.point.num_chips_used * part.seconds
    return done / (peak * headline.step_time_s.value)


def _share(part: Part, headline: ScalePoint) -> IslandShare:
    point = part.point
    part_of_batch = point.global_batch_sequences / headline.global_batch_sequences
    return IslandShare(
        cluster=part.cluster.name,
        chip=part.chip.name,
        num_chips=part.cluster.num_chips,
        plan=point.plan,
        sequences=point.global_batch_sequences,
        step_time_s=part.seconds,
        tokens_per_second=part_of_batch * headline.tokens_per_second.value,
        mfu=point.mfu,
    )


def _assumptions(
    question: Question, cluster: ClusterSpec, parts: Sequence[Part], headline: ScalePoint
) -> tuple[str, ...]:
    """Everything taken on trust, one sentence each."""
    tokens = headline.global_batch_sequences * question.parallel.sequence_length
    slowest = max(part.seconds for part in parts)
    shares = ", ".join(
        f"{part.cluster.name} {part.sequences / headline.global_batch_sequences:.0%}"
        for part in parts
    )
    waits = ", ".join(f"{1 - part.seconds / slowest:.1%}" for part in parts)
    exchanged_s = exchange_s(cluster, question.model.num_parameters)
    tier = cluster.tiers[-1]
    return (
        "Each island holds whole replicas under its own best plan and takes a share of the common "
        f"batch in proportion to its speed ({shares}); they wait {waits} of the slowest island's "
        "time.",
        f"Once per step the islands add up their gradients in {span(exchanged_s)} over the "
        f"{tier.name}, {tier.achieved_bytes_per_s_per_chip / GIGA:.3g} GB/s for each chip of the "
        "smallest island; nothing hides it.",
        "Chips of different makers round alike enough to train one model, with one data type and "
        "one set of kernels' numerics; nobody has published this at such a size.",
        "A failure on any island stops all of them; parts, ops and memory are those of the slowest "
        "island, and no measurement enters.",
        f"A step has {tokens:,} tokens ({headline.global_batch_sequences:,} sequences), where "
        f"{question.parallel.global_batch_tokens:,} were asked for.",
        *scale_assumptions(headline),
        *cluster.assumptions,
        *_of_islands(cluster),
    )


def _of_islands(cluster: ClusterSpec) -> list[str]:
    """What the islands' files take on trust, each sentence once with the islands it is of."""
    said: dict[str, list[str]] = {}
    for island in cluster.islands:
        for text in island.assumptions:
            said.setdefault(text, []).append(island.name)
    return [f"{', '.join(names)}: {text}" for text, names in said.items()]
