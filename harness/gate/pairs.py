"""Rounds -> for every case its pairs of records, base and head, in the order they were measured."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness.cases import Case
from harness.gate.rounds import Round
from harness.record import Record, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class CasePairs:
    """One case in some rounds; None where a process left no record of it."""

    case: Case
    base: tuple[Record | None, ...]
    head: tuple[Record | None, ...]

    @property
    def base_s(self) -> tuple[float, ...]:
        """Median of the steady samples of each base process; every record has samples."""
        return _medians(self.base)

    @property
    def head_s(self) -> tuple[float, ...]:
        """The same of each head process."""
        return _medians(self.head)

    @property
    def is_timed(self) -> bool:
        """Both sides have a time in every round."""
        return all(
            record is not None and record.status is Status.OK and record.measurement is not None
            for record in (*self.base, *self.head)
        )

    def joined(self, later: "CasePairs") -> "CasePairs":
        """The pairs of both, these first."""
        return CasePairs(case=self.case, base=self.base + later.base, head=self.head + later.head)


def pairs_by_case(rounds: Sequence[Round]) -> dict[str, CasePairs]:
    """Every case that any process has a record of, in first-seen order, heads after bases.

    Where a process has several records of a case, as after a resume, the last one counts.
    """
    sides = [(_by_case(one.base), _by_case(one.head)) for one in rounds]
    cases: dict[str, Case] = {}
    for pick in (0, 1):
        for pair in sides:
            for case_id, record in pair[pick].items():
                cases.setdefault(case_id, record.case)
    return {
        case_id: CasePairs(
            case=case,
            base=tuple(base.get(case_id) for base, _ in sides),
            head=tuple(head.get(case_id) for _, head in sides),
        )
        for case_id, case in cases.items()
    }


def clock_hz(records: Sequence[Record | None]) -> float | None:
    """Median clock while these records were measured, or None where the device tells none."""
    clocks = [_clocks(record) for record in records if record is not None]
    found = [statistics.median(of_process) for of_process in clocks if of_process]
    return statistics.median(found) if found else None


def _by_case(records: Sequence[Record]) -> dict[str, Record]:
    return {record.case.id: record for record in records}


def _medians(records: Sequence[Record | None]) -> tuple[float, ...]:
    found = []
    for record in records:
        assert record is not None, "medians are asked of timed pairs alone"
        assert record.measurement is not None, "medians are asked of timed pairs alone"
        found.append(statistics.median(record.measurement.steady_samples_s))
    return tuple(found)


def _clocks(record: Record) -> list[float]:
    measurement = record.measurement
    if measurement is None:
        return []
    states = [window.state for window in measurement.windows] or [measurement.state_after]
    return [state.clock_hz for state in states if state.clock_hz is not None]
