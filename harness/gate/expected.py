"""How many false alarms a gate is to be expected to raise, at most."""

from collections.abc import Sequence

from harness.gate.floors import Floors
from harness.gate_result import GateCase, State

FALSE_ALARM_RATE = 9.2e-5
"""Of a case whose code has not changed, at most: 0 of 40,000 raised an alarm (upper end of the 95 %
interval of Clopper and Pearson 1934).

Source: `make bench-gate`, 200 simulated suites of 200 cases at the noise of a GPU in one session.
"""


def expected_false_alarms(cases: Sequence[GateCase], floors: Floors | None) -> float | None:
    """At most so many of the cases would be called regressed though nothing has changed.

    None on a machine that was not calibrated: it may be noisier than the tolerance, and then the
    rate says nothing of it.
    """
    if floors is None:
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
