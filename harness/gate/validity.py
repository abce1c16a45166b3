"""Whether a case can be judged at all; asked before any of its times is believed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.device.base import POWER_CAP
from harness.environment import named
from harness.gate.pairs import CasePairs, clock_hz
from harness.gate_result import State
from harness.protocol_difference import protocol_difference
from harness.record import Measurement, Record, Status
from harness.units import duration, percent, signed_percent

MAX_CLOCK_DIFFERENCE = 0.02
"""Of the arms' median clocks. A kernel bound by the clock is slower by as much, which is as large
as what the gate looks for; interleaved arms on a chip at rest are closer by far. Assumed: it has
not been measured on a fleet."""

MIN_TIMER_STEPS = 8
"""A case that lasts fewer steps of its timer is not judged. Medians of both arms may each be off by
a step, so the tolerance is never below two; of so short a case that is a quarter, and a gate that
forgives a quarter is none."""

MAX_THROTTLED_SHARE = 0.5
"""Throttled samples are left out of the medians; where they are more than this share, the others
are of a chip that was about to be. Assumed."""

HOST_CLOCK = "host_clock"
"""The timer of processors, whose clock is told as the mean of all cores, idle ones among them."""

_PASSING = (Status.CRASHED, Status.TIMEOUT, Status.OUT_OF_MEMORY, Status.SKIPPED)
"""What may have been of the moment, and is tried again with fresh processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Why a case is not judged by its times."""

    state: State
    """INVALID, NEW or MISSING."""
    reason: str
    is_passing: bool = False
    """It may be of the moment: fresh rounds may do."""


def is_left_out(pairs: CasePairs) -> bool:
    """Neither side can run the case here, so there is nothing to gate."""
    return not _is_there(pairs.base) and not _is_there(pairs.head)


def finding_of(pairs: CasePairs) -> Finding | None:
    """Why the pairs cannot be judged, whatever their tolerance is; None where they can.

    The pairs are those of a case that at least one side can run.
    """
    if not _is_there(pairs.base) or not _is_there(pairs.head):
        return _one_sided(pairs)
    if _never_timed(pairs.base) and _always_timed(pairs.head):
        return Finding(
            state=State.NEW, reason=f"The base has no time of it ({_first_fault(pairs.base)})."
        )
    for side, records in (("base", pairs.base), ("head", pairs.head)):
        for number, record in enumerate(records, start=1):
            found = _fault(record)
            if found is not None:
                reason, is_passing = found
                return Finding(
                    state=State.INVALID,
                    reason=f"Round {number}, {side}: {reason}.",
                    is_passing=is_passing,
                )
    return _unequal_work(pairs) or _unequal_clocks(pairs)


def fault_of(records: Sequence[Record]) -> str:
    """Why one of these records of a case cannot be judged, in a sentence; empty where all can.

    For a side that has no other beside it; what cannot run here is no fault.
    """
    for number, record in enumerate(records, start=1):
        found = None if record.status is Status.UNSUPPORTED else _fault(record)
        if found is not None:
            return f"Process {number}: {found[0]}."
    return ""


def coarse_timer(median_s: float, timer_resolution_s: float) -> Finding | None:
    """Why the timer says too little of a case that short, or None where it does not."""
    if median_s >= MIN_TIMER_STEPS * timer_resolution_s:
        return None
    return Finding(
        state=State.INVALID,
        reason=(
            f"It lasts {duration(median_s)}, and a step of its timer is "
            f"{duration(timer_resolution_s)}: below {MIN_TIMER_STEPS} steps nothing is judged. "
            "Enlarge the case."
        ),
    )


def _is_there(records: tuple[Record | None, ...]) -> bool:
    return any(one is not None and one.status is not Status.UNSUPPORTED for one in records)


def _always_timed(records: tuple[Record | None, ...]) -> bool:
    return all(one is not None and one.status is Status.OK for one in records)


def _never_timed(records: tuple[Record | None, ...]) -> bool:
    return not any(one is not None and one.status is Status.OK for one in records)


def _one_sided(pairs: CasePairs) -> Finding:
    """The case is there on one side alone; a head that fails on it is told as that."""
    if _is_there(pairs.head):
        if not _always_timed(pairs.head):
            return Finding(
                state=State.INVALID,
                reason=f"It is new, and the head: {_first_fault(pairs.head)}.",
            )
        return Finding(state=State.NEW, reason=f"{_absence(pairs.base, 'base')}.")
    return Finding(state=State.MISSING, reason=f"{_absence(pairs.head, 'head')}.")


def _absence(records: tuple[Record | None, ...], side: str) -> str:
    record = next((one for one in records if one is not None), None)
    if record is None:
        return f"The {side} does not have it"
    return f"The {side} cannot run it here: {record.reason.rstrip('.')}"


def _first_fault(records: tuple[Record | None, ...]) -> str:
    faults = (_fault(one) for one in records)
    return next(fault[0] for fault in faults if fault is not None)


def _fault(record: Record | None) -> tuple[str, bool] | None:
    """What is wrong with one record and whether it may pass, or None."""
    if record is None:
        return "the process left no record of it", True
    if record.status is not Status.OK:
        words = str(record.status).replace("_", " ")
        reason = record.reason.rstrip(".")
        return f"{words}, {reason}" if reason else words, record.status in _PASSING
    if record.correctness is not None and not record.correctness.is_right:
        return f"wrong, {record.correctness.explanation.rstrip('.')}", False
    measurement = record.measurement
    if measurement is None or not measurement.samples_s:
        return "there are no samples", False
    share = measurement.num_throttled / len(measurement.samples_s)
    if measurement.is_throttled or share > MAX_THROTTLED_SHARE:
        share = 1.0 if measurement.is_throttled else share
        reasons = ", ".join(_throttle_reasons(measurement)) or "the chip does not say why"
        return f"the chip was throttled during {percent(share)} of its samples ({reasons})", True
    if measurement.foreign_processes:
        return f"other programs held the device: {named(measurement.foreign_processes)}", True
    return None


def _throttle_reasons(measurement: Measurement) -> tuple[str, ...]:
    states = [window.state for window in measurement.windows] or [measurement.state_after]
    return tuple(dict.fromkeys(reason for state in states for reason in state.throttle_reasons))


def _unequal_work(pairs: CasePairs) -> Finding | None:
    """The protocols differ, so that the times are not of equal work."""
    for base, head in zip(pairs.base, pairs.head, strict=True):
        assert base is not None, "faults were looked for before"
        assert head is not None, "faults were looked for before"
        if base.protocol_hash != head.protocol_hash:
            known = base.protocol_hash and head.protocol_hash
            words = protocol_difference(base, head) if known else "one side does not tell its own"
            return Finding(
                state=State.INVALID,
                reason=f"Base and head do not measure equal work by equal rules: {words}.",
            )
    return None


def _unequal_clocks(pairs: CasePairs) -> Finding | None:
    """The chip ran at another clock for one side, for a reason that is not the work itself."""
    timers = {one.measurement.timer for one in pairs.base if one is not None and one.measurement}
    base_hz, head_hz = clock_hz(pairs.base), clock_hz(pairs.head)
    if HOST_CLOCK in timers or not base_hz or not head_hz:
        return None
    difference = head_hz / base_hz - 1
    if abs(math.log1p(difference)) <= math.log1p(MAX_CLOCK_DIFFERENCE):
        return None
    # At its power cap a chip chooses the clock by the work, so a hungrier kernel's is its own.
    if _is_power_capped(pairs.base) or _is_power_capped(pairs.head):
        return None
    return Finding(
        state=State.INVALID,
        reason=(
            f"The chip ran at {base_hz / 1e9:.3f} GHz for the base and {head_hz / 1e9:.3f} GHz for "
            f"the head ({signed_percent(difference)}), and more than "
            f"{percent(MAX_CLOCK_DIFFERENCE)} hides or makes a change. Lock the clocks."
        ),
        is_passing=True,
    )


def _is_power_capped(records: tuple[Record | None, ...]) -> bool:
    return any(
        POWER_CAP in _throttle_reasons(record.measurement)
        for record in records
        if record is not None and record.measurement is not None
    )
