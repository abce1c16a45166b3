"""Islands of different chips that train one model: which share of the batch each gets.

Each island holds whole replicas of the model under its own best plan, so that tensor, pipeline,
context and expert groups stay within it, and takes a share of the batch in proportion to its
speed. A step takes

    t = max over islands of t_i(b_i) + exchange          sum of b_i = B

The shares follow from the islands' rates at the shares before, a few times over. Of the plans found
on the way those are taken that together do most, and then each island's microbatches are moved by
one at a time while that helps: a share comes in whole microbatches of all replicas of an island.

Once per step the islands add up their gradients. Each of the n islands has the gradient once, cut
over its chips, and a ring of islands moves 2 (n - 1)/n of its bytes over the links between them,
as wide as those of the smallest island. Nothing hides it.

Source: the ring of Thakur et al. (2005) over islands in place of chips; shares in proportion to
speed as in heterogeneity-aware data parallelism (Whale, arXiv 2011.09208).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.device.chip import ChipSpec
from harness.errors import PlanError
from harness.extrapolate.at_scale import TrainingGoal
from harness.extrapolate.calibration import Calibration
from harness.extrapolate.cluster import ClusterSpec, NetworkTier, shared_out
from harness.extrapolate.legal_plans import BATCH_TOLERANCE
from harness.extrapolate.lookup import CostFunction
from harness.extrapolate.priors import BEST_SHARE_OF_PEAK, GRADIENT_BYTES_ON_WIRE
from harness.extrapolate.project import project
from harness.projection import PlanChoice, Projection, ScalePoint
from harness.units import GIGA
from harness.workload.model import ModelSpec
from harness.workload.plan import ParallelSpec

MAX_ROUNDS = 5
"""Shares settle after two or three."""
MAX_MOVES = 4
"""Of a microbatch of each island."""
SETTLED = 0.01
"""Islands whose times differ by no more are in step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of every island."""

    model: ModelSpec
    parallel: ParallelSpec
    cost: CostFunction
    strict: bool
    goal: TrainingGoal
    calibration: Calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
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


def in_step(
    question: Question, cluster: ClusterSpec, chips: Sequence[ChipSpec]
) -> tuple[Part, ...]:
    """The islands with shares that let them end together, as nearly as microbatches allow."""
    total = question.parallel.global_batch_sequences
    exchange = exchange_s(cluster, question.model.num_parameters)
    islands = list(zip(cluster.islands, chips, strict=True))
    rates = [_first_rate(*island, question.parallel.dtype) for island in islands]
    options: list[dict[PlanChoice, Part]] = [{} for _ in islands]
    seen: set[tuple[int, ...]] = set()
    for _ in range(MAX_ROUNDS):
        shares = shared_out([max(1, round(rate / max(rates) * 1e6)) for rate in rates], total)
        if tuple(shares) in seen:
            break
        seen.add(tuple(shares))
        parts = [
            _island(question, *island, share) for island, share in zip(islands, shares, strict=True)
        ]
        for found, part in zip(options, parts, strict=True):
            found[part.point.plan] = part
        times = [part.seconds for part in parts]
        if max(times) / min(times) - 1 <= SETTLED:
            break
        rates = [part.sequences / part.seconds for part in parts]
    return _balanced(question, tuple(parts), options, exchange)


def _island(
    question: Question,
    cluster: ClusterSpec,
    chip: ChipSpec,
    sequences: int,
    plan: PlanChoice | None = None,
) -> Part:
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
            shard_group=plan.shard_group,
            context_exchange=plan.context_exchange,
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
            calibration=question.calibration,
            sizes=(),
        )
    except PlanError as error:
        raise PlanError(f"island {cluster.name}: {error}") from None
    return Part(cluster=cluster, chip=chip, projection=found)


def _first_rate(cluster: ClusterSpec, chip: ChipSpec, dtype: str) -> float:
    """A first guess of an island's speed: its chips' rate of matrix products."""
    rate = chip.achievable(dtype) or BEST_SHARE_OF_PEAK.value * (chip.peak(dtype) or 0.0)
    return cluster.num_chips * (rate or GIGA)


def _rate(parts: Sequence[Part], exchange: float) -> float:
    """Sequences per second of all islands together."""
    slowest = max(part.seconds for part in parts)
    return sum(part.sequences for part in parts) / (slowest + exchange)


def _balanced(
    question: Question,
    parts: tuple[Part, ...],
    options: Sequence[dict[PlanChoice, Part]],
    exchange: float,
) -> tuple[Part, ...]:
    """The plans found that together do most, a microbatch moved at a time while that helps."""
    total = question.parallel.global_batch_sequences
    best = _best_together(parts, options, total, exchange)
    for _ in range(MAX_MOVES):
        for part, found in zip(best, options, strict=True):
            _add_neighbours(question, part, found)
        better = _best_together(best, options, total, exchange)
        if _rate(better, exchange) <= _rate(best, exchange):
            break
        best = better
    return best


def _best_together(
    parts: tuple[Part, ...],
    options: Sequence[dict[PlanChoice, Part]],
    total: int,
    exchange: float,
) -> tuple[Part, ...]:
    """One option of each island, so that they do most with about the batch that was asked for."""
    allowed = (
        choice
        for choice in itertools.product(*(found.values() for found in options))
        if abs(sum(part.sequences for part in choice) / total - 1) <= BATCH_TOLERANCE
    )
    return max([parts, *allowed], key=lambda choice: _rate(choice, exchange))


def _add_neighbours(question: Question, part: Part, found: dict[PlanChoice, Part]) -> None:
    """The part's plan with one microbatch less and more, where that can be."""
    plan = part.point.plan
    for count in (plan.num_microbatches - 1, plan.num_microbatches + 1):
        moved = replace(plan, num_microbatches=count)
        if count < 1 or moved in found:
            continue
        sequences = plan.data * plan.microbatch_size * count
        try:
            found[moved] = _island(question, part.cluster, part.chip, sequences, plan)
        except PlanError:
            continue  # It does not fit the memory, or leaves replicas idle: no option.
