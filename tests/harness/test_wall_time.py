"""A run's time is taken apart, and a pause between a stop and a resume is no part of it."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from harness.record import Record
from harness.wall_time import WallTime, wall_time_of
from tests.harness.sample_run import many_records

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def timed(
    record: Record, started_s: float, ended_s: float, measured_s: float, prepare_s: float = 0.0
) -> Record:
    assert record.measurement is not None
    return dataclasses.replace(
        record,
        started_at=(BEGAN + timedelta(seconds=started_s)).isoformat(timespec="milliseconds"),
        ended_at=(BEGAN + timedelta(seconds=ended_s)).isoformat(timespec="milliseconds"),
        inputs_s=0.5,
        check_s=0.25,
        measurement=dataclasses.replace(
            record.measurement, measured_s=measured_s, prepare_s=prepare_s
        ),
    )


def wall_time(*records: Record) -> WallTime:
    found = wall_time_of(records)
    assert found is not None
    return found


FIRST, SECOND = many_records(2)


def test_the_parts_add_up_to_the_wall_time() -> None:
    found = wall_time(timed(FIRST, 0, 5, 2, 1), timed(SECOND, 5, 10, 3, 1))
    assert found.wall_s == pytest.approx(10)
    assert found.measured_share == pytest.approx(0.5)
    assert found.measured_share_once_compiled == pytest.approx(5 / 8)
    assert sum(seconds for _, seconds in found.parts) == pytest.approx(10)
    assert found.rest_s == pytest.approx(10 - 5 - 2 - 1 - 0.5)
    assert found.overhead_per_case_s == pytest.approx(0.75)


def test_cases_that_take_turns_are_counted_once() -> None:
    found = wall_time(timed(FIRST, 0, 9, 4), timed(SECOND, 2, 10, 4))
    assert found.wall_s == pytest.approx(10)


def test_time_between_two_cases_is_counted() -> None:
    found = wall_time(timed(FIRST, 0, 4, 2), timed(SECOND, 9, 10, 1))
    assert found.wall_s == pytest.approx(10)


def test_the_pause_of_a_run_that_was_stopped_is_not_counted() -> None:
    found = wall_time(timed(FIRST, 0, 4, 2), timed(SECOND, 7200, 7206, 1))
    assert found.wall_s == pytest.approx(10)


def test_records_of_an_older_version_have_none() -> None:
    assert wall_time_of(many_records(2)) is None
    assert wall_time_of([]) is None
