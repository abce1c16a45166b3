"""InFlight: how long each case has kept the worker, and whether it still moves.

Cases of one problem take turns on the device, so the time since a case began says nothing of it:
time is added to the case that the heartbeat shows, look by look.
"""

from collections import defaultdict

from harness.worker.heartbeat import NO_CASE, Beat

MAX_LOOK_S = 2.0
"""A longer time between two looks is not charged beyond this: the supervisor itself was stopped
then, or waited for a slow disk, and it cannot tell what the child did meanwhile."""


class InFlight:
    """Follows one child's heartbeat. Times are seconds of any clock that only goes forward."""

    def __init__(self, now_s: float) -> None:
        self.beat = Beat()
        """The latest one seen."""
        self.quiet_s = 0.0
        """Time since the heartbeat last moved."""
        self._looked_s = now_s
        self._spent_s: defaultdict[int, float] = defaultdict(float)

    @property
    def case(self) -> int:
        """The case in flight, or NO_CASE before the first."""
        return self.beat.case

    @property
    def spent_s(self) -> float:
        """Time that the case in flight has kept the worker in all its turns.

        With NO_CASE, the time of starting up.
        """
        return self._spent_s[self.case]

    def look(self, beat: Beat, now_s: float) -> None:
        """Charge the time since the last look to the case that is in flight now."""
        passed_s = min(now_s - self._looked_s, MAX_LOOK_S)
        self._looked_s = now_s
        if beat.count != self.beat.count:
            self.quiet_s = 0.0
            self.beat = beat
        else:
            self.quiet_s += passed_s
        self._spent_s[beat.case] += passed_s

    @property
    def signs_of_life(self) -> str:
        """`no sign of life for 290 s`, or `still running, 4,211 turns`, for a reason."""
        if self.case == NO_CASE or self.quiet_s > self.spent_s / 2:
            return f"no sign of life for {self.quiet_s:.3g} s"
        return f"still running, {self.beat.count_of_case:,} turns"
