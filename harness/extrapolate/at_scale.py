"""What a plan's step becomes on a real cluster: slower chips, failures, power, cost, batch size.

The step itself is of chips that all work as the one measured. Here is what a cluster's file adds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.device.chip import ChipSpec
from harness.extrapolate.chip_power import ChipPower, chip_power, fitted
from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.critical_batch import batch_efficiency
from harness.extrapolate.goodput_interval import goodput_with_interval
from harness.extrapolate.lookup import Lookup
from harness.extrapolate.memory import OPTIMIZER_BYTES
from harness.extrapolate.plan_step import StepTime
from harness.extrapolate.power import JOULES_PER_KWH, Draw, draw_of, energy_use, with_intervals
from harness.extrapolate.shard_table import SIZE_BYTES
from harness.extrapolate.step import StepModel
from harness.extrapolate.step_power import clock_factor, slowdown_s, step_work
from harness.extrapolate.stragglers import straggler_share
from harness.projection import (
    EnergyUse,
    Goodput,
    Interval,
    ScalePoint,
    StepPart,
    TrainingRun,
    product,
)
from harness.units import SECONDS_PER_HOUR, span, with_prefix
from harness.workload.model import ModelSpec

JITTER = "jitter across chips"
"""The part of a step that holds the measured growth with the number of chips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingGoal:
    """What is trained for; a value that is None is not known."""

    tokens: float | None = None
    loss: float | None = None
    """Training loss in nats per token, which decides the critical batch where it is given."""


def state_bytes(model: ModelSpec, dtype: str) -> float:
    """What a checkpoint holds: weights, their fp32 copy and Adam's two moments.

    Source: Megatron-LM's distributed checkpoints, which keep both copies of the weights.
    """
    return float(model.num_parameters * (SIZE_BYTES[dtype] + OPTIMIZER_BYTES))


def power_of_chip(chip: ChipSpec, cluster: ClusterSpec, lookup: Lookup) -> ChipPower | None:
    """The chip's power on that cluster, by its own measured energy where there is enough of it.

    None where nobody tells the chip's power.
    """
    known = None if cluster.power is None else chip_power(chip, cluster.power)
    return None if known is None else fitted(known, lookup.records, lookup.cost)


def slower_parts(
    steps: StepModel, step: StepTime, chip: ChipSpec, num_chips: int
) -> tuple[StepPart, ...]:
    """Parts that the cluster's file adds to a step: its chips' spread, and a power limit."""
    cluster = steps.cluster
    found: dict[str, float] = {}
    if cluster.stragglers is not None:
        busy_s = step.plan.num_microbatches * step.microbatch_s
        known_s = sum(part.seconds for part in step.parts if part.name == JITTER)
        domain = min(cluster.tiers[0].chips, num_chips)
        lost_s = busy_s * straggler_share(cluster.stragglers, step.plan.num_chips, domain)
        found["spread of the chips beyond the jitter"] = lost_s - known_s
    power = power_of_chip(chip, cluster, steps.lookup)
    if power is not None and power.limit_w < power.design_w:
        work = step_work(steps, step.plan, power)
        found["power limit"] = slowdown_s(work, clock_factor(work, power))
    return tuple(StepPart(name=name, seconds=lost) for name, lost in found.items() if lost > 0)


def at_scale(
    point: ScalePoint,
    steps: StepModel,
    chip: ChipSpec,
    goal: TrainingGoal,
    *,
    sequence_length: int,
) -> ScalePoint:
    """The point with its goodput, power and batch; its cluster has the point's chips."""
    cluster = steps.cluster.with_num_chips(point.num_chips)
    used = point.num_chips_used
    tokens = float(point.global_batch_sequences * sequence_length)
    wall_time = goodput_with_interval(
        cluster,
        num_chips=used,
        state_bytes=state_bytes(steps.model, steps.dtype),
        step_s=point.step_time_s.value,
        num_replicas=point.plan.data,
        idle_chips=point.num_chips - used,
    )
    power = power_of_chip(chip, cluster, steps.lookup)
    draws: tuple[Draw, ...] = ()
    if power is not None:
        draws = (draw_of(cluster, power, step_work(steps, point.plan, power), used),)
    energy = energy_of(draws, point.step_time_s, tokens, wall_time)
    return replace(
        point,
        goodput=wall_time.share,
        wall_time=wall_time,
        energy=energy,
        batch=batch_efficiency(
            tokens,
            num_active_parameters=steps.model.num_active_parameters,
            train_tokens=goal.tokens,
            train_loss=goal.loss,
        ),
    )


def energy_of(
    draws: Sequence[Draw], step_s: Interval, step_tokens: float, wall_time: Goodput
) -> EnergyUse | None:
    """Power, energy and cost with their intervals; None where there is no draw."""
    if not draws:
        return None

    def use(seconds: float, share: float) -> EnergyUse:
        return energy_use(
            draws, step_s=seconds, step_tokens=step_tokens, wall_time=with_share(wall_time, share)
        )

    found = use(step_s.value, wall_time.share)
    goods = wall_time.interval
    if goods is None or goods.low <= 0:
        return found
    # Time and goodput err independently, so that both at their ends at once is too far.
    both = product(step_s, Interval(value=1.0, low=goods.value / goods.high, high=1.0))
    worse = product(step_s, Interval(value=1.0, low=1.0, high=goods.value / goods.low))
    return with_intervals(
        found,
        slow=use(step_s.high, goods.value * step_s.high / worse.high),
        fast=use(step_s.low, min(1.0, goods.value * step_s.low / both.low)),
    )


def with_share(wall_time: Goodput, share: float) -> Goodput:
    """The wall time with another share of training, the losses in proportion."""
    lost = 1 - wall_time.share
    factor = (1 - share) / lost if lost > 0 else 0.0
    losses = tuple((name, factor * part) for name, part in wall_time.losses)
    return replace(wall_time, share=share, losses=losses)


def training_run(point: ScalePoint, goal: TrainingGoal) -> TrainingRun | None:
    """The whole run, where it is known how many tokens it has and any of them stays."""
    if goal.tokens is None or point.goodput == 0:
        return None
    seconds = goal.tokens / point.useful_tokens_per_second
    energy, cost, currency = None, None, ""
    if point.energy is not None:
        energy = point.energy.joules_per_token * goal.tokens / JOULES_PER_KWH
        currency = point.energy.currency
        if point.energy.cost_per_hour is not None:
            cost = point.energy.cost_per_hour * seconds / SECONDS_PER_HOUR
    return TrainingRun(
        tokens=goal.tokens, seconds=seconds, energy_kwh=energy, cost=cost, currency=currency
    )


def batch_assumption(point: ScalePoint) -> str:
    """What the batch's size takes on trust; a warning where it exceeds the critical one."""
    batch = point.batch
    assert batch is not None, "every point that is made has one"
    is_within = batch.batch_tokens <= batch.critical_tokens
    return (
        f"The batch of {with_prefix(batch.batch_tokens, 'tokens')} "
        f"{'is within' if is_within else 'exceeds'} the critical batch of "
        f"{with_prefix(batch.critical_tokens, 'tokens')}, estimated from {batch.basis}: each token "
        f"teaches {batch.share:.0%} of one in a small batch. The law is of models up to 1.5 "
        "billion parameters, far below this extrapolation."
    )


def scale_assumptions(point: ScalePoint) -> list[str]:
    """What batch, goodput and power take on trust, one sentence each."""
    found = [batch_assumption(point)]
    wall_time = point.wall_time
    if wall_time is not None:
        how = (
            "the failed replica leaves and the others go on"
            if wall_time.is_elastic
            else f"all go back to a checkpoint and need {span(wall_time.recovery_s)} to be back"
        )
        behind = (
            f", and {span(wall_time.checkpoint_behind_s)} more are written behind it"
            if wall_time.checkpoint_behind_s
            else ""
        )
        found.append(
            f"The job is interrupted every {span(wall_time.interruption_s)}, after which {how}; a "
            f"checkpoint of {span(wall_time.checkpoint_s)} is taken every "
            f"{span(wall_time.checkpoint_interval_s)}{behind}. This is in the goodput, not in "
            "the step."
        )
        if wall_time.spare_hosts is None:
            found.append("A spare host is always there when one fails.")
        elif wall_time.hosts_in_repair is not None:
            found.append(
                f"Of the hosts {wall_time.hosts_in_repair:.1f} are in repair on average; the "
                f"{wall_time.spare_hosts} spare ones do for all but "
                f"{wall_time.shortage_share:.2%} of the time, "
                f"{wall_time.spare_hosts_needed} for all but 0.1 %."
            )
    if point.energy is not None:
        measured = point.energy.num_measured_cases
        basis = (
            f"constants that fit the measured energy of {measured} cases"
            if measured
            else "constants of the chip's design power, not from a meter"
        )
        found.append(
            f"Power follows from FLOPs and bytes by {basis}; the site draws "
            f"{point.energy.site_w / point.energy.machines_w:.3g} times what its machines do."
        )
    return found
