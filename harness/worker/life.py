"""Life: what one child was given, where it is, and the record of a case it could not finish."""

from datetime import UTC, datetime

from harness.record import Record, Status
from harness.worker.events import Stage
from harness.worker.heartbeat import NO_CASE, Beat
from harness.worker.in_flight import InFlight
from harness.worker.job import Job

START_TIMEOUT_S = 300.0
"""A cold import of torch from a network file system has been seen to take minutes."""

_DOING = {
    None: "being started",
    Stage.PREPARE: "being prepared",
    Stage.CHECK: "being checked",
    Stage.MEASURE: "being timed",
}


class Life:
    """One child, followed by its events and its heartbeat.

    The cases of one problem are open together, and each is in flight when it has its turn. What the
    child cannot finish is charged to the case in flight; the other open ones have no record yet,
    and the next child measures them.
    """

    def __init__(self, job: Job, todo: list[int], now_s: float) -> None:
        self.settled: set[int] = set()
        """Cases that have their record."""
        self._job = job
        self._todo = todo
        self._given = frozenset(todo)
        self._index_of = {job.cases[index].id: index for index in todo}
        self._begun_at: dict[int, str] = {}
        self._stage: Stage | None = None
        self._in_flight = InFlight(now_s)

    @property
    def left(self) -> list[int]:
        """Cases that have no record yet."""
        return [index for index in self._todo if index not in self.settled]

    @property
    def num_open(self) -> int:
        """Cases that have begun and have no record yet."""
        return len(self._begun_at.keys() - self.settled)

    def begin(self, index: int) -> None:
        """That case begins."""
        self._begun_at[index] = _now()
        self._stage = None

    def reach(self, stage: Stage) -> None:
        """The case that began last is there; to be timed, all open ones are."""
        self._stage = stage

    def settle(self, record: Record) -> None:
        """That case is over."""
        self.settled.add(self._index_of[record.case.id])

    def look(self, beat: Beat, now_s: float) -> None:
        """Take in the heartbeat."""
        self._in_flight.look(beat, now_s)

    @property
    def is_overdue(self) -> bool:
        """Whether the child has to be stopped."""
        if self._in_flight.case == NO_CASE:
            return self._in_flight.spent_s > START_TIMEOUT_S
        limit_s = self._job.policy.case_timeout_s
        if self._charged is None:
            # Between two cases, as in asking a broken device whether it still computes.
            return self._in_flight.quiet_s > limit_s
        return self._in_flight.spent_s > limit_s

    @property
    def overdue_cause(self) -> str:
        """How a child that had to be stopped ended, to follow its name."""
        if self._in_flight.case == NO_CASE:
            return f"had begun no case after {START_TIMEOUT_S:g} s and was stopped"
        return (
            f"was stopped after measure.case_timeout_s, {self._job.policy.case_timeout_s:g} s: "
            f"{self._in_flight.signs_of_life}"
        )

    @property
    def _charged(self) -> int | None:
        """The case in flight, unless there is none or its record is there already."""
        index = self._in_flight.case
        return index if index in self._given and index not in self.settled else None

    def timed_out(self) -> Record | None:
        """The record of the case that took too long; None where no case is to blame."""
        return self._ending(
            Status.TIMEOUT,
            f"no end after {self._job.policy.case_timeout_s:g} s (measure.case_timeout_s), "
            f"{_DOING[self._stage]}: {self._in_flight.signs_of_life}; its worker was stopped",
        )

    def crashed(self, cause: str, log: str) -> Record | None:
        """The record of the case that ended the child; None where no case is to blame."""
        doing = _DOING[self._stage]
        return self._ending(
            Status.CRASHED,
            f"the worker {cause} while the case was {doing}; {log} has its last words",
        )

    def _ending(self, status: Status, reason: str) -> Record | None:
        index = self._charged
        if index is None:
            return None
        return Record(
            run_id=self._job.run.run_id,
            case=self._job.cases[index],
            status=status,
            reason=reason,
            started_at=self._begun_at.get(index) or _now(),
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
