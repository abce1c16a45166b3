"""When an op has failed often enough that the rest of it is not tried.

An op that hangs costs its time-out again with every size, and one that crashes costs a new process
each time. After a few in a row the next would say nothing new.
"""

from harness.cases import CHECK_ROLE, Case
from harness.record import Record, Status

MAX_FAILURES = 3
"""So many failures in a row of one implementation of one op, and the rest of it is skipped."""

_COSTLY = frozenset({Status.CRASHED, Status.TIMEOUT})
_FAILING = _COSTLY | {Status.ERROR, Status.OUT_OF_MEMORY}
"""A wrong result is not among them: it costs no time, and each one says something of its own."""


class FailureStreaks:
    """The failures in a row of each implementation of each op, a success ending them."""

    def __init__(self) -> None:
        self._streaks: dict[tuple[str, str], list[Record]] = {}

    def add(self, record: Record) -> None:
        """Take in what became of a case."""
        key = _key(record.case)
        if record.status is Status.OK:
            self._streaks.pop(key, None)
        elif record.status in _counted(record.case):
            self._streaks.setdefault(key, []).append(record)

    @property
    def has_given_up(self) -> bool:
        """Whether any case at all may be one to skip."""
        return any(len(streak) >= MAX_FAILURES for streak in self._streaks.values())

    def reason_to_skip(self, case: Case) -> str:
        """Why the case is not worth trying, with the failures that say so; empty when it is."""
        streak = self._streaks.get(_key(case), [])
        if case.forced or len(streak) < MAX_FAILURES:
            return ""
        failed = "; ".join(f"{record.case.id} {record.status}" for record in streak)
        op, impl = _key(case)
        return (
            f"not tried: {op}/{impl} had failed {len(streak)} times in a row, {failed}. "
            f"The last said: {streak[-1].reason}"
        )


def _key(case: Case) -> tuple[str, str]:
    return case.problem.op, case.impl


def _counted(case: Case) -> frozenset[Status]:
    """Which statuses of the case count as a failure of its op."""
    if case.forced:
        # A search tries configurations that need not fit; each is a kernel of its own.
        return frozenset()
    # A check that fails at once costs little, and the checks after it must not be lost.
    return _COSTLY if CHECK_ROLE in case.roles else _FAILING
