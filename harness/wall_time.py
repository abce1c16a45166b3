"""WallTime: where the time of a run went, and for how much of it the device was being measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from harness.record import Record

STOPPED_S = 60.0
"""A longer time with no case under way means that the run was stopped and resumed: it is no part of
the wall time. A worker that has died is followed by the next in some 5 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WallTime:
    """From the first case's start to the last record, taken apart; all in seconds."""

    num_cases: int
    wall_s: float
    measured_s: float
    """Warming up, sampling, and running for energy or sustained speed."""
    prepare_s: float
    """Compiling and first calls."""
    inputs_s: float
    check_s: float
    """References in fp64 and comparisons."""

    @property
    def rest_s(self) -> float:
        """Everything else: reading clocks, moving memory, writing records, failed cases."""
        parts_s = self.measured_s + self.prepare_s + self.inputs_s + self.check_s
        return max(0.0, self.wall_s - parts_s)

    @property
    def measured_share(self) -> float:
        """Of the wall time."""
        return self.measured_s / self.wall_s

    @property
    def measured_share_once_compiled(self) -> float:
        """Of the wall time without compiling and first calls."""
        return self.measured_s / max(self.wall_s - self.prepare_s, self.measured_s, 1e-9)

    @property
    def overhead_per_case_s(self) -> float:
        """What the harness itself takes for a case: neither the device's time nor the op's own."""
        return self.rest_s / self.num_cases

    @property
    def parts(self) -> tuple[tuple[str, float], ...]:
        """Names and seconds, in the order of a case."""
        return (
            ("making inputs", self.inputs_s),
            ("compiling and first calls", self.prepare_s),
            ("checking against fp64", self.check_s),
            ("measuring", self.measured_s),
            ("the rest", self.rest_s),
        )


def wall_time_of(records: Sequence[Record]) -> WallTime | None:
    """Where the time went, or None for records of a version that did not write it down."""
    spans = sorted(
        (_seconds(record.started_at), _seconds(record.ended_at))
        for record in records
        if record.started_at and record.ended_at
    )
    if not spans:
        return None
    wall_s, until_s = 0.0, spans[0][0]
    for started_s, ended_s in spans:
        begins_s = started_s if started_s - until_s > STOPPED_S else until_s
        wall_s += max(0.0, ended_s - begins_s)
        until_s = max(until_s, ended_s)
    if wall_s <= 0:
        return None
    told = [record for record in records if record.ended_at]
    timed = [record.measurement for record in told if record.measurement is not None]
    return WallTime(
        num_cases=len(told),
        wall_s=wall_s,
        measured_s=sum(one.measured_s for one in timed),
        prepare_s=sum(one.prepare_s for one in timed),
        inputs_s=sum(record.inputs_s for record in told),
        check_s=sum(record.check_s for record in told),
    )


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
