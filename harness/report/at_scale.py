"""What a cluster makes of a step, as names and values: goodput, power, cost, batch, islands."""

from harness.projection import EnergyUse, Goodput, Interval, Projection, ScalePoint, TrainingRun
from harness.units import GIGA, KILO, MEGA, TERA, significant, span, with_prefix

Facts = tuple[tuple[str, str], ...]
KILOWATT_HOURS_PER_GIGAWATT_HOUR = 1e6
LEAST_SHARE_TOLD = 0.0005
"""Losses below this round to 0.0 %."""


def _percent(share: float) -> str:
    return f"{significant(100 * share)} %"


def _money(amount: float, currency: str) -> str:
    """`USD 12.3 million`."""
    for scale, word in ((GIGA, " billion"), (MEGA, " million")):
        if amount >= scale:
            return f"{currency} {significant(amount / scale)}{word}"
    if amount >= KILO:
        return f"{currency} {float(significant(amount)):,.0f}"
    return f"{currency} {significant(amount)}"


def tokens_interval_text(interval: Interval) -> str:
    """`46.2 M tokens/s (41.6 to 49.9)`, all three with the prefix of the first."""
    value = with_prefix(interval.value, "tokens/s")
    low, high = (with_prefix(end, "tokens/s") for end in (interval.low, interval.high))
    return f"{value} ({low.removesuffix(' tokens/s')} to {high})"


def _ends(interval: Interval | None, scale: float = 1.0) -> str:
    """` (5.70 to 8.55)`, or nothing where no interval is known."""
    if interval is None:
        return ""
    return f" ({significant(scale * interval.low)} to {significant(scale * interval.high)})"


def scale_facts(projection: Projection) -> Facts:
    """Goodput and what follows from the cluster's file, most wanted first; what is n/a is absent.

    A projection of before has its goodput alone.
    """
    point = projection.headline
    facts: list[tuple[str, str]] = [("goodput", _goodput(point))]
    if point.wall_time is not None:
        facts.append(("useful throughput", _useful(point)))
        facts.append(("failures", _failures(point.wall_time)))
    if point.batch is not None:
        batch = point.batch
        facts.append(
            (
                "critical batch",
                f"{with_prefix(batch.critical_tokens, 'tokens')}: a token of this batch teaches "
                f"{_percent(batch.share)} of one in a small batch",
            )
        )
    if point.energy is not None:
        facts.append(("power", _power(point.energy)))
        facts.append(("energy", _energy(point.energy)))
    if projection.training_run is not None:
        facts.append(("training run", _run(projection.training_run)))
    return tuple(facts)


def _goodput(point: ScalePoint) -> str:
    ends = "" if point.wall_time is None else _ends(point.wall_time.interval, 100)
    text = f"{_percent(point.goodput)}{ends} of the wall time is left after failures"
    if point.wall_time is None or not point.wall_time.losses:
        return text
    largest = max(point.wall_time.losses, key=lambda loss: loss[1])
    return f"{text}; most goes to {largest[0]} ({_percent(largest[1])})"


def _useful(point: ScalePoint) -> str:
    interval = point.useful_tokens_per_second_interval
    if interval is None:
        text = f"{with_prefix(point.useful_tokens_per_second, 'tokens/s')} of the wall clock"
    else:
        text = f"{tokens_interval_text(interval)} of the wall clock"
    effective = point.effective_tokens_per_second
    if effective is None:
        return text
    return f"{text}, worth {with_prefix(effective, 'tokens/s')} in a small batch"


def _failures(wall_time: Goodput) -> str:
    words = [
        f"every {span(wall_time.interruption_s)}, {span(wall_time.recovery_s)} to be back",
        f"a checkpoint of {span(wall_time.checkpoint_s)} every "
        f"{span(wall_time.checkpoint_interval_s)}",
    ]
    if wall_time.spare_hosts is not None:
        words.append(f"{wall_time.spare_hosts:,} spare hosts")
    return ", ".join(words)


def _power(use: EnergyUse) -> str:
    limited = f", at {_percent(use.clock_factor)} of the clock" if use.clock_factor < 1 else ""
    rack = f", {with_prefix(use.rack_w, 'W')} per rack" if use.rack_w is not None else ""
    return (
        f"{with_prefix(use.site_w, 'W')} at the site ({with_prefix(use.peak_site_w, 'W')} at the "
        f"peak, steps swing by {with_prefix(use.swing_w, 'W')}); {significant(use.chip_w)} of "
        f"{significant(use.chip_limit_w)} W per chip{limited}{rack}"
    )


def _energy(use: EnergyUse) -> str:
    text = (
        f"{significant(use.joules_per_token)} J{_ends(use.joules_per_token_interval)} per token, "
        f"{significant(use.kwh_per_million_tokens)} kWh"
    )
    if use.cost_per_million_tokens is not None:
        text += f" and {_money(use.cost_per_million_tokens, use.currency)}"
        text += _ends(use.cost_per_million_tokens_interval)
    text += " per million tokens"
    if use.cost_per_hour is not None:
        text += f"; {_money(use.cost_per_hour, use.currency)} per hour"
    return text


def _run(run: TrainingRun) -> str:
    words = [f"{significant(run.tokens / TERA)} T tokens in {span(run.seconds)}"]
    if run.energy_kwh is not None:
        energy = significant(run.energy_kwh / KILOWATT_HOURS_PER_GIGAWATT_HOUR)
        words.append(f"{energy} GWh")
    if run.cost is not None:
        words.append(_money(run.cost, run.currency))
    return ", ".join(words)


def goodput_rows(point: ScalePoint) -> Facts:
    """Shares of the wall time, training first; they add up to 100 %."""
    if point.wall_time is None:
        return ()
    losses = sorted(point.wall_time.losses, key=lambda loss: -loss[1])
    told = [(name, _percent(share)) for name, share in losses if share >= LEAST_SHARE_TOLD]
    return (("training", _percent(point.wall_time.share)), *told)


def power_rows(point: ScalePoint) -> Facts:
    """Watts of the site by what draws them, most first."""
    if point.energy is None:
        return ()
    parts = sorted(point.energy.parts, key=lambda part: -part[1])
    return (
        *((name, with_prefix(watts, "W")) for name, watts in parts),
        ("the site", with_prefix(point.energy.site_w, "W")),
    )


def island_rows(projection: Projection) -> Facts:
    """Each island of a mixed cluster with its plan and its part of every step."""
    return tuple(
        (
            island.cluster,
            f"{island.num_chips:,} x {island.chip}: {island.plan.label}; "
            f"{island.sequences:,} sequences in {span(island.step_time_s)}, "
            f"{with_prefix(island.tokens_per_second, 'tokens/s')} of the whole"
            + (f", {_percent(island.mfu)} MFU" if island.mfu is not None else ""),
        )
        for island in projection.islands
    )
