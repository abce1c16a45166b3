"""What every view of a gate's result says, in words: changes, times, tolerances, clocks, notes."""

import re
from collections.abc import Iterable

from harness.gate.words import with_interval
from harness.gate_result import Arm, CommonShift, GateCase, GateResult, State
from harness.units import MEGA, duration, percent, signed_percent, significant

HASH = re.compile("[0-9a-f]{40}")
"""Of a commit, whole: what scripts name."""
MEANING: dict[State, str] = {
    State.REGRESSED: "slower by more than the tolerance, and again in fresh rounds",
    State.INVALID: "could not be judged: wrong, crashed, throttled, or not of equal work",
    State.MISSING: "the base has it and the head does not, or cannot run it here",
    State.INCONCLUSIVE: "the interval holds both a difference that matters and none",
    State.NOISY: "the machine differs from itself by too much, so it is advice alone",
    State.IMPROVED: "faster by more than the tolerance, and again in fresh rounds",
    State.NEW: "the head has it and the base does not",
    State.UNCHANGED: "within the tolerance",
}


def ordered(cases: Iterable[GateCase]) -> tuple[GateCase, ...]:
    """Worst first."""
    return tuple(sorted(cases, key=lambda case: case.place))


def flagged(result: GateResult) -> tuple[GateCase, ...]:
    """All that is told one by one: every case but those that are unchanged."""
    return ordered(case for case in result.cases if case.state is not State.UNCHANGED)


def num_unchanged(result: GateResult) -> int:
    """Cases that are told as a number alone."""
    return len(result.of(State.UNCHANGED))


def state_text(case: GateCase) -> str:
    """The state, and until when a regression is accepted."""
    if case.exemption is None or case.state is not State.REGRESSED:
        return case.state.value
    return f"{case.state.value}, accepted until {case.exemption.until}"


def change_text(case: GateCase) -> str:
    """The change over all rounds with its interval; empty where there is none."""
    return with_interval(case.change) if case.change is not None else ""


def seconds_text(seconds: float | None) -> str:
    """A time; empty where there is none."""
    return duration(seconds, 4) if seconds is not None else ""


def times_text(case: GateCase) -> str:
    """`12.30 us -> 13.31 us`; a side that has no time is a dash."""
    if case.base_s is None and case.head_s is None:
        return ""
    return f"{seconds_text(case.base_s) or '-'} -> {seconds_text(case.head_s) or '-'}"


def tolerance_text(case: GateCase) -> str:
    """`3 %: set by the user`."""
    basis = f": {case.tolerance_basis}" if case.tolerance_basis else ""
    return f"{100 * case.tolerance:.3g} %{basis}"


def clock_text(clock_hz: float | None) -> str:
    """`1980 MHz`; empty where the chip does not tell it."""
    return f"{clock_hz / MEGA:.0f} MHz" if clock_hz is not None else ""


def clocks_text(case: GateCase) -> str:
    """`1980 -> 1755 MHz`, or `1980 MHz` of both; empty where neither is known."""
    base, head = clock_text(case.base_clock_hz), clock_text(case.head_clock_hz)
    if base == head:
        return base
    return f"{base.removesuffix(' MHz') or '-'} -> {head}" if head else f"{base} -> -"


def rounds_text(case: GateCase) -> str:
    """`5 + 5 rounds`: of the screen, and those that confirmed."""
    counts = [len(stage.head_s) for stage in (case.screen, case.confirm) if stage is not None]
    return f"{' + '.join(map(str, counts))} rounds" if counts else ""


def exemption_text(case: GateCase) -> str:
    """Who accepted what, until when and why; empty where nobody did."""
    one = case.exemption
    if one is None:
        return ""
    by = f" by {one.author}" if one.author else ""
    limit = f"up to {signed_percent(one.limit)}"
    return f"accepted{by} {limit} until {one.until}: {one.reason}"


def arm_text(arm: Arm) -> str:
    """`main (0123456)`; a hash that somebody named is as short as others."""
    commit = arm.commit[:7] + ("-dirty" if arm.commit.endswith("-dirty") else "")
    label = arm.label[:7] if HASH.fullmatch(arm.label) else arm.label
    return f"{label} ({commit})" if commit and commit not in label else label


def shift_text(shift: CommonShift) -> str:
    """The sentence on a suite that moved as a whole."""
    again = (
        "Fresh rounds showed it again, so it is of the head."
        if shift.is_confirmed
        else "It was not confirmed, so a clock or a driver may have changed: measure again."
    )
    return (
        f"Whole-suite shift of {signed_percent(shift.shift)}: {percent(shift.share)} of the cases "
        f"moved the same way. {again}"
    )


def notes(result: GateResult) -> tuple[str, ...]:
    """What a reader has to know before the numbers, a sentence each."""
    found = list(result.warnings)
    if result.common_shift is not None:
        found.append(shift_text(result.common_shift))
    if not result.is_interleaved:
        found.append(
            "The base was measured at another time, so what is seen may be of the machine"
            f"{': advice' if result.is_advisory else ''}."
        )
    found += result.environment_changes
    return tuple(dict.fromkeys(found))


def _confidence_text(result: GateResult) -> str:
    """`of 93.8 to 95.1 % confidence`: few rounds cannot give what was asked for."""
    known = [case.confidence for case in result.cases if case.confidence is not None]
    ends = dict.fromkeys(f"{100 * one:.3g}" for one in (min(known), max(known))) if known else {}
    return f"of {' to '.join(ends)} % confidence" if ends else ""


def facts(result: GateResult) -> tuple[tuple[str, str], ...]:
    """What was compared and how, as names with values."""
    order = "base and head in turns" if result.is_interleaved else "head against a stored base"
    confirm = f" and {result.num_confirm_rounds} to confirm" if result.num_confirm_rounds else ""
    alarms = result.expected_false_alarms
    at_most = "" if alarms is None else f"at most {significant(alarms, 2)} in this gate"
    found = {
        "base": arm_text(result.base),
        "head": arm_text(result.head),
        "suite": result.suite + (f" of {result.model}" if result.model else ""),
        "chip": result.chip,
        "rounds": f"{result.num_rounds} rounds{confirm}, {order}, a fresh process each",
        "intervals": _confidence_text(result),
        "expected false alarms": at_most,
        "measured": f"{result.started_at} to {result.ended_at}",
        "fingerprint": result.fingerprint,
        "gate": result.gate_id,
        "command": result.command,
    }
    return tuple((name, value) for name, value in found.items() if value)
