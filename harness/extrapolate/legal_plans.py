"""Every parallel plan that a model, a cluster and the degrees that are fixed allow, as a table.

Searched are tensor, context, expert, pipeline and virtual stages, microbatch, replicas with their
microbatches, recomputation, ZeRO stage and the chips that share by it; a degree that is fixed has
its one value. The bounds are the constants here.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.distinct import distinct
from harness.extrapolate.exchange import heads_fit
from harness.extrapolate.hybrid_sharding import sharded
from harness.extrapolate.pipeline import PLAIN, most_layers
from harness.extrapolate.plans import RECOMPUTES, Ints, PlanTable
from harness.extrapolate.schedule import ScheduleName, schedule_code, schedule_of
from harness.workload.model import ModelSpec
from harness.workload.plan import CONTEXT_EXCHANGES, ParallelSpec

MICROBATCH_SIZES = (1, 2, 4)
CONTEXTS = (1, 2, 4, 8, 16)
TOKENS_PER_CONTEXT_CHIP = 4096
"""Sequences are cut no shorter by context parallelism when it is searched."""
MAX_TENSOR = 16
"""Larger tensor groups are not searched: what is left of each product is too narrow to pay."""
MAX_EXPERT = 64
"""Experts are spread over at most so many chips when searched."""
BATCH_TOLERANCE = 0.1
"""A step may have this share more or fewer tokens than asked, so that every replica is busy."""
LEAST_BUSY_SHARE = 0.5
"""Of the replicas that the chips allow, at least this share works."""
MAX_BATCHES = 12
"""Numbers of replicas looked at for one set of degrees, from all busy to LEAST_BUSY_SHARE."""
MAX_UNEVEN_SHARE = 0.06
"""Stages may be short of this share of all layers; more is waste that no plan needs."""


def divisors(number: int, most: int) -> list[int]:
    """Those up to `most`, the smallest first."""
    return [d for d in range(1, min(number, most) + 1) if number % d == 0]


def pipelines(num_layers: int, most: int) -> list[int]:
    """Numbers of stages that leave few stages short of a layer."""
    allowed = 2 + MAX_UNEVEN_SHARE * num_layers
    found = []
    for p in range(1, min(num_layers, most) + 1):
        short = -(-num_layers // p) * p - num_layers
        if short <= min(allowed, p - 1):
            found.append(p)
    return found


def _only(fixed: int | None, options: Sequence[int]) -> Sequence[int]:
    return options if fixed is None else (fixed,)


def fills_domains(cluster: ClusterSpec, tensor: int, num_chips: int) -> bool:
    """Tensor groups end where scale-up domains do, so that none lies in parts of two."""
    domain = cluster.tiers[0].chips
    return num_chips <= domain or domain % tensor == 0 or tensor % domain == 0


@lru_cache(maxsize=65536)
def batches(
    sequences: int, microbatch_size: int, most_data: int, multiple: int
) -> tuple[tuple[int, int], ...]:
    """Replicas and microbatches of each that give about that many sequences per step.

    The numbers of replicas are multiples of `multiple`. With all of them busy the batch may be
    BATCH_TOLERANCE larger than asked; else it is the largest up to what is asked.
    """
    most = most_data // multiple * multiple
    if most < 1:
        return ()
    found = {}
    per_replica = sequences / (most * microbatch_size)
    m = max(1, round(per_replica))
    if abs(m / per_replica - 1) <= BATCH_TOLERANCE:
        found[most] = m
    least = max(multiple, math.ceil(LEAST_BUSY_SHARE * most))
    fewest = max(1, math.ceil(per_replica))
    counts = np.arange(fewest, max(fewest, sequences // (microbatch_size * least)) + 1)
    replicas = np.unique(sequences // (microbatch_size * counts) // multiple * multiple)[::-1]
    replicas = replicas[(replicas >= 1) & (replicas <= most)]
    fill = replicas * microbatch_size * (sequences // (replicas * microbatch_size)) / sequences
    close = replicas[fill >= 1 - BATCH_TOLERANCE]
    # A batch too small to be met closely is met as well as it can be.
    kept = close if len(close) else replicas[:1]
    for place in np.unique(np.linspace(0, len(kept) - 1, MAX_BATCHES).round().astype(int)):
        if len(kept):
            data = int(kept[place])
            found.setdefault(data, sequences // (data * microbatch_size))
    return tuple(found.items())


def zero_stages(parallel: ParallelSpec, pipeline: int) -> tuple[int, ...]:
    """ZeRO stages to try; stage 3 gathers weights for every microbatch, so not in a pipeline."""
    if parallel.zero_stage is not None:
        return (parallel.zero_stage,)
    stages = (0, 1, 2, 3) if pipeline == 1 else (0, 1, 2)
    return stages[1:] if parallel.shard_group else stages


def legal_plans(
    model: ModelSpec, cluster: ClusterSpec, parallel: ParallelSpec, num_chips: int
) -> PlanTable:
    """Every plan for at most so many chips, fixed degrees kept.

    Sequences that several chips share are gathered where nothing else is asked for; what else is
    fastest, `fastest_context` finds.
    """
    degrees = list(_degrees(model, cluster, parallel, num_chips))
    sizes = _only(parallel.microbatch_size, MICROBATCH_SIZES)
    rows = [
        (tensor, context, expert, pipeline, size, data, m)
        for tensor, context, expert, pipeline, most_data in degrees
        for size in sizes
        for data, m in _batches(parallel, size, most_data, (tensor, context), expert)
    ]
    columns = np.array(rows, dtype=np.int64).reshape(-1, 7).T
    options = {int(p): _options(model, parallel, int(p)) for p in np.unique(columns[3])}
    tensor, context, expert, pipeline, size, data, m, chunks, code, zero = _joined(
        columns, columns[3], options
    )
    schedule = np.full(len(tensor), schedule_code(plan_schedule(parallel)))
    form = parallel.context_exchange or "gather"
    plans = PlanTable(
        tensor=tensor,
        pipeline=pipeline,
        data=data,
        expert=expert,
        context=context,
        context_exchange=np.full(len(tensor), CONTEXT_EXCHANGES.index(form)),
        virtual_stages=chunks,
        microbatch_size=size,
        num_microbatches=m,
        zero_stage=zero,
        shard_group=np.full(len(tensor), parallel.shard_group or 0),
        recompute=code,
        schedule=schedule,
        layers_per_stage=parallel.layers_per_stage,
    )
    if parallel.schedule is not None:
        plans = _allowed(plans, parallel.schedule)
    return sharded(plans, cluster, parallel)


def plan_schedule(parallel: ParallelSpec) -> str:
    """What plans call the schedule that is asked for: interleaving shows in their chunks."""
    if parallel.schedule in (None, ScheduleName.INTERLEAVED):
        return PLAIN
    return parallel.schedule


def _allowed(plans: PlanTable, name: str) -> PlanTable:
    """The plans that a schedule can have."""
    columns = (plans.pipeline, plans.virtual_stages, plans.num_microbatches)
    alike = distinct(*columns)
    is_allowed = [
        not schedule_of(name).fault(pipeline=int(p), virtual_stages=int(v), num_microbatches=int(m))
        for p, v, m in zip(*(column[alike.first] for column in columns), strict=True)
    ]
    return plans.rows(np.array(is_allowed, dtype=np.bool_)[alike.group])


def _chunks(model: ModelSpec, parallel: ParallelSpec, pipeline: int) -> list[int]:
    """Virtual stages per chip to try, of the schedule that is asked for."""
    layers = most_layers(model.num_layers, pipeline)
    options = divisors(layers, layers) if pipeline > 1 else [1]
    num_stages = len(parallel.layers_per_stage)
    if num_stages:
        options = [] if num_stages % pipeline else [num_stages // pipeline]
    if parallel.schedule is None:
        return list(_only(parallel.virtual_stages, options))
    schedule = schedule_of(parallel.schedule)
    if schedule.most_chunks == schedule.least_chunks and not num_stages:
        options = [schedule.least_chunks]
    chosen = _only(parallel.virtual_stages, options)
    return [chunks for chunks in chosen if pipeline * chunks <= model.num_layers]


def _options(
    model: ModelSpec, parallel: ParallelSpec, pipeline: int
) -> tuple[tuple[int, int, int], ...]:
    """Virtual stages, recomputation code and ZeRO stage to try with so many stages."""
    codes = range(len(RECOMPUTES))
    if parallel.recompute is not None:
        codes = range(place := RECOMPUTES.index(parallel.recompute), place + 1)
    return tuple(
        (chunks, code, zero)
        for chunks in _chunks(model, parallel, pipeline)
        for code in codes
        for zero in zero_stages(parallel, pipeline)
    )


def _joined(
    columns: Ints, key: Ints, options: dict[int, tuple[tuple[int, int, int], ...]]
) -> tuple[Ints, ...]:
    """Each row once for each option of its key, with the option as three further columns."""
    keys = np.array(sorted(options), dtype=np.int64)
    counts = np.array([len(options[int(one)]) for one in keys], dtype=np.int64)
    values = np.array([row for one in keys for row in options[int(one)]], dtype=np.int64)
    place = np.searchsorted(keys, key)
    times = counts[place]
    # Options lie one after the other by key; a row's own begin there, and its copies here.
    begin = (np.cumsum(counts) - counts)[place] - (np.cumsum(times) - times)
    option = np.repeat(begin, times) + np.arange(int(times.sum()))
    return (
        *(np.repeat(column, times) for column in columns),
        *(column.take(option) for column in values.reshape(-1, 3).T),
    )


def _batches(
    parallel: ParallelSpec, size: int, most_data: int, inner: tuple[int, int], expert: int
) -> tuple[tuple[int, int], ...]:
    sequences = parallel.global_batch_sequences
    if parallel.data is not None:
        return ((parallel.data, max(1, round(sequences / (parallel.data * size)))),)
    # Whole groups of replicas share the experts, or some would have chips of two groups.
    group, context = math.prod(inner), inner[1]
    multiple = expert // group if expert % group == 0 else 1
    if parallel.shard_group:
        multiple = math.lcm(max(1, multiple), max(1, parallel.shard_group // context))
    return batches(sequences, size, most_data, max(1, multiple))


def _degrees(
    model: ModelSpec, cluster: ClusterSpec, parallel: ParallelSpec, num_chips: int
) -> Iterator[tuple[int, int, int, int, int]]:
    """Tensor, context, expert and pipeline degrees, and the most replicas that then fit."""
    domain = min(cluster.tiers[0].chips, num_chips)
    most_tensor = min(parallel.max_tensor or MAX_TENSOR, domain)
    most_context = parallel.sequence_length // TOKENS_PER_CONTEXT_CHIP
    contexts = [c for c in CONTEXTS if c == 1 or c <= most_context]
    experts = [1]
    if model.experts is not None:
        experts = divisors(model.experts.num_experts, MAX_EXPERT)
    tensors = [
        tensor
        for tensor in divisors(model.num_heads, most_tensor)
        if cuts_evenly(model, tensor) and fills_domains(cluster, tensor, num_chips)
    ]
    # Groups that are given as a whole are not ours to refuse.
    is_given = None not in (parallel.tensor, parallel.context, parallel.data, parallel.expert)
    for tensor in _only(parallel.tensor, tensors):
        for context in _only(parallel.context, contexts):
            if parallel.context_exchange == "all_to_all" and not heads_fit(model, tensor, context):
                continue
            group = tensor * context
            stages = _only(parallel.pipeline, pipelines(model.num_layers, num_chips // group))
            for expert in _only(parallel.expert, experts):
                for pipeline in stages:
                    most_data = num_chips // (group * pipeline)
                    if most_data < (parallel.data or 1):
                        continue
                    if is_given or experts_fit(group, expert, most_data, parallel.data):
                        yield tensor, context, expert, pipeline, most_data


def experts_fit(group: int, expert: int, most_data: int, data: int | None) -> bool:
    """The chips that share experts divide those of a stage, in whole groups or parts of one.

    A group is that of tensor and context parallelism; with a number of replicas that is not
    fixed, one is found if there are enough.
    """
    if expert % group and group % expert:
        return False
    return expert <= group * most_data if data is None else (group * data) % expert == 0


def cuts_evenly(model: ModelSpec, tensor: int) -> bool:
    """Heads and networks divide over the tensor group."""
    kv_heads = model.num_kv_heads
    fits_kv = model.latent_attention is not None or not (kv_heads % tensor and tensor % kv_heads)
    expert_ffn = model.experts.expert_ffn if model.experts else 0
    return fits_kv and model.ffn % tensor == 0 and expert_ffn % tensor == 0
