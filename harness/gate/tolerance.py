"""The largest change of a case that is none: what the user, the timer and the machine allow."""

from dataclasses import dataclass

from harness.gate.floors import Floors, widened
from harness.gate.policy import GatePolicy
from harness.units import duration, percent

FLOOR_DEVIATIONS = 3.0
"""Standard deviations of A/A estimates that are no change: of normal ones, 1 in 370 is beyond, and
of those that are, 1 in 740 again in fresh rounds on the same side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseTolerance:
    """Of one case."""

    value: float
    """As 0.03 for 3 %."""
    basis: str
    """What set it, in words."""
    noise: str = ""
    """Why the machine cannot judge the case, as a clause; empty where it can."""


def tolerance_of(
    case_id: str,
    median_s: float,
    timer_resolution_s: float,
    policy: GatePolicy,
    floors: Floors | None = None,
) -> CaseTolerance:
    """The widest of what the user, the timer and the machine's A/A floor ask for.

    Args:
        case_id: the case.
        median_s: of its base processes.
        timer_resolution_s: the coarsest of their timers.
        policy: the user's numbers.
        floors: of this machine, where it was calibrated.
    """
    is_short = median_s < policy.short_s
    # Short cases get the larger of the two: whoever allows 10 % in general means it here too.
    of_user = max(policy.tolerance, policy.short_tolerance) if is_short else policy.tolerance
    parts = [(of_user, "the policy")]
    if is_short and of_user > policy.tolerance:
        parts = [(of_user, f"the policy for cases shorter than {duration(policy.short_s)}")]
    parts.append(
        (
            policy.absolute_floor_s / median_s,
            f"{duration(policy.absolute_floor_s)} of {duration(median_s)}, the least that counts",
        )
    )
    parts.append(
        (
            policy.timer_steps * timer_resolution_s / median_s,
            f"the timer: {policy.timer_steps:g} of its steps of {duration(timer_resolution_s)}",
        )
    )
    noise = ""
    found = floors.of(case_id) if floors is not None else None
    if floors is not None and found is not None and found.is_enough:
        deviation = widened(found.deviation, floors.num_rounds, policy.rounds)
        floor = FLOOR_DEVIATIONS * deviation
        words = f"{FLOOR_DEVIATIONS:g} deviations of {len(found.estimates)} A/A estimates"
        parts.append((min(floor, policy.max_floor), f"this machine's A/A floor: {words}"))
        if floor > policy.max_floor:
            noise = (
                f"this machine differs from itself by {percent(floor)} ({words}), and a gate may "
                f"allow {percent(policy.max_floor)}"
            )
    value, basis = max(parts, key=lambda part: part[0])
    return CaseTolerance(value=value, basis=basis, noise=noise)
