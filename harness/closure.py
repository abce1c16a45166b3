"""Closure: a whole layer's measured time against the sum of its measured ops; records in.

A projection sums ops that were measured one by one. Between the ops of a layer the data may still
be in the cache, a compiler may have fused them, and on an accelerator the host launches one while
another runs; the closure says what all that is worth on the chip at hand.

A layer is measured in training and, as prefill, forward alone; backward is the difference of both.
An op counts as often as the layer has it, by its median. Errors of medians are taken to be
independent and those of one op's repetitions equal.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from harness.errors import PlanError
from harness.projection import Interval
from harness.record import Record, Status
from harness.stats import summarize
from harness.workload.layer import is_layer, work_of_layer
from harness.workload.step import Direction
from kernels.op import Mode, Problem

FASTEST = "fastest"
"""In place of an implementation's name: the fastest right one of the layer, and of each op."""

TARGET = 0.05
"""Error of the sum that is aimed at on a GPU; elsewhere the error is told and held to nothing."""


class Part(StrEnum):
    """Which part of a layer's work."""

    TRAINING = "training"
    """Forward, backward, and the update of the layer's weights."""
    FORWARD = "forward"
    """Measured as prefill, which keeps keys and values and no activations."""
    BACKWARD = "backward and update"
    """What training takes longer than prefill."""
    DECODE = "decode"


_PARTS = {Mode.TRAINING: Part.TRAINING, Mode.PREFILL: Part.FORWARD, Mode.DECODE: Part.DECODE}


@dataclass(frozen=True, slots=True, kw_only=True)
class SummedOp:
    """One op of a sum."""

    problem_id: str
    role: str
    direction: Direction
    count: int
    seconds: Interval | None
    """All repetitions together; None where it has no time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closure:
    """One part of one layer, by one implementation, with its ops in one state of the cache."""

    layer: str
    """The layer without its mode: `dense_layer.bf16.gated[B=1,...]`."""
    part: Part
    implementation: str
    """`torch`, `compile`, `triton`: layer and ops by the same; or `fastest`."""
    cache: str
    """`cold`: ops with the cache flushed before each sample; `hot`: with their data in it."""
    layer_s: Interval
    """Median of the whole layer with its 95 % interval."""
    sum_s: Interval | None
    """None where an op has no time."""
    error: Interval | None
    """Sum over layer, less 1: above zero the sum is too long."""
    ops: tuple[SummedOp, ...]
    span_s: float
    """From the start of the first of these cases to the end of the last."""

    @property
    def missing(self) -> tuple[str, ...]:
        """The ops without a time."""
        return tuple(dict.fromkeys(op.problem_id for op in self.ops if op.seconds is None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Closures:
    """What a run says of its layers, as it is kept in its folder."""

    target: float = TARGET
    """Of the error on a GPU."""
    closures: tuple[Closure, ...]


@dataclass(frozen=True, slots=True)
class _Timed:
    """The times of one problem by implementation, each with the record it comes from."""

    seconds: Mapping[str, Interval]
    records: Mapping[str, Record]

    def implementation(self, name: str) -> str | None:
        """That one if it has a time; the fastest that has one for `fastest`."""
        if name != FASTEST:
            return name if name in self.seconds else None
        return min(self.seconds, key=lambda one: self.seconds[one].value, default=None)


def closures_of(records: Sequence[Record]) -> tuple[Closure, ...]:
    """Every layer among the records against its ops, first the fastest, then each implementation.

    Args:
        records: those of one run; a case that was run again counts by its last.
    """
    timed = _timed(records)
    layers = {key: one for key, one in timed.items() if is_layer(key[0]) and key[0].mode in _PARTS}
    # A layer is held against ops in every state of the cache that there are any in.
    caches = tuple(dict.fromkeys(cache for (one, cache) in timed if not is_layer(one)))
    found: list[Closure] = []
    for (layer, _), whole in layers.items():
        for name in (FASTEST, *whole.seconds):
            for cache in caches:
                closed = _closed(layer, whole, name, cache, timed)
                if closed is not None:
                    found.append(closed)
    return tuple(_with_backward(found))


def complete(closures: Iterable[Closure]) -> tuple[Closure, ...]:
    """Those that have a sum."""
    return tuple(one for one in closures if one.error is not None)


def headlines(closures: Sequence[Closure]) -> tuple[Closure, ...]:
    """What a projection does: the fastest of each op, the cache flushed before each."""
    caches = {one.cache for one in closures}
    cache = "cold" if "cold" in caches else next(iter(sorted(caches)), "")
    return tuple(one for one in closures if one.implementation == FASTEST and one.cache == cache)


def _timed(records: Sequence[Record]) -> dict[tuple[Problem, str], _Timed]:
    """What has a time, by problem and state of the cache."""
    last = {record.case.id: record for record in records}
    found: dict[tuple[Problem, str], dict[str, tuple[Interval, Record]]] = {}
    for record in last.values():
        if record.status is not Status.OK or record.measurement is None or record.case.forced:
            continue
        summary = summarize(record.measurement.steady_samples_s)
        if summary.median <= 0:
            continue
        median = Interval(value=summary.median, low=summary.low, high=summary.high)
        key = (record.case.problem, record.measurement.cache)
        # A state that was asked for by itself may be that of the policy as well: the same work.
        found.setdefault(key, {})[record.case.impl] = (median, record)
    return {
        key: _Timed(
            {impl: one[0] for impl, one in by_impl.items()},
            {impl: one[1] for impl, one in by_impl.items()},
        )
        for key, by_impl in found.items()
    }


def _closed(
    layer: Problem,
    whole: _Timed,
    name: str,
    cache: str,
    timed: Mapping[tuple[Problem, str], _Timed],
) -> Closure | None:
    """The closure of a layer; None where none of its ops was measured at all."""
    chosen = whole.implementation(name)
    assert chosen is not None
    try:
        items = work_of_layer(layer)
    except PlanError:
        return None  # Odd sizes, as those at which layers are checked.
    used, ops = [whole.records[chosen]], []
    for item in items:
        one = timed.get((item.problem, cache))
        implementation = None if one is None else one.implementation(name)
        seconds = None
        if one is not None and implementation is not None:
            seconds = _times(one.seconds[implementation], item.count)
            used.append(one.records[implementation])
        ops.append(
            SummedOp(
                problem_id=item.problem.id,
                role=item.role,
                direction=item.direction,
                count=item.count,
                seconds=seconds,
            )
        )
    if all(op.seconds is None for op in ops):
        return None
    return _held_against(
        Closure(
            layer=_layer_name(layer),
            part=_PARTS[layer.mode],
            implementation=name,
            cache=cache,
            layer_s=whole.seconds[chosen],
            sum_s=None,
            error=None,
            ops=tuple(ops),
            span_s=_span_s(used),
        )
    )


def _held_against(closure: Closure) -> Closure:
    """The closure with the sum of its ops and the error."""
    total = _total(closure.ops)
    error = None if total is None else _error(total, closure.layer_s)
    return replace(closure, sum_s=total, error=error)


def _layer_name(layer: Problem) -> str:
    variant = f".{layer.variant}" if layer.variant else ""
    return f"{layer.op}.{layer.dtype}{variant}[{layer.shape.replace(' ', ',')}]"


def _with_backward(closures: Sequence[Closure]) -> list[Closure]:
    """The closures, and after training what it takes longer than forward, where both are there."""
    forward = {
        (one.layer, one.implementation, one.cache): one
        for one in closures
        if one.part is Part.FORWARD
    }
    found: list[Closure] = []
    for one in closures:
        found.append(one)
        other = forward.get((one.layer, one.implementation, one.cache))
        if one.part is Part.TRAINING and other is not None:
            layer_s = _difference(one.layer_s, other.layer_s)
            if layer_s.low <= 0:
                continue  # Where not even the sign is known there is nothing to hold it against.
            rest = replace(
                one,
                part=Part.BACKWARD,
                layer_s=layer_s,
                ops=tuple(op for op in one.ops if op.direction is not Direction.FORWARD),
                span_s=max(one.span_s, other.span_s),
            )
            found.append(_held_against(rest))
    return found


def _times(one: Interval, count: int) -> Interval:
    return Interval(value=count * one.value, low=count * one.low, high=count * one.high)


def _total(ops: Sequence[SummedOp]) -> Interval | None:
    """The sum of all ops with its interval, or None where one has no time.

    Distances from median to end are added as squares over the ops, and as they are over the places
    that one op has.

    Source: Zou and Donner 2008, Construction of confidence limits about effect measures (MOVER),
    Statistics in Medicine 27, for this sum and for the difference and the ratio below.
    """
    by_problem: dict[str, list[Interval]] = {}
    for op in ops:
        if op.seconds is None:
            return None
        by_problem.setdefault(op.problem_id, []).append(op.seconds)
    value = sum(time.value for times in by_problem.values() for time in times)
    below = math.hypot(*(sum(t.value - t.low for t in times) for times in by_problem.values()))
    above = math.hypot(*(sum(t.high - t.value for t in times) for times in by_problem.values()))
    return Interval(value=value, low=value - below, high=value + above)


def _difference(first: Interval, second: Interval) -> Interval:
    value = first.value - second.value
    return Interval(
        value=value,
        low=value - math.hypot(first.value - first.low, second.high - second.value),
        high=value + math.hypot(first.high - first.value, second.value - second.low),
    )


def _error(total: Interval, layer_s: Interval) -> Interval:
    """Sum over layer, less 1; the interval on a logarithmic scale."""

    def log(value: float) -> float:
        return math.log(max(value, 1e-12))

    middle = log(total.value) - log(layer_s.value)
    below = math.hypot(log(total.value) - log(total.low), log(layer_s.high) - log(layer_s.value))
    above = math.hypot(log(total.high) - log(total.value), log(layer_s.value) - log(layer_s.low))
    return Interval(
        value=math.expm1(middle),
        low=math.expm1(middle - below),
        high=math.expm1(middle + above),
    )


def _span_s(records: Iterable[Record]) -> float:
    """From the first start to the last end, as far as the records tell."""
    moments = [
        datetime.fromisoformat(text).timestamp()
        for record in records
        for text in (record.started_at, record.ended_at)
        if text
    ]
    return max(moments) - min(moments) if moments else 0.0
