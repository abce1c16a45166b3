"""What a cluster draws in a training step: chips, hosts, network, and the site around them.

site = (N (E/t + nic + network) + hosts) PUE         E of a chip and step, its idle power in it
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.device.chip import ChipSpec
from harness.extrapolate.chip_power import ChipPower, chip_power
from harness.extrapolate.cluster import ClusterSpec, Price
from harness.extrapolate.spares import spare_hosts
from harness.extrapolate.step import StepModel
from harness.extrapolate.step_power import (
    CLOCK_EXPONENT,
    StepWork,
    clock_factor,
    computing_w,
    step_work,
)
from harness.projection import EnergyUse, Goodput, Interval, PlanChoice, product
from harness.units import MEGA, SECONDS_PER_HOUR

JOULES_PER_KWH = 3.6e6
POWER_MORE = 1.2
"""Measured over predicted power where it is more: 8 H100 in training (arXiv 2506.14551)."""
POWER_LESS = 1.07
"""Predicted over measured power where it is less: 512 H100 of MLPerf v4.0. A test holds both."""
_WITHOUT_TRAINING = frozenset(
    {"coming back from failures", "waiting for spare hosts", "replicas that are away"}
)
"""Losses in which chips wait."""
UNDISTURBED = Goodput(
    share=1.0,
    losses=(),
    interruption_s=math.inf,
    checkpoint_interval_s=math.inf,
    checkpoint_s=0.0,
    checkpoint_behind_s=0.0,
    recovery_s=0.0,
)
"""The wall time of a run in which nothing fails and nothing is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What the machines of one kind draw while their cluster trains."""

    steady_w: tuple[tuple[str, float], ...]
    """What is drawn whatever the chips do, by what draws it, in watts."""
    work_joules: tuple[tuple[str, float], ...]
    """What the chips in use draw more in a step, by what for."""
    num_chips: int
    """Chips that are on, idle and spare ones included."""
    num_chips_used: int
    chip: ChipPower
    clock: float
    computing_w: float
    """One chip in use while it computes."""
    pue: float
    price: Price | None
    host_w_per_chip: float
    """The chip's share of its host, network card included."""
    chips_per_rack: int | None

    def working_w(self, step_s: float) -> tuple[tuple[str, float], ...]:
        """The work of a step of that time, as watts; no more than the chips' limit allows."""
        total = math.fsum(joules for _, joules in self.work_joules)
        most = self.num_chips_used * (self.chip.limit_w - self.chip.idle_w) * step_s
        share = min(1.0, most / total) if total > 0 else 0.0
        return tuple((name, share * joules / step_s) for name, joules in self.work_joules)


def draw_of(cluster: ClusterSpec, chip: ChipPower, work: StepWork, num_chips_used: int) -> Draw:
    """What a cluster of one kind of chip draws in such steps; idle and spare chips wait."""
    power = cluster.power
    assert power is not None, "asked only of clusters whose file has power"
    clock = clock_factor(work, chip)
    matrix_joules = work.matrix_joules * clock ** (CLOCK_EXPONENT.value - 1)
    spares = spare_hosts(cluster, cluster.num_chips) or 0
    num_chips = cluster.num_chips + spares * cluster.chips_per_host
    num_hosts = math.ceil(num_chips / cluster.chips_per_host)
    return Draw(
        steady_w=(
            ("chips, idle", num_chips * chip.idle_w),
            ("hosts", num_hosts * power.host_w),
            ("network cards", num_chips * power.nic_w_per_chip),
            ("switches and optics", num_chips * power.network_w_per_chip),
        ),
        work_joules=(
            ("matrix units", num_chips_used * matrix_joules),
            ("memory", num_chips_used * work.memory_joules),
            ("chips' links", num_chips_used * work.network_joules),
        ),
        num_chips=num_chips,
        num_chips_used=num_chips_used,
        chip=chip,
        clock=clock,
        computing_w=min(chip.limit_w, computing_w(work, chip, clock)),
        pue=power.pue,
        price=cluster.price,
        host_w_per_chip=power.host_w / cluster.chips_per_host + power.nic_w_per_chip,
        chips_per_rack=cluster.chips_per_rack,
    )


def energy_use(
    draws: Sequence[Draw], *, step_s: float, step_tokens: float, wall_time: Goodput
) -> EnergyUse:
    """Power of all of them in steps of that time, and energy per token over the wall time.

    While nothing trains, chips draw what they draw idle.
    """
    parts: dict[str, float] = {}
    machines_w = site_w = mean_site_w = peak_site_w = swing_w = working_w = 0.0
    waiting = math.fsum(lost for name, lost in wall_time.losses if name in _WITHOUT_TRAINING)
    costs: list[float] = []
    racks: list[float] = []
    for draw in draws:
        working = draw.working_w(step_s)
        for name, watts in (*draw.steady_w, *working):
            parts[name] = parts.get(name, 0.0) + watts
        above_idle_w = math.fsum(watts for _, watts in working)
        own_w = math.fsum(watts for _, watts in draw.steady_w) + above_idle_w
        peak_w = max(above_idle_w, draw.num_chips_used * (draw.computing_w - draw.chip.idle_w))
        own_mean_w = (own_w - waiting * above_idle_w) * draw.pue
        working_w += above_idle_w
        machines_w += own_w
        site_w += own_w * draw.pue
        mean_site_w += own_mean_w
        peak_site_w += (own_w - above_idle_w + peak_w) * draw.pue
        swing_w += peak_w
        if draw.chips_per_rack is not None:
            in_use_w = draw.chip.idle_w + above_idle_w / draw.num_chips_used
            racks.append(draw.chips_per_rack * (in_use_w + draw.host_w_per_chip))
        if draw.price is not None:
            costs.append(draw.price.per_hour(draw.num_chips, own_mean_w))
    parts["cooling and conversion"] = site_w - machines_w
    tokens_per_s = step_tokens / step_s * wall_time.share
    per_token = mean_site_w / tokens_per_s if tokens_per_s > 0 else math.inf
    used = sum(draw.num_chips_used for draw in draws)
    currencies = {draw.price.currency for draw in draws if draw.price is not None}
    has_cost = len(costs) == len(draws) and len(currencies) == 1
    cost_per_hour = math.fsum(costs) if has_cost else None
    return EnergyUse(
        chip_w=working_w / used
        + math.fsum(draw.num_chips_used * draw.chip.idle_w for draw in draws) / used,
        chip_limit_w=math.fsum(draw.num_chips_used * draw.chip.limit_w for draw in draws) / used,
        clock_factor=min(draw.clock for draw in draws),
        parts=tuple(parts.items()),
        machines_w=machines_w,
        site_w=site_w,
        peak_site_w=peak_site_w,
        swing_w=swing_w,
        rack_w=max(racks, default=None),
        num_measured_cases=sum(draw.chip.num_measured_cases for draw in draws),
        joules_per_token=per_token,
        kwh_per_million_tokens=per_token * MEGA / JOULES_PER_KWH,
        currency=currencies.pop() if has_cost else "",
        cost_per_hour=cost_per_hour,
        cost_per_million_tokens=None
        if cost_per_hour is None or tokens_per_s == 0
        else cost_per_hour / SECONDS_PER_HOUR / tokens_per_s * MEGA,
    )


def with_intervals(use: EnergyUse, slow: EnergyUse, fast: EnergyUse) -> EnergyUse:
    """Energy and cost per token with their intervals.

    `slow` and `fast` are those at the ends of the useful tokens per second. The power itself is off
    by what the published meters say, which the energy has beside it; of the cost it is little.
    """
    energy = product(
        Interval(value=use.joules_per_token, low=fast.joules_per_token, high=slow.joules_per_token),
        Interval(value=1.0, low=1 / POWER_LESS, high=POWER_MORE),
    )
    cost, low, high = (one.cost_per_million_tokens for one in (use, fast, slow))
    interval = None
    if cost is not None and low is not None and high is not None:
        interval = Interval(value=cost, low=low, high=high)
    return replace(use, joules_per_token_interval=energy, cost_per_million_tokens_interval=interval)


def run_energy_kwh(use: EnergyUse, seconds: float, *, with_building: bool = False) -> float:
    """Energy of a run of so many seconds of steps: of the machines, or of the whole site.

    What is published of a run without failures, as in MLPerf, is of the machines.
    """
    watts = use.site_w if with_building else use.machines_w
    return watts * seconds / JOULES_PER_KWH


def training_energy_kwh(
    steps: StepModel, plan: PlanChoice, chip: ChipSpec, *, step_s: float, seconds: float
) -> float | None:
    """Energy that the machines of a plan take in so many seconds of such steps.

    No chip is idle or spare and nothing fails, as in a benchmark; None where the power of the chip
    or of its cluster is not known.
    """
    if steps.cluster.power is None:
        return None
    known = chip_power(chip, steps.cluster.power)
    if known is None:
        return None
    cluster = replace(
        steps.cluster.with_num_chips(plan.num_chips), spare_hosts=0, spare_confidence=None
    )
    use = energy_use(
        (draw_of(cluster, known, step_work(steps, plan, known), plan.num_chips),),
        step_s=step_s,
        step_tokens=1.0,
        wall_time=UNDISTURBED,
    )
    return run_energy_kwh(use, seconds)
