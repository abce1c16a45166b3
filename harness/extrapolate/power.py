"""What a training step draws: the chip, its host, the network, and the site around them.

    E  = P_idle t + sum over ops (e_F flops + e_M bytes) + e_N bytes sent        one chip, one step
    site = (N (E/t + nic + network) + hosts) PUE

An operator's power limit below the design power slows what the matrix units do: at a clock f their
power goes as f^q and their time as 1/f, while what waits for memory keeps its time. The clock is
the highest at which the chip, while it computes, stays in the limit.

Where cases of this chip were measured with its own counter of energy, the constants are those that
fit them best. Otherwise, where a cluster's file gives none, a matrix product at the best rate
published for the chip draws what is left of its design power beside the idle chip and the
operands' traffic.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from harness.device.chip import ChipSpec
from harness.errors import ConfigError
from harness.extrapolate.cluster import ClusterSpec, Power, Price
from harness.extrapolate.goodput import spare_hosts
from harness.extrapolate.lookup import CostFunction
from harness.extrapolate.memory import SIZE_BYTES
from harness.extrapolate.priors import BEST_SHARE_OF_PEAK, GRADIENT_BYTES_ON_WIRE, Prior
from harness.extrapolate.step import StepModel
from harness.projection import EnergyUse, Goodput, Interval, PlanChoice, product
from harness.record import Record, Status
from harness.roofs import HOT
from harness.units import MEGA
from harness.workload.step import (
    Direction,
    LayerKind,
    WorkItem,
    embedding_work,
    head_work,
    layer_work,
)

JOULES_PER_KWH = 3.6e6
SECONDS_PER_HOUR = 3600.0

IDLE_SHARE_OF_DESIGN_POWER = Prior(
    value=0.23,
    spread=1.5,
    source="H100 draws 300 W of 700 W decoding one sequence (ML.ENERGY), of which some 140 W are "
    "memory traffic at 70 % of the bandwidth; with nothing running it is half of that",
)
"""Of a chip that waits with its clocks up, as it does between kernels."""
MATRIX_SHARE_OF_DYNAMIC_POWER = Prior(
    value=0.9,
    spread=1.1,
    source="assumed: large matrix products run into the design power of current chips, and their "
    "operands' traffic takes a tenth of what the idle chip leaves",
)
JOULES_PER_MEMORY_BYTE = Prior(
    value=60e-12,
    spread=1.5,
    source="HBM2 3.9 pJ/bit in the memory (O'Connor et al., Fine-Grained DRAM, MICRO 2017), and as "
    "much again for the interface and the way across the chip, assumed",
)
JOULES_PER_NETWORK_BYTE = Prior(
    value=80e-12,
    spread=2.0,
    source="assumed: 10 pJ/bit for both ends of a link and the copies on the chip; switches and "
    "optics draw alike whatever they carry and are counted by themselves",
)
CLOCK_EXPONENT = Prior(
    value=2.5,
    spread=1.2,
    source="power of logic against its clock, between the square and the cube (dynamic voltage "
    "and frequency scaling); assumed",
)
LEAST_CLOCK = 0.1
POWER_MORE = 1.16
"""Measured over predicted power where it is more: 8 H100 in training (arXiv 2506.14551)."""
POWER_LESS = 1.07
"""Predicted over measured power where it is less: 512 H100 of MLPerf v4.0. A test holds both."""
MIN_ENERGY_CASES = 6
"""Twice as many as constants that are fitted to them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipPower:
    """What one chip draws and for what."""

    design_w: float
    limit_w: float
    idle_w: float
    joules_per_flop: tuple[tuple[str, float], ...]
    """By data type."""
    joules_per_memory_byte: float
    joules_per_network_byte: float
    num_measured_cases: int = 0
    """Cases whose measured energy the constants fit; 0 where they follow from the data sheet."""

    def flop_joules(self, dtype: str) -> float:
        """Of that type, or of the dearest one known."""
        known = dict(self.joules_per_flop)
        return known.get(dtype, max(known.values(), default=0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """What the mean chip of a plan does in a step."""

    matrix_joules: float
    memory_joules: float
    network_joules: float
    matrix_s: float
    """Time of the ops that the matrix units bound."""
    memory_s: float
    """Time of all others."""

    @property
    def joules(self) -> float:
        """All but the idle chip's."""
        return self.matrix_joules + self.memory_joules + self.network_joules


def fitted(known: ChipPower, records: Sequence[Record], cost: CostFunction) -> ChipPower:
    """The constants that fit the measured energy of the chip's own runs best.

    E = P_idle t + k e_F flops + e_M bytes for each case, errors relative, none below zero; k keeps
    the proportions of the data types. The constants known stay where fewer than MIN_ENERGY_CASES
    cases were measured, or those leave a constant without any say.

    Source: non-negative least squares, Lawson and Hanson 1974.
    """
    rows, joules = [], []
    for record in records:
        energy = None if record.measurement is None else record.measurement.energy
        if record.status is not Status.OK or energy is None or energy.is_host_bound:
            continue
        if record.case.cache == HOT or energy.joules_per_run <= 0:
            continue
        found = cost(record.case.problem)
        per_flop = known.flop_joules(record.case.problem.dtype)
        rows.append((energy.seconds / energy.num_runs, per_flop * found.flops, found.num_bytes))
        joules.append(energy.joules_per_run)
    if len(rows) < MIN_ENERGY_CASES:
        return known
    measured = np.array(joules)
    terms = np.array(rows, dtype=float) / measured[:, None]
    scale = terms.max(axis=0)
    if not scale.all():
        return known
    solution, _ = nnls(terms / scale, np.ones(len(rows)))
    idle_w, factor, per_byte = (float(one) for one in solution / scale)
    if not 0 < idle_w < known.limit_w or factor == 0 or per_byte == 0:
        return known
    return replace(
        known,
        idle_w=idle_w,
        joules_per_flop=tuple((dtype, factor * one) for dtype, one in known.joules_per_flop),
        joules_per_memory_byte=per_byte,
        num_measured_cases=len(rows),
    )


def chip_power(chip: ChipSpec, power: Power) -> ChipPower | None:
    """The chip's power by the cluster's file and the data sheet; None where nobody tells it.

    Raises:
        ConfigError: for a limit that not even the idle chip can keep.
    """
    design = power.chip_w or chip.power_w
    if design is None:
        return None
    limit = min(design, power.chip_limit_w or design)
    idle = power.chip_idle_w or IDLE_SHARE_OF_DESIGN_POWER.value * design
    if limit <= idle:
        raise ConfigError(
            f"cluster.power.chip_limit_watts: {limit:g} is not greater than the {idle:g} W of the "
            f"idle chip. Set cluster.power.chip_limit_watts={math.ceil(1.2 * idle)} or more."
        )
    per_flop: dict[str, float] = {}
    for dtype in dict((*chip.peak_flops_per_s, *chip.achievable_flops_per_s)):
        rate = chip.achievable(dtype)
        peak = chip.peak(dtype)
        if rate is None:
            assert peak is not None
            rate = BEST_SHARE_OF_PEAK.value * peak
        per_flop[dtype] = MATRIX_SHARE_OF_DYNAMIC_POWER.value * (design - idle) / rate
    if power.joules_per_flop is not None:
        # The file's value is of 16 bits; other types keep their proportion to it.
        sixteen = per_flop.get("bf16") or per_flop.get("fp16")
        factor = power.joules_per_flop / sixteen if sixteen else 1.0
        per_flop = {dtype: factor * value for dtype, value in per_flop.items()}
        per_flop.setdefault("bf16", power.joules_per_flop)
    if not per_flop:
        return None
    return ChipPower(
        design_w=design,
        limit_w=limit,
        idle_w=idle,
        joules_per_flop=tuple(per_flop.items()),
        joules_per_memory_byte=power.joules_per_memory_byte or JOULES_PER_MEMORY_BYTE.value,
        joules_per_network_byte=power.joules_per_network_byte or JOULES_PER_NETWORK_BYTE.value,
    )


def step_items(steps: StepModel, plan: PlanChoice) -> Iterator[tuple[WorkItem, float]]:
    """Each piece of work of a step, and how often the mean chip of the plan does it."""
    shard, model = steps.shard(plan), steps.model
    m = plan.num_microbatches
    for kind, count in (
        (LayerKind.DENSE, model.num_dense_layers),
        (LayerKind.MOE, model.num_moe_layers),
    ):
        if not count:
            continue
        for item in layer_work(model, shard, kind):
            passes = 1.0
            if item.direction is Direction.FORWARD:
                is_core = item.role.startswith("attention core")
                passes += plan.recompute == "full" or (plan.recompute == "selective" and is_core)
            yield item, passes * item.count * m * count / plan.pipeline
    for item in (*embedding_work(model, shard), *head_work(model, shard)):
        yield item, item.count * m / plan.pipeline
    update = steps.optimizer_item(plan)
    yield update, float(update.count)


def network_bytes(steps: StepModel, plan: PlanChoice) -> float:
    """What the mean chip of a plan sends in a step, on all networks."""
    model = steps.model
    size = SIZE_BYTES[steps.dtype]
    tokens = plan.microbatch_size * steps.sequence_length / plan.context
    hidden = tokens * model.hidden * size
    layers = plan.num_microbatches * model.num_layers / plan.pipeline
    passes = 2 if plan.recompute == "full" else 1
    sent = 0.0
    if plan.tensor > 1:
        # Two blocks: gather and scatter in each forward pass, three of them backward.
        sent += layers * 2 * (2 * passes + 3) * hidden * (1 - 1 / plan.tensor)
    if plan.context > 1:
        kv_heads = max(1, model.num_kv_heads // plan.tensor)
        width = kv_heads * (model.query_key_dim + model.value_dim) * size
        sent += layers * (passes + 2) * tokens * (plan.context - 1) * width
    if model.experts is not None and plan.expert > 1:
        routed = model.experts.num_experts_per_token * hidden / plan.tensor
        share = model.num_moe_layers / model.num_layers
        sent += share * layers * (2 * passes + 2) * routed * (1 - 1 / plan.expert)
    if plan.pipeline > 1:
        sent += 2 * plan.num_microbatches * plan.virtual_stages * hidden / plan.tensor
    held = steps.fullest(plan)
    replicas = plan.data * plan.context
    if replicas > 1:
        once = (GRADIENT_BYTES_ON_WIRE + size) * (held.shared + held.experts)
        rounds = 1.5 * plan.num_microbatches if plan.zero_stage == 3 else 1.0
        sent += rounds * once * (1 - 1 / replicas)
    return sent


def step_work(steps: StepModel, plan: PlanChoice, chip: ChipPower) -> StepWork:
    """What the mean chip of the plan does in a step, as energy and time."""
    matrix_joules = memory_joules = matrix_s = memory_s = 0.0
    for item, count in step_items(steps, plan):
        cost = steps.lookup.cost(item.problem)
        matrix = cost.flops * chip.flop_joules(item.problem.dtype)
        memory = cost.num_bytes * chip.joules_per_memory_byte
        seconds = count * steps.lookup.time(item.problem).seconds
        # What bounds an op is what it spends its power on, near enough: both are rates over peaks.
        is_matrix = matrix > memory
        matrix_joules += count * matrix
        memory_joules += count * memory
        matrix_s += seconds if is_matrix else 0.0
        memory_s += 0.0 if is_matrix else seconds
    return StepWork(
        matrix_joules=matrix_joules,
        memory_joules=memory_joules,
        network_joules=network_bytes(steps, plan) * chip.joules_per_network_byte,
        matrix_s=matrix_s,
        memory_s=memory_s,
    )


def computing_w(work: StepWork, chip: ChipPower, clock: float = 1.0) -> float:
    """Power of a chip while it computes, at a share of its full clock."""
    matrix = work.matrix_joules * clock ** (CLOCK_EXPONENT.value - 1)
    busy_s = work.matrix_s / clock + work.memory_s
    if busy_s == 0:
        return chip.idle_w
    return float(chip.idle_w + (matrix + work.memory_joules) / busy_s)


def clock_factor(work: StepWork, chip: ChipPower) -> float:
    """The highest clock, as a share of the full one, at which computing stays in the limit.

    1 where the limit is the design power: times are measured or published at that already.
    """
    if chip.limit_w >= chip.design_w or computing_w(work, chip) <= chip.limit_w:
        return 1.0
    low, high = LEAST_CLOCK, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if computing_w(work, chip, middle) > chip.limit_w:
            high = middle
        else:
            low = middle
    return low


def slowdown_s(work: StepWork, clock: float) -> float:
    """What a step takes longer at that clock: the matrix units' time, of the mean chip."""
    return work.matrix_s * (1 / clock - 1)


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


_WITHOUT_TRAINING = frozenset(
    {"coming back from failures", "waiting for spare hosts", "replicas that are away"}
)
"""Losses in which chips wait."""


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
