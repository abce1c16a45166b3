"""When an implementation has failed often enough that the rest of its sizes is not tried.

One that hangs costs its time-out again with every size, and one that crashes costs a new process
each time. After a few in a row the next would say nothing new. A type, a mode and a variant are
each a kernel of their own, so what fails in one says nothing of another.
"""

from harness.cases import CHECK_ROLE, Case
from harness.record import Record, Status
from kernels import registry

MAX_FAILURES = 3
"""So many failures in a row of one implementation of one kind of problem, and the rest of it is
skipped; as many times out of memory, and whatever is as large or larger is."""

_COSTLY = frozenset({Status.CRASHED, Status.TIMEOUT})
_FAILING = _COSTLY | {Status.ERROR}
"""A wrong result is not among them: it costs no time, and each one says something of its own."""


class FailureStreaks:
    """The failures in a row of each implementation of each kind of problem.

    Lack of memory is counted apart, since a smaller size may fit.
    """

    def __init__(self) -> None:
        self._streaks: dict[str, list[Record]] = {}
        self._too_large: dict[str, list[Record]] = {}

    def add(self, record: Record) -> None:
        """Take in what became of a case."""
        key, case = _key(record.case), record.case
        # A search tries configurations that need not fit; each is a kernel of its own.
        if record.status is Status.OK:
            self._streaks.pop(key, None)
            self._too_large[key] = [
                failed
                for failed in self._too_large.get(key, [])
                if _least_bytes(failed) > _least_bytes(record)
            ]
        elif case.forced:
            return
        elif record.status in (_COSTLY if CHECK_ROLE in case.roles else _FAILING):
            # A check that fails at once costs little, and the checks after it must not be lost.
            self._streaks.setdefault(key, []).append(record)
        elif record.status is Status.OUT_OF_MEMORY and record.cost and CHECK_ROLE not in case.roles:
            self._too_large.setdefault(key, []).append(record)

    @property
    def has_given_up(self) -> bool:
        """Whether any case at all may be one to skip."""
        rows = (*self._streaks.values(), *self._too_large.values())
        return any(len(row) >= MAX_FAILURES for row in rows)

    def reason_to_skip(self, case: Case) -> str:
        """Why the case is not worth trying, with the failures that say so; empty when it is."""
        if case.forced:
            return ""
        key = _key(case)
        streak, too_large = self._streaks.get(key, []), self._too_large.get(key, [])
        if len(streak) >= MAX_FAILURES:
            return f"not tried: {key} had failed {_told(streak)}"
        if len(too_large) >= MAX_FAILURES:
            # Asked for only here: it imports the op, and with it torch.
            least_bytes = registry.cost(case.problem).num_bytes
            smallest_bytes = min(map(_least_bytes, too_large))
            if least_bytes >= smallest_bytes:
                return (
                    f"not tried: it moves {least_bytes:,} bytes at least, and from "
                    f"{smallest_bytes:,} on {key} had been out of memory {_told(too_large)}"
                )
        return ""


def _key(case: Case) -> str:
    """`gemm.bf16.forward/triton`: op, type, mode, variant and implementation."""
    return f"{case.problem.group}/{case.impl}"


def _least_bytes(record: Record) -> int:
    return record.cost.num_bytes if record.cost is not None else 0


def _told(failures: list[Record]) -> str:
    """How many they are, which, and what the last said."""
    named = "; ".join(f"{record.case.id} {record.status}" for record in failures)
    return f"{len(failures)} times in a row, {named}. The last said: {failures[-1].reason}"
