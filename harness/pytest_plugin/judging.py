"""A measured test against the baseline: comparable or not, and confirmed before it fails."""

import shlex
import statistics
from collections.abc import Callable

import pytest

from harness.environment import named
from harness.gate.estimate import Shift
from harness.gate.policy import GatePolicy
from harness.gate.tolerance import CaseTolerance
from harness.gate.validity import MAX_THROTTLED_SHARE
from harness.gate_result import State
from harness.measure.policy import Cache
from harness.pytest_plugin.baseline import (
    Baseline,
    Entry,
    chip_differences,
    version_differences,
)
from harness.pytest_plugin.chip_session import ChipSession, Identity
from harness.pytest_plugin.fresh import arguments_of, fresh_median_s
from harness.pytest_plugin.verdict import (
    Verdict,
    asked_tolerance,
    change_of,
    change_text,
    side_of,
    tolerance_text,
)
from harness.record import Measurement


def judge(
    item: pytest.Item,
    session: ChipSession,
    baseline: Baseline,
    identity: Identity,
    measurement: Measurement,
    median_s: float,
    remeasure: Callable[[], float],
) -> Verdict:
    """What became of the test.

    Args:
        item: the test.
        session: of pytest.
        baseline: what it is held against.
        identity: what it measured.
        measurement: how.
        median_s: its time in this process.
        remeasure: measures again in this process, where a fresh one cannot.
    """
    name = item.nodeid
    entry = baseline.of(name, identity.case_id)
    if entry is None:
        reason = f"it is not in {baseline.label}; its time is kept once a new baseline is made"
        return Verdict(fullname=name, state=State.NEW, reason=reason)
    refusal = reason_not_to_judge(session, baseline, entry, identity, measurement)
    if refusal:
        return Verdict(fullname=name, state=State.INVALID, reason=f"not judged: {refusal}")
    tolerance, asked = _tolerance(item, session, entry, measurement)
    if tolerance.value > max(asked, GatePolicy().max_floor):
        reason = f"not judged: so short a time could only be held to {tolerance_text(tolerance)}"
        return Verdict(fullname=name, state=State.NOISY, reason=reason)
    if tolerance.noise:
        return Verdict(fullname=name, state=State.NOISY, reason=f"not judged: {tolerance.noise}")
    base_s = entry.median_s
    change = change_of(base_s, [median_s])
    side = side_of(change, tolerance)
    if side > 0 and not entry.is_ours:
        # Its loop is another: unchanged code was 7 % slower by ours, on two busy cores of a CPU.
        return Verdict(
            fullname=name,
            state=State.INCONCLUSIVE,
            reason=f"{change_text(base_s, change)}: slower, but the loop of pytest-benchmark "
            "measured the baseline, so this is advice alone. Make a baseline with chip_benchmark",
            change=change.value,
            tolerance=tolerance.value,
        )
    if side > 0:
        return _confirmed(item, session, baseline, base_s, change, tolerance, remeasure)
    text = change_text(base_s, change)
    return Verdict(
        fullname=name,
        state=State.IMPROVED if side < 0 else State.UNCHANGED,
        reason=f"{text}: faster than in {baseline.label} by more than {tolerance_text(tolerance)}. "
        "Make a new baseline, or this one hides the next slow-down"
        if side < 0
        else f"{text}, within {tolerance_text(tolerance)}",
        change=change.value,
        tolerance=tolerance.value,
    )


def reason_not_to_judge(
    session: ChipSession,
    baseline: Baseline,
    entry: Entry,
    identity: Identity,
    measurement: Measurement,
) -> str:
    """Why the two times say nothing of each other, or empty."""
    engine = session.engine
    here = engine.environment
    if not entry.is_ours:
        if baseline.processor and here.processor and baseline.processor != here.processor:
            return f"the baseline is of {baseline.processor}, and this is {here.processor}"
        if measurement.cache != Cache.HOT or measurement.timer != "host_clock":
            return (
                "pytest-benchmark timed it on the host with warm caches, and this time is "
                f"{measurement.cache} by {measurement.timer}. Make the baseline with chip_benchmark"
                ", or on a processor add --chip-set=measure.cache=hot"
            )
        return ""
    if baseline.environment is not None:
        different = chip_differences(baseline.environment, here)
        if different:
            return f"the baseline is of another chip or its software ({'; '.join(different)})"
        changed = version_differences(baseline.environment, here)
        if changed:
            session.tell(f"Versions differ from the baseline's: {'; '.join(changed)}.")
    if min(entry.median_s, statistics.median(measurement.steady_samples_s)) <= 0:
        return "the timer shows no time at all"
    if entry.case_id != identity.case_id:
        return f"the baseline's is {entry.case_id or 'a function'}, and it now measures " + (
            identity.case_id or "a function"
        )
    if entry.protocol_hash != identity.protocol_hash:
        return (
            "it was measured by other rules, or the work is another (protocol "
            f"{entry.protocol_hash} and {identity.protocol_hash})"
        )
    if measurement.num_throttled > MAX_THROTTLED_SHARE * len(measurement.samples_s):
        return "the chip was throttled for most of its samples"
    if measurement.foreign_processes:
        return f"other programs held the device: {named(measurement.foreign_processes)}"
    return ""


def _tolerance(
    item: pytest.Item, session: ChipSession, entry: Entry, measurement: Measurement
) -> tuple[CaseTolerance, float]:
    """The tolerance, and the one that was asked for."""
    asked, basis = session.options.tolerance, "--chip-tolerance"
    mark = item.get_closest_marker("chip_tolerance")
    if mark is not None:
        value = mark.args[0] if len(mark.args) == 1 and not mark.kwargs else None
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            pytest.fail(
                f"chip_tolerance{mark.args!r}: it takes one number above 0, as chip_tolerance(0.1) "
                "for 10 %.",
                pytrace=False,
            )
        asked, basis = float(value), "chip_tolerance"
    resolution_s = measurement.timer_resolution_s
    name = entry.case_id or item.nodeid
    found = asked_tolerance(name, entry.median_s, asked, basis, resolution_s, session.floors)
    return found, asked


def _confirmed(
    item: pytest.Item,
    session: ChipSession,
    baseline: Baseline,
    base_s: float,
    first: Shift,
    tolerance: CaseTolerance,
    remeasure: Callable[[], float],
) -> Verdict:
    """Measure again what looks slow; only fresh times decide."""
    fresh_s, where = _fresh_times(item, session, remeasure)
    change = change_of(base_s, fresh_s)
    times = f"{len(fresh_s)} more times in {where}" if len(fresh_s) > 1 else f"again in {where}"
    is_slower = side_of(change, tolerance) > 0
    return Verdict(
        fullname=item.nodeid,
        state=State.REGRESSED if is_slower else State.UNCHANGED,
        reason=f"{change_text(base_s, change)}: slower than in {baseline.label} by more than "
        f"{tolerance_text(tolerance)}, measured {times} to confirm it. Again: "
        f"{shlex.join(['pytest', *arguments_of(item)])}. If it is meant, make a new baseline"
        if is_slower
        else f"it looked slow ({change_text(base_s, first)}), and measured {times} it was not: "
        f"{change_text(base_s, change)}, within {tolerance_text(tolerance)}",
        change=change.value,
        tolerance=tolerance.value,
    )


def _fresh_times(
    item: pytest.Item, session: ChipSession, remeasure: Callable[[], float]
) -> tuple[list[float], str]:
    """Medians of the confirming rounds, all of one kind of process, and which kind."""
    rounds = session.options.rounds
    fresh_s: list[float] = []
    for _ in range(rounds):
        found = fresh_median_s(item)
        if isinstance(found, str):
            session.tell(
                f"{item.nodeid} could not be measured in a fresh process ({found}), so it was "
                "measured again in this one."
            )
            return [remeasure() for _ in range(rounds)], "this process"
        fresh_s.append(found)
    return fresh_s, "fresh processes"
