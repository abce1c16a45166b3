"""A training step on islands of different chips: one model, one batch, every island in step.

Each island holds whole replicas of the model under its own best plan, so that tensor, pipeline,
context and expert groups stay within it, and takes a share of the batch in proportion to its
speed. A step takes

    t = max over islands of t_i(b_i) + exchange          sum of b_i = B

The shares follow from the islands' rates at the shares before, a few times over; then each
island's microbatches are moved by one where that gives more tokens per second, since a share comes
in whole microbatches of all replicas of an island.

Once per step the islands add up their gradients. Each of the n islands has the gradient once, cut
over its chips, and a ring of islands moves 2 (n - 1)/n of its bytes over the links between them,
as wide as those of the smallest island. Nothing hides it.

Source: the ring of Thakur et al. (2005) over islands in place of chips; shares in proportion to
speed as in heterogeneity-aware data parallelism (Whale, arXiv 2011.09208).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from harness.extrapolate.cluster import ClusterSpec, NetworkTier, Storage, Stragglers, shared_out
from harness.extrapolate.critical_batch import batch_efficiency
from harness.extrapolate.goodput_interval import goodput_with_interval
from harness.extrapolate.lookup import CostFunction, Lookup
from harness.extrapolate.power import draw_of
from harness.extrapolate.priors import BEST_SHARE_OF_PEAK, GRADIENT_BYTES_ON_WIRE
from harness.extrapolate.project import CONFIDENCE, NO_GOAL, interval_basis, project
from harness.extrapolate.search import BATCH_TOLERANCE
from harness.extrapolate.step import StepModel
from harness.extrapolate.step_power import step_work
from harness.projection import (
    Interval,
    IslandShare,
    PlanChoice,
    Projection,
    ScalePoint,
    StepPart,
)
from harness.units import GIGA, span
from harness.workload.model import CausalCount, ModelSpec
from harness.workload.plan import ParallelSpec

MAX_ROUNDS = 5
"""Shares settle after two or three."""
SETTLED = 0.01
"""Islands whose times differ by no more are in step."""
SCALE_STEP = 4
"""From one number of chips of the scaling curve to the next; each is a search per island."""
EXCHANGE = "exposed exchange between islands"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What is asked of every island."""

    model: ModelSpec
    parallel: ParallelSpec
    cost: CostFunction
    strict: bool
    goal: TrainingGoal


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One island with its share of the batch."""

    cluster: ClusterSpec
    chip: ChipSpec
    projection: Projection

    @property
    def point(self) -> ScalePoint:
        """What it does alone."""
        return self.projection.headline

    @property
    def seconds(self) -> float:
        """Its own step."""
        return self.point.step_time_s.value

    @property
    def sequences(self) -> int:
        """Its share of the batch."""
        return self.point.global_batch_sequences


def exchange_s(cluster: ClusterSpec, num_parameters: float) -> float:
    """The gradients of all islands added up over the links between them."""
    tier: NetworkTier = cluster.tiers[-1]
    count = len(cluster.islands)
    least = min(island.num_chips for island in cluster.islands)
    rate = least * tier.achieved_bytes_per_s_per_chip / tier.oversubscription
    moved = 2 * (count - 1) / count * num_parameters * GRADIENT_BYTES_ON_WIRE
    return moved / rate + 2 * (count - 1) * tier.latency_s


def project_mixed(
    *,
    chips: Sequence[ChipSpec],
    model: ModelSpec,
    cluster: ClusterSpec,
    parallel: ParallelSpec,
    cost: CostFunction,
    strict: bool = False,
    goal: TrainingGoal = NO_GOAL,
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
    question = _Question(model=model, parallel=parallel, cost=cost, strict=strict, goal=goal)
    parts = _in_step(question, cluster, chips)
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
        interval_confidence=CONFIDENCE,
        interval_basis=interval_basis(model, cluster.num_chips),
        assumptions=_assumptions(question, cluster, parts, headline),
        num_plans_considered=sum(part.projection.num_plans_considered for part in parts),
        islands=tuple(_share(part, headline) for part in parts),
        training_run=training_run(headline, goal),
    )


def _island(
    question: _Question,
    cluster: ClusterSpec,
    chip: ChipSpec,
    sequences: int,
    plan: PlanChoice | None = None,
) -> _Part:
    """The island's best plan for so many sequences of each step, or that plan."""
    parallel = question.parallel
    length = parallel.sequence_length
    if sequences < 1:
        raise PlanError(
            f"parallel.global_batch_tokens: {parallel.global_batch_tokens} gives island "
            f"{cluster.name} no sequence. Set parallel.global_batch_tokens="
            f"{2 * parallel.global_batch_tokens} or more."
        )
    asked = replace(parallel, global_batch_tokens=sequences * length)
    if plan is not None:
        asked = replace(
            asked,
            tensor=plan.tensor,
            pipeline=plan.pipeline,
            data=plan.data,
            expert=plan.expert,
            context=plan.context,
            virtual_stages=plan.virtual_stages,
            microbatch_size=plan.microbatch_size,
            zero_stage=plan.zero_stage,
            recompute=plan.recompute,
        )
    try:
        found = project(
            chip=chip,
            model=question.model,
            cluster=cluster,
            parallel=asked,
            cost=question.cost,
            strict=question.strict,
            goal=question.goal,
            sizes=(),
        )
    except PlanError as error:
        raise PlanError(f"island {cluster.name}: {error}") from None
    return _Part(cluster=cluster, chip=chip, projection=found)


def _first_rate(cluster: ClusterSpec, chip: ChipSpec, dtype: str) -> float:
    """A first guess of an island's speed: its chips' rate of matrix products."""
    rate = chip.achievable(dtype) or BEST_SHARE_OF_PEAK.value * (chip.peak(dtype) or 0.0)
    return cluster.num_chips * (rate or GIGA)


def _in_step(
    question: _Question, cluster: ClusterSpec, chips: Sequence[ChipSpec]
) -> tuple[_Part, ...]:
    """The islands with shares that let them end together, as nearly as microbatches allow."""
    total = question.parallel.global_batch_sequences
    exchange = exchange_s(cluster, question.model.num_parameters)
    islands = list(zip(cluster.islands, chips, strict=True))
    rates = [_first_rate(*island, question.parallel.dtype) for island in islands]
    best: tuple[_Part, ...] = ()
    seen: set[tuple[int, ...]] = set()
    for _ in range(MAX_ROUNDS):
        shares = shared_out([max(1, round(rate / max(rates) * 1e6)) for rate in rates], total)
        if tuple(shares) in seen:
            break
        seen.add(tuple(shares))
        parts = tuple(
            _island(question, *island, share) for island, share in zip(islands, shares, strict=True)
        )
        if not best or _rate(parts, exchange) > _rate(best, exchange):
            best = parts
        times = [part.seconds for part in parts]
        if max(times) / min(times) - 1 <= SETTLED:
            break
        rates = [part.sequences / part.seconds for part in parts]
    return _balanced(question, best, total, exchange)


def _rate(parts: Sequence[_Part], exchange: float) -> float:
    """Sequences per second of all islands together."""
    slowest = max(part.seconds for part in parts)
    return sum(part.sequences for part in parts) / (slowest + exchange)


def _balanced(
    question: _Question, parts: tuple[_Part, ...], total: int, exchange: float
) -> tuple[_Part, ...]:
    """The same plans with a microbatch more or less, where all together then do more."""
    options = []
    for part in parts:
        plan = part.point.plan
        quantum = plan.data * plan.microbatch_size
        found = [part]
        for count in (plan.num_microbatches - 1, plan.num_microbatches + 1):
            if count < 1:
                continue
            try:
                found.append(_island(question, part.cluster, part.chip, quantum * count, plan))
            except PlanError:
                continue  # It does not fit the memory, or leaves replicas idle: no option.
        options.append(found)
    allowed = [
        choice
        for choice in itertools.product(*options)
        if abs(sum(part.sequences for part in choice) / total - 1) <= BATCH_TOLERANCE
    ]
    return max([parts, *allowed], key=lambda choice: _rate(choice, exchange))


def _smaller(
    question: _Question, cluster: ClusterSpec, chips: Sequence[ChipSpec]
) -> list[ScalePoint]:
    """The same proportions on fewer chips, where every island can hold the model."""
    points = []
    size = cluster.num_chips // SCALE_STEP
    while size >= 8 * len(chips):
        smaller = cluster.with_num_chips(size)
        try:
            points.append(_point(question, smaller, _in_step(question, smaller, chips)))
        except PlanError:
            break
        size //= SCALE_STEP
    return points[::-1]


def _point(question: _Question, cluster: ClusterSpec, parts: Sequence[_Part]) -> ScalePoint:
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
        lookup = Lookup(part.chip, question.cost)
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


def _peak(parallel: ParallelSpec, parts: Sequence[_Part]) -> float | None:
    """Dense peaks of all chips in use; None where one is not known."""
    total = 0.0
    for part in parts:
        peak = part.chip.peak(parallel.dtype)
        if peak is None:
            return None
        total += peak * part.point.num_chips_used
    return total


def _mfu(question: _Question, parts: Sequence[_Part], tokens_per_s: float) -> float | None:
    peak = _peak(question.parallel, parts)
    if peak is None:
        return None
    length = question.parallel.sequence_length
    flops = question.model.model_flops_per_token(length, CausalCount.CAUSAL)
    return tokens_per_s * flops / peak


def _hfu(parallel: ParallelSpec, parts: Sequence[_Part], headline: ScalePoint) -> float | None:
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


def _share(part: _Part, headline: ScalePoint) -> IslandShare:
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
    question: _Question, cluster: ClusterSpec, parts: Sequence[_Part], headline: ScalePoint
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
