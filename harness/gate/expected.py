"""How many false alarms a gate is to be expected to raise, at most."""

from collections.abc import Sequence

from harness.gate.floors import Floors
from harness.gate.policy import GatePolicy
from harness.gate_result import GateCase, State

FALSE_ALARM_RATE = 9.2e-5
"""Of a case whose code has not changed, at most: 0 of 40,000 raised an alarm (upper end of the 95 %
interval of Clopper and Pearson 1934), by the default policy.

Source: `make bench-gate`, 200 simulated suites of 200 cases at the noise of a GPU in one session.
"""

MEASURED = GatePolicy()
"""That it was found with."""


def expected_false_alarms(
    cases: Sequence[GateCase],
    floors: Floors | None,
    policy: GatePolicy | None = None,
    *,
    is_interleaved: bool = True,
) -> float | None:
    """At most so many of the cases would be called regressed though nothing has changed.

    None where the rate says nothing: on a machine that was not calibrated, which may be noisier
    than the tolerance; with fewer rounds or less tolerance than it was found with; against a
    stored base, of which half of all suites raise an alarm.

    Args:
        cases: as judged.
        floors: of this machine.
        policy: that they were judged by; the default one where it is not given.
        is_interleaved: base and head took turns.
    """
    if floors is None or not is_interleaved or not _is_as_measured(policy or MEASURED):
        return None
    calibrated = (floors.of(case.case_id) for case in cases if case.screen is not None)
    if not all(floor is not None and floor.is_enough for floor in calibrated):
        return None
    judged = [
        case
        for case in cases
        if case.screen is not None and case.state not in (State.NOISY, State.INVALID)
    ]
    return FALSE_ALARM_RATE * len(judged)


def _is_as_measured(policy: GatePolicy) -> bool:
    """No laxer than what the rate was found with, so that it is an upper bound here too."""
    return all(
        getattr(policy, name) >= getattr(MEASURED, name)
        for name in ("rounds", "tolerance", "short_tolerance", "absolute_floor_s", "timer_steps")
    )
