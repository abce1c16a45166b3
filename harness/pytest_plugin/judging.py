"""A measured test against the baseline: comparable or not, and confirmed before it fails."""

from collections.abc import Callable

import pytest

from harness.gate.policy import GatePolicy
from harness.gate_result import State
from harness.measure.policy import Cache
from harness.pytest_plugin.baseline import (
    Baseline,
    Entry,
    chip_differences,
    version_differences,
)
from harness.pytest_plugin.chip_session import ChipSession, Identity
from harness.pytest_plugin.fresh import fresh_median_s, node_argument
from harness.pytest_plugin.verdict import (
    Tolerance,
    Verdict,
    change_text,
    hodges_lehmann_s,
    is_faster,
    is_slower,
    tolerance_of,
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
        return Verdict(fullname=name, state=State.NEW, reason=reason, head_s=median_s)
    refusal = reason_not_to_judge(session, baseline, entry, identity, measurement)
    if refusal:
        return Verdict(fullname=name, state=State.INVALID, reason=f"not judged: {refusal}")
    tolerance = _tolerance(item, session, entry, measurement)
    base_s = entry.median_s
    if is_slower(base_s, median_s, tolerance):
        return _confirmed(item, session, baseline, base_s, median_s, tolerance, remeasure)
    change = change_text(base_s, median_s)
    if is_faster(base_s, median_s, tolerance):
        state = State.IMPROVED
        reason = f"{change}: faster than in {baseline.label}. Make a new baseline, or it hides the"
        reason += " next slow-down"
    else:
        state, reason = State.UNCHANGED, f"{change}, within {tolerance_text(tolerance)}"
    return Verdict(fullname=name, state=state, reason=reason, base_s=base_s, head_s=median_s)


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
    if entry.case_id != identity.case_id:
        return f"the baseline's is {entry.case_id or 'a function'}, and it now measures " + (
            identity.case_id or "a function"
        )
    if entry.protocol_hash != identity.protocol_hash:
        return (
            "it was measured by other rules, or the work is another (protocol "
            f"{entry.protocol_hash} and {identity.protocol_hash})"
        )
    if measurement.is_throttled:
        return "the chip was throttled for all of its samples"
    return ""


def _tolerance(
    item: pytest.Item, session: ChipSession, entry: Entry, measurement: Measurement
) -> Tolerance:
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
    return tolerance_of(entry.median_s, asked, basis, measurement.timer_resolution_s, GatePolicy())


def _confirmed(
    item: pytest.Item,
    session: ChipSession,
    baseline: Baseline,
    base_s: float,
    median_s: float,
    tolerance: Tolerance,
    remeasure: Callable[[], float],
) -> Verdict:
    """Measure again what looks slow; only fresh times decide."""
    fresh_s: list[float] = []
    where = "fresh processes"
    for _ in range(session.options.rounds):
        found = remeasure() if where == "this process" else fresh_median_s(item)
        if isinstance(found, str):
            session.tell(
                f"{item.nodeid} could not be measured in a fresh process ({found}), so it was "
                "measured again in this one."
            )
            where = "this process"
            found = remeasure()
        fresh_s.append(found)
    head_s = hodges_lehmann_s(fresh_s)
    times = f"{len(fresh_s)} more times in {where}" if len(fresh_s) > 1 else f"again in {where}"
    if not is_slower(base_s, head_s, tolerance):
        return Verdict(
            fullname=item.nodeid,
            state=State.UNCHANGED,
            reason=f"it looked slow ({change_text(base_s, median_s)}), and measured {times} it was "
            f"not: {change_text(base_s, head_s)}, within {tolerance_text(tolerance)}",
            base_s=base_s,
            head_s=head_s,
        )
    return Verdict(
        fullname=item.nodeid,
        state=State.REGRESSED,
        reason=f"{change_text(base_s, head_s)}: slower than in {baseline.label} by more than "
        f"{tolerance_text(tolerance)}, measured {times} to confirm it. Again: pytest "
        f"'{node_argument(item)}' --chip-baseline={baseline.label}. If it is meant, make a new "
        "baseline",
        base_s=base_s,
        head_s=head_s,
    )
