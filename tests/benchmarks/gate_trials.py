"""Trials: what a rule is told of base and head, and whether anything in it is really slower."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.cases import Case
from harness.device.base import DeviceState
from harness.gate.rounds import Round
from harness.record import Measurement, Record, Status
from kernels.op import problem

LEVELS = (0.03, 0.05, 0.10, 0.20)
"""Slow-downs that are looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One suite, measured in two stages that share no process."""

    first: tuple[Round, ...]
    fresh: tuple[Round, ...]
    """Fresh rounds of at least what the first ones flag."""
    slower: frozenset[str] = frozenset()
    """Cases whose head is really slower; empty for A/A."""
    level: float = 0.0
    """By how much."""


def imagined_case(number: int) -> Case:
    """A case that is only a name."""
    return Case(problem=problem("copy", "bf16", N=number + 1), impl="torch")


def record_of(
    case: Case,
    samples_s: Sequence[float],
    *,
    timer_resolution_s: float,
    status: Status = Status.OK,
    reason: str = "",
    state: DeviceState | None = None,
) -> Record:
    """A record with those samples; the rule reads nothing else of it."""
    state = state or DeviceState()
    measurement = Measurement(
        samples_s=tuple(samples_s),
        timer="host_clock",
        timer_resolution_s=timer_resolution_s,
        cache="hot",
        flush_bytes=0,
        num_warmup=0,
        warmup_s=0.0,
        prepare_s=0.0,
        stop_reason="",
        peak_memory_bytes=None,
        state_before=state,
        state_after=state,
    )
    return Record(
        run_id="trial",
        case=case,
        status=status,
        reason=reason,
        measurement=measurement if samples_s else None,
        protocol_hash="one",
    )


def samples_of(record: Record) -> tuple[float, ...]:
    """Its samples in seconds."""
    assert record.measurement is not None, "trials are made of timed records"
    return record.measurement.samples_s


def multiplied(rounds: Sequence[Round], factor: float, slower: frozenset[str]) -> tuple[Round, ...]:
    """The rounds with the samples of those heads multiplied: a change without its own noise."""
    return tuple(
        replace(one, head=tuple(_times(record, factor, slower) for record in one.head))
        for one in rounds
    )


def _times(record: Record, factor: float, slower: frozenset[str]) -> Record:
    if record.case.id not in slower or record.measurement is None:
        return record
    samples_s = tuple(factor * one for one in record.measurement.samples_s)
    return replace(record, measurement=replace(record.measurement, samples_s=samples_s))
