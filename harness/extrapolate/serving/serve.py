"""serve: from the times of ops on one chip to what a whole cluster serves within given times."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.device.chip import ChipSpec
from harness.errors import ConfigError
from harness.extrapolate.calibration import NONE, Calibration
from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.lookup import CostFunction, Lookup
from harness.extrapolate.memory import memory_limit
from harness.extrapolate.serving.memory import cache_bytes_per_token
from harness.extrapolate.serving.pools import room_for
from harness.extrapolate.serving.power import chip_price, site_power
from harness.extrapolate.serving.priors import (
    EXPERT_LOAD,
    HOST_S_PER_PASS,
    MODEL_ERROR,
    ROUTER_IMBALANCE,
)
from harness.extrapolate.serving.search import (
    DECODE_TOKENS,
    Choice,
    Found,
    best_of_each,
    candidates,
    front,
    limit_error,
)
from harness.extrapolate.serving.spec import ServingSpec
from harness.extrapolate.serving.times import (
    LABELS,
    NOMINAL,
    NUM_OF_CHIP,
    PassLoad,
    PassModel,
    layer_seconds,
    limits,
)
from harness.extrapolate.serving.uncertainty import Draws, drawn, interval, variance_shares
from harness.extrapolate.serving.work import (
    decode_core,
    first_items,
    last_items,
    layer_items,
    prefill_core,
)
from harness.extrapolate.timed_work import (
    TimedWork,
    op_shares,
    refuse_unmeasured,
    source_share,
    timed_work,
)
from harness.projection import StepPart
from harness.record import Record
from harness.roofline import Roofline
from harness.serving_projection import (
    FrontPoint,
    PoolRole,
    ServingMode,
    ServingPoint,
    ServingPool,
    ServingProjection,
)
from harness.units import MEGA, SECONDS_PER_HOUR, duration
from harness.workload.model import ModelSpec
from harness.workload.step import LayerKind, WorkItem

NARROW = ("fp8", "int8")
SERVING_SOFTWARE = "serving"
"""A generation of software that no training run calibrates: constants of software keep their
priors, those of the chip are what its training runs gave."""
FRONT_SAMPLES = 300
"""Draws for each point of the front; its P10 and P90 move by 2 % from one seed to another."""


@dataclass(frozen=True, slots=True)
class _Context:
    """What is the same for every point."""

    passes: PassModel
    chip: ChipSpec
    memory_bytes: float
    draws: Draws


def settled(spec: ServingSpec, chip: ChipSpec, lookup: Lookup) -> ServingSpec:
    """The spec with its types decided: weights in the 8 bits that the chip multiplies in.

    Raises:
        ConfigError: for a type whose rate is neither measured nor known.
    """
    known = dict(limits(lookup).flops_per_s)
    weight = spec.weight_dtype or next((name for name in NARROW if name in known), spec.dtype)
    for key, dtype in (("weight_dtype", weight), ("dtype", spec.dtype)):
        if dtype not in known:
            allowed = ("bf16", "fp16") if key == "dtype" else (*NARROW, "bf16", "fp16")
            others = [name for name in allowed if name in known]
            advice = f"Set serving.{key}={others[0]}, or measure" if others else "Measure"
            raise ConfigError(
                f"serving.{key}: the {dtype} rate of chip {chip.name} is n/a. {advice} the chip "
                "(`chipscale run`)."
            )
    return replace(spec, weight_dtype=weight, cache_dtype=spec.cache_dtype or spec.dtype)


def serve(
    *,
    chip: ChipSpec,
    model: ModelSpec,
    cluster: ClusterSpec,
    spec: ServingSpec,
    cost: CostFunction,
    records: Sequence[Record] = (),
    roofs: Roofline | None = None,
    device_memory_bytes: float | None = None,
    strict: bool = False,
    calibration: Calibration = NONE,
) -> ServingProjection:
    """The best way to serve the requests on the cluster within their limits, and the Pareto front.

    `cost`, `records`, `roofs` and `device_memory_bytes` are those of `project`; of `calibration`
    the constants of the chip count, not those of software that trains.

    Raises:
        PlanError: when no replica holds the model or meets the limits, with the nearest that
            does; or when `strict` and an op was not measured.
        ConfigError: when a rate that is needed is neither measured nor known.
    """
    constants = calibration.constants(chip.name, SERVING_SOFTWARE)
    lookup = Lookup(chip, cost, records, roofs, constants)
    spec = settled(spec, chip, lookup)
    memory_bytes = memory_limit(chip, device_memory_bytes)
    passes = PassModel(model, cluster, lookup, spec)
    found = candidates(passes, memory_bytes)
    ways = best_of_each(passes, found)
    if not ways:
        raise limit_error(passes, found, memory_bytes)
    work = _work(passes, ways[0])
    if strict:
        refuse_unmeasured(work, "the passes", "Measure them with suite=inference and these sizes")
    context = _Context(passes, chip, memory_bytes, Draws.of())
    best, *others = (_point(context, way) for way in ways)
    return ServingProjection(
        model=model.name,
        chip=chip.name,
        cluster=cluster.name,
        num_chips=cluster.num_chips,
        weight_dtype=spec.weight_dtype,
        cache_dtype=spec.cache_dtype,
        input_tokens=spec.input_tokens,
        output_tokens=spec.output_tokens,
        ttft_limit_s=spec.ttft_s,
        tpot_limit_s=spec.tpot_s,
        tokens_per_pass=spec.speculation.tokens_per_pass,
        cache_bytes_per_token=cache_bytes_per_token(model, spec.cache_dtype),
        best=best,
        others=tuple(others),
        front=_front(context, front(passes, found)),
        ops=op_shares(work),
        source_share=source_share(work),
        memory_limit_bytes=memory_bytes,
        interval_basis=_interval_basis(),
        variance_shares=_variance_shares(context, ways[0]),
        assumptions=_assumptions(context, ways[0]),
        num_plans_considered=found.num_considered,
        run_ids=tuple(sorted({record.run_id for record in records})),
    )


def availability(cluster: ClusterSpec, replica_chips: int) -> float:
    """Share of time in which a replica is up: any of its chips takes it down for a restart."""
    between_s = cluster.reliability.mtbf_hours_per_chip * SECONDS_PER_HOUR / replica_chips
    return between_s / (between_s + cluster.reliability.restart_s)


def _pool_choices(found: Found) -> list[tuple[PoolRole, Choice, int]]:
    if found.prefill is None:
        return [(PoolRole.BOTH, found.decode, found.num_decode)]
    return [
        (PoolRole.PREFILL, found.prefill, found.num_prefill),
        (PoolRole.DECODE, found.decode, found.num_decode),
    ]


def _point(context: _Context, found: Found) -> ServingPoint:
    passes, draws = context.passes, context.draws
    spec, cluster = passes.spec, passes.cluster
    samples = drawn(passes, found, draws)
    choices = _pool_choices(found)
    used = sum(count * choice.served.plan.num_chips for _, choice, count in choices)
    per_chip = found.requests_per_s * spec.output_tokens / used
    # In the whole cluster replicas are whole, so that one pool may wait a little for the other.
    ratio = samples.rate_per_chip / _nominal_rate_per_chip(found)
    up = min(availability(cluster, choice.served.plan.num_chips) for _, choice, _ in choices)
    kept = (1 - ROUTER_IMBALANCE.value) * up
    rate = found.requests_per_s * kept
    replica = per_chip * used / found.num_decode
    site = site_power(context.chip, cluster)
    price = chip_price(cluster, spec, site)
    tokens = rate * spec.output_tokens
    joules = cost = None
    if site is not None:
        value = site.w_per_chip * used / tokens
        power = draws.power(site.host_share)
        joules = interval(value, value * power / ratio / draws.left_by_routers * (kept / up))
    if price is not None:
        value = MEGA * price.per_hour / SECONDS_PER_HOUR * used / tokens
        cost = interval(value, value / ratio / draws.left_by_routers * (kept / up))
    return ServingPoint(
        mode=found.mode,
        pools=tuple(_pool(context, role, choice, count) for role, choice, count in choices),
        ttft_s=interval(found.ttft_s, samples.ttft_s),
        tpot_s=interval(found.decode.tpot_s, samples.tpot_s),
        tokens_per_s_per_replica=interval(replica, replica * ratio),
        tokens_per_s_per_chip=interval(per_chip, per_chip * ratio),
        tokens_per_s=interval(
            tokens, found.requests_per_s * spec.output_tokens * up * ratio * draws.left_by_routers
        ),
        input_tokens_per_s=rate * spec.input_tokens,
        joules_per_token=joules,
        cost_per_million_tokens=cost,
        currency="" if price is None else price.currency,
        bound_by=_bound_by(passes, found),
    )


def _variance_shares(context: _Context, found: Found) -> tuple[tuple[str, float], ...]:
    samples = drawn(context.passes, found, context.draws)
    return variance_shares(context.draws, samples.rate_per_chip * context.draws.left_by_routers)


def _nominal_rate_per_chip(found: Found) -> float:
    if found.prefill is None:
        return found.decode.rate_per_chip
    return 1 / (1 / found.prefill.rate_per_chip + 1 / found.decode.rate_per_chip)


def _bound_by(passes: PassModel, found: Found) -> str:
    """What keeps the replica that decodes from more sequences."""
    served, index = found.decode.served, found.decode.index
    spec = passes.spec
    if index + 1 == served.requests_per_s.shape[-1]:
        return "the cache: no more sequences fit it"
    following = index + 1
    if served.tpot_s[0, following] > spec.tpot_s:
        return "the limit on the time per output token"
    if served.ttft_s[0, following] > spec.ttft_s:
        return "the limit on the time to the first token"
    return "nothing: more sequences would not serve more"


def _pool(context: _Context, role: PoolRole, choice: Choice, count: int) -> ServingPool:
    passes = context.passes
    served, index = choice.served, choice.index
    tokens = DECODE_TOKENS + served.load.chunk
    if role is PoolRole.PREFILL:
        tokens = 4 * DECODE_TOKENS
    room = room_for(passes, served.plan, context.memory_bytes, tokens)
    return ServingPool(
        role=role,
        plan=served.plan,
        num_replicas=count,
        sequences=round(float(served.num_sequences[index])),
        chunk_tokens=served.load.chunk,
        pass_s=float(served.pass_s[0, index]),
        utilization=float(served.utilization[0, index]),
        requests_per_s=choice.rate,
        memory_parts=room.parts,
        cache_capacity_tokens=room.capacity_tokens,
        parts=_parts(passes, choice),
    )


def _parts(passes: PassModel, choice: Choice) -> tuple[StepPart, ...]:
    """One pass over all layers, taken apart: what the chip computes, and what shows of the rest."""
    plan, load = choice.served.plan, _at(choice)
    causes = passes.first(plan).at(load.tokens)[:, 0] + passes.last(plan).at(load.rows)[:, 0]
    exposed = float(causes[NUM_OF_CHIP:].sum())
    for kind, layers in _layers(passes.model):
        of_layer = passes.layer(plan, kind, load.phase).at(load.tokens)[:, 0]
        if load.decoding.any():
            of_layer = of_layer + passes.decode_core(plan, kind).at(load.decoding)[:, 0]
        if load.chunk:
            of_layer = of_layer + passes.prefill_core(plan, kind, load.chunk).at(load.prompts)[:, 0]
        whole = layer_seconds(passes, plan, kind, load, NOMINAL)
        causes = causes + layers * of_layer
        exposed += layers * (float(whole[0, 0]) - float(of_layer[:NUM_OF_CHIP].sum()))
    message = float(passes.between(plan, load.tokens)[:, 0].sum())
    parts = [(LABELS[cause], float(causes[cause])) for cause in LABELS]
    parts += [
        ("exchange that shows, and what overlapping costs", exposed),
        ("messages between stages", (plan.pipeline - 1) * message),
        ("host", plan.pipeline * HOST_S_PER_PASS.value),
    ]
    return tuple(StepPart(name=name, seconds=seconds) for name, seconds in parts if seconds > 0)


def _layers(model: ModelSpec) -> tuple[tuple[LayerKind, int], ...]:
    counts = ((LayerKind.DENSE, model.num_dense_layers), (LayerKind.MOE, model.num_moe_layers))
    return tuple((kind, count) for kind, count in counts if count)


def _at(choice: Choice) -> PassLoad:
    """The load of the choice alone."""
    load, at = choice.served.load, slice(choice.index, choice.index + 1)
    return replace(load, decoding=load.decoding[at], prompts=load.prompts[at])


def _front(context: _Context, points: Sequence[Found]) -> tuple[FrontPoint, ...]:
    spec = context.passes.spec
    draws = Draws.of(FRONT_SAMPLES)
    found = []
    for point in points:
        samples = drawn(context.passes, point, draws, fixed_load=True)
        rate = _nominal_rate_per_chip(point) * spec.output_tokens
        plans = [choice.served.plan.label for _, choice, _ in _pool_choices(point)]
        served = point.decode.served
        found.append(
            FrontPoint(
                tokens_per_s_per_user=interval(1 / point.decode.tpot_s, 1 / samples.tpot_s),
                tokens_per_s_per_chip=interval(rate, samples.rate_per_chip * spec.output_tokens),
                mode=point.mode,
                label=" + ".join(plans),
                sequences_per_chip=float(served.num_sequences[point.decode.index])
                / served.plan.num_chips,
            )
        )
    return tuple(found)


def _work(passes: PassModel, found: Found) -> TimedWork:
    """Each op of a pass of each pool over all layers, longest first."""
    model, spec = passes.model, passes.spec
    entries: list[tuple[WorkItem, float]] = []
    for _, choice, _ in _pool_choices(found):
        load, plan = _at(choice), choice.served.plan
        tokens, rows = round(float(load.tokens[0])), round(float(load.rows[0]))
        for kind, layers in _layers(model):
            of_layer = layer_items(model, plan, spec, kind, load.phase, max(1, tokens))
            if load.decoding.any():
                sequences = round(float(load.decoding[0]))
                of_layer += decode_core(model, plan, spec, kind, sequences)
            if load.chunk:
                prompts = max(1, round(float(load.prompts[0])))
                of_layer += prefill_core(model, plan, spec, kind, load.chunk, prompts)
            entries += [(item, float(layers)) for item in of_layer]
        ends = (
            *first_items(model, plan, spec, max(1, tokens)),
            *last_items(model, plan, spec, rows),
        )
        entries += [(item, 1.0) for item in ends]
    return timed_work(passes.lookup, entries)


def _interval_basis() -> str:
    return (
        "P10 to P90 of draws of the rates of the ops (their own intervals), of the network, its "
        "latency, the launches, the load of experts, and an error of the model of "
        f"{MODEL_ERROR.spread - 1:.0%} (90 %, assumed); times are at the load that was found, "
        "rates at the load that each draw allows"
    )


def _assumptions(context: _Context, found: Found) -> tuple[str, ...]:
    passes = context.passes
    spec, cluster, model = passes.spec, passes.cluster, passes.model
    sentences = list(cluster.assumptions)
    if not passes.lookup.records:
        sentences.append(
            "Nothing was measured: all op times come from the data sheet and published rates."
        )
    if spec.weight_dtype != spec.dtype:
        sentences.append(
            f"Layers multiply in {spec.weight_dtype}; that the answers are as good as in "
            f"{spec.dtype} is assumed."
        )
    sentences.append(
        f"Each request has {spec.input_tokens:,} tokens in and {spec.output_tokens:,} out, and "
        "comes at random; limits are on means, not on the slowest requests."
    )
    if spec.cached_input_share:
        sentences.append(f"{spec.cached_input_share:.0%} of each prompt is in the cache already.")
    if passes.expert_load(found.decode.served.plan) > 1:
        sentences.append(
            f"The busiest chip has {EXPERT_LOAD.value:g} times the mean load of experts, as in "
            "CloudMatrix384 with its default balancer."
        )
    if model.experts is not None and spec.is_overlapped:
        sentences.append("Two halves of a batch take turns in computing and exchanging.")
    speculation = spec.speculation
    if speculation.num_tokens:
        sentences.append(
            f"{speculation.num_tokens} tokens are guessed per pass, each right with probability "
            f"{speculation.acceptance:g}, which gives {speculation.tokens_per_pass:.2f} tokens."
        )
    if found.mode is ServingMode.DISAGGREGATED:
        sentences.append("The cache of a prompt is sent after its prefill, hidden behind nothing.")
    sentences.append(
        f"Routers lose {ROUTER_IMBALANCE.value:.0%} to uneven requests; a failed replica is back "
        f"after {duration(cluster.reliability.restart_s)}."
    )
    site = site_power(context.chip, cluster)
    if site is not None:
        sentences.append(
            f"A chip draws its {site.chip_w:g} W all the time, its host and network "
            f"{site.host_share:.0%} more, the site {site.usage_effectiveness:g} times all of it."
        )
    price = chip_price(cluster, spec, site)
    if price is not None:
        unit = f" {price.currency}" if price.currency else ""
        sentences.append(f"A chip costs {price.per_hour:.3g}{unit} per hour.")
    return tuple(sentences)
