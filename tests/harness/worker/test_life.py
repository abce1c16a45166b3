"""Time is charged to the case that has it, and a child's end to the case in flight."""

import re

import pytest

from harness.record import Record, Status
from harness.worker.events import Stage
from harness.worker.heartbeat import Beat
from harness.worker.in_flight import MAX_LOOK_S, InFlight
from harness.worker.life import START_TIMEOUT_S, Life
from tests.harness.fake_runs import CASES, fake_job

JOB = fake_job(case_timeout_s=10.0)


class Followed:
    """A life whose clock and heartbeat are turned by hand."""

    def __init__(self, todo: list[int]) -> None:
        self.life = Life(JOB, todo, 0.0)
        self._now_s = 0.0
        self._turns: dict[int, int] = {}
        self._beat = Beat()

    def beat(self, case: int) -> None:
        self._turns[case] = self._turns.get(case, 0) + 1
        self._beat = Beat(case, self._beat.count + 1, self._turns[case])

    def wait(self, seconds: float) -> None:
        end_s = self._now_s + seconds
        while self._now_s < end_s - 1e-9:
            self._now_s += 0.1
            self.life.look(self._beat, self._now_s)

    def settle(self, case: int) -> None:
        self.life.settle(Record(run_id="run", case=CASES[case], status=Status.OK))


def test_cases_that_take_turns_are_each_charged_their_own_time() -> None:
    followed = Followed([0, 1])
    for _ in range(90):
        for case in (0, 1):
            followed.beat(case)
            followed.wait(0.1)
    # 18 s together, 9 s each.
    assert not followed.life.is_overdue
    followed.beat(1)
    followed.wait(1.2)
    assert followed.life.is_overdue
    record = followed.life.timed_out()
    assert record is not None
    assert record.case == CASES[1]


def test_a_hang_while_timed_is_told_from_a_case_that_never_ends() -> None:
    hanging, running = Followed([0, 1]), Followed([0, 1])
    for followed in (hanging, running):
        followed.beat(0)
        followed.life.begin(0)
        followed.life.reach(Stage.MEASURE)
        followed.wait(1)
    hanging.wait(10)
    for _ in range(99):
        running.beat(0)
        running.wait(0.1)
    for followed, words in (
        (hanging, "no sign of life for 10.9 s"),
        (running, "still running, 100 turns"),
    ):
        assert followed.life.is_overdue
        record = followed.life.timed_out()
        assert record is not None
        assert record.status is Status.TIMEOUT
        assert record.reason == (
            "no end after 10 s (measure.case_timeout_s), being timed: "
            f"{words}; its worker was stopped"
        )


def test_a_crash_is_charged_to_the_case_in_flight_and_not_to_the_one_that_began_last() -> None:
    followed = Followed([0, 1, 2])
    for case in (0, 1):
        followed.beat(case)
        followed.life.begin(case)
    followed.beat(0)
    followed.wait(0.1)
    record = followed.life.crashed("was ended by SIGSEGV", "worker.log")
    assert record is not None
    assert record.case == CASES[0]
    assert re.match(r"the worker was ended by SIGSEGV while the case was being", record.reason)


def test_a_finished_case_has_no_second_record() -> None:
    followed = Followed([0, 1])
    followed.beat(0)
    followed.life.begin(0)
    followed.wait(1)
    followed.settle(0)
    assert followed.life.crashed("was ended by SIGSEGV", "worker.log") is None
    # As a broken device that is asked whether it computes, and never answers.
    followed.wait(11)
    assert followed.life.is_overdue
    assert followed.life.timed_out() is None
    assert followed.life.left == [1]
    assert followed.life.overdue_cause == (
        "was stopped after measure.case_timeout_s, 10 s: no sign of life for 11.9 s"
    )


def test_a_child_that_never_begins_is_overdue_and_no_case_is_blamed() -> None:
    followed = Followed([0])
    followed.wait(START_TIMEOUT_S - 1)
    assert not followed.life.is_overdue
    followed.wait(2)
    assert followed.life.is_overdue
    assert followed.life.timed_out() is None
    assert followed.life.overdue_cause == "had begun no case after 300 s and was stopped"


@pytest.mark.parametrize("garbage", [-7, 99, 2**60])
def test_a_heartbeat_that_was_overwritten_blames_no_case(garbage: int) -> None:
    followed = Followed([0])
    followed.beat(garbage)
    followed.wait(1)
    assert followed.life.crashed("was ended by SIGSEGV", "worker.log") is None


def test_time_in_which_the_supervisor_itself_was_stopped_is_not_charged() -> None:
    in_flight = InFlight(0.0)
    in_flight.look(Beat(3, 1, 1), 0.1)
    in_flight.look(Beat(3, 1, 1), 3600.0)
    assert in_flight.spent_s <= MAX_LOOK_S + 0.1
