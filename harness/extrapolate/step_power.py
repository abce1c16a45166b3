"""What a step makes a chip do, as energy and time, and the clock that a power limit leaves it.

    E = sum over ops (e_F flops + e_M bytes) + e_N bytes sent          beside the idle chip's

An operator's power limit below the design power slows what the matrix units do: at a clock f their
power goes as f^q and their time as 1/f, while what waits for memory keeps its time. The clock is
the highest at which the chip, while it computes, stays in the limit.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from harness.extrapolate.chip_power import ChipPower
from harness.extrapolate.plan_step import fullest_stage, optimizer_item
from harness.extrapolate.priors import GRADIENT_BYTES_ON_WIRE, Prior
from harness.extrapolate.shard_table import SIZE_BYTES
from harness.extrapolate.step import StepModel
from harness.projection import PlanChoice
from harness.workload.step import (
    Direction,
    LayerKind,
    WorkItem,
    embedding_work,
    head_work,
    layer_work,
)

CLOCK_EXPONENT = Prior(
    value=2.5,
    spread=1.2,
    source="power of logic against its clock, between the square and the cube (dynamic voltage "
    "and frequency scaling); assumed",
)
LEAST_CLOCK = 0.1


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
    update = optimizer_item(steps, plan)
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
    held = sum(fullest_stage(steps, plan))
    replicas = plan.data * plan.context
    if replicas > 1:
        once = (GRADIENT_BYTES_ON_WIRE + size) * held
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
