"""The order of rounds, what is tried again, and what is not."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import pytest

from harness.arms.side import OnCase
from harness.arms.turns import GateWatcher, Turns
from harness.device.base import DeviceState
from harness.record import Record, Status, Window
from tests.harness.sample_run import failed_record, ok_record, sample_records

RECORDS = tuple(record for record in sample_records() if record.status is Status.OK)[:3]
IDS = tuple(record.case.id for record in RECORDS)
CASES = {record.case.id: record.case for record in RECORDS}


class PlannedSide:
    """Gives what was planned for a turn, else a time for every case; keeps a diary with others."""

    def __init__(
        self,
        name: str,
        diary: list[str],
        planned: Mapping[str, Sequence[Record]] | None = None,
        kept: Mapping[str, tuple[Record, ...]] | None = None,
        case_ids: tuple[str, ...] = IDS,
    ) -> None:
        self.name = name
        self.is_measured = True
        self.case_ids = case_ids
        self.taken: list[tuple[str, list[str]]] = []
        self._diary = diary
        self._planned = planned or {}
        self._kept = kept or {}

    def kept(self, turn: str, wanted: Collection[str]) -> tuple[Record, ...] | None:
        return self._kept.get(turn)

    def discard(self, turn: str) -> None:
        if turn in self._kept:
            self._diary.append(f"discard {self.name} {turn}")

    def take(self, turn: str, wanted: Collection[str], on_case: OnCase) -> tuple[Record, ...]:
        self._diary.append(f"{self.name} {turn}")
        self.taken.append((turn, list(wanted)))
        planned = {record.case.id: record for record in self._planned.get(turn, ())}
        for case_id in wanted:
            on_case(case_id)
        return tuple(planned.get(one, ok_record(CASES[one])) for one in wanted)


def broken(case_id: str, status: Status = Status.ERROR) -> Record:
    return failed_record(CASES[case_id], status, "It broke.")


def turns(base: PlannedSide, head: PlannedSide) -> Turns:
    return Turns(base=base, head=head, watcher=GateWatcher())


def test_the_side_that_goes_first_alternates() -> None:
    diary: list[str] = []
    taking = turns(PlannedSide("base", diary), PlannedSide("head", diary))
    rounds = list(taking.rounds(range(1, 4), IDS))
    assert diary == ["base 1", "head 1", "head 2", "base 2", "base 3", "head 3"]
    assert [one.base_first for one in rounds] == [True, False, True]


def test_a_case_that_failed_is_tried_once_more_on_both_sides_in_the_same_order() -> None:
    diary: list[str] = []
    base = PlannedSide("base", diary)
    head = PlannedSide("head", diary, {"2": [broken(IDS[1], Status.CRASHED)]})
    rounds = list(turns(base, head).rounds(range(1, 4), IDS))
    assert diary[2:6] == ["head 2", "base 2", "head 2-again", "base 2-again"]
    assert base.taken[2] == ("2-again", [IDS[1]])
    assert all(record.status is Status.OK for record in rounds[1].head)
    assert base.taken[-1] == ("3", list(IDS))


def test_a_case_that_fails_twice_is_given_up_on_its_side_alone() -> None:
    diary: list[str] = []
    base = PlannedSide("base", diary)
    head = PlannedSide("head", diary, {"1": [broken(IDS[0])], "1-again": [broken(IDS[0])]})
    rounds = list(turns(base, head).rounds(range(1, 4), IDS))
    assert head.taken[-1] == ("3", list(IDS[1:]))
    assert base.taken[-1] == ("3", list(IDS))
    # Every round says so, with the words of the failure.
    of_last = {record.case.id: record for record in rounds[2].head}
    assert of_last[IDS[0]].reason == "It broke."
    assert len(of_last) == len(IDS)


def test_what_cannot_run_here_is_not_tried_again() -> None:
    diary: list[str] = []
    base = PlannedSide("base", diary, {"1": [broken(IDS[2], Status.UNSUPPORTED)]})
    list(turns(base, PlannedSide("head", diary)).rounds(range(1, 3), IDS))
    assert diary == ["base 1", "head 1", "head 2", "base 2"]
    assert base.taken[-1] == ("2", list(IDS[:2]))


def throttled(record: Record) -> Record:
    assert record.measurement is not None
    state = DeviceState(throttle_reasons=("hot",))
    window = Window(num_samples=len(record.measurement.samples_s), seconds=1.0, state=state)
    return replace(record, measurement=replace(record.measurement, windows=(window,)))


def test_a_throttled_case_is_tried_again_once_and_measured_on() -> None:
    diary: list[str] = []
    hot = [throttled(RECORDS[0])]
    base = PlannedSide("base", diary, dict.fromkeys(("1", "1-again", "2", "3"), hot))
    list(turns(base, PlannedSide("head", diary)).rounds(range(1, 4), IDS))
    assert [entry for entry in diary if "again" in entry] == ["base 1-again", "head 1-again"]
    assert base.taken[-1] == ("3", list(IDS))


def test_rounds_end_early_when_a_side_has_nothing_left() -> None:
    diary: list[str] = []
    every = [broken(one) for one in IDS]
    head = PlannedSide("head", diary, {"1": every, "1-again": every})
    assert len(list(turns(PlannedSide("base", diary), head).rounds(range(1, 6), IDS))) == 1


def test_a_pair_that_was_measured_before_a_stop_is_not_measured_again() -> None:
    diary: list[str] = []
    base = PlannedSide("base", diary, kept={"1": RECORDS})
    head = PlannedSide("head", diary, kept={"1": RECORDS})
    list(turns(base, head).rounds(range(1, 3), IDS))
    assert diary == ["head 2", "base 2"]


def test_half_a_pair_is_put_aside_for_its_halves_are_not_of_one_moment() -> None:
    diary: list[str] = []
    base = PlannedSide("base", diary, kept={"1": RECORDS})
    list(turns(base, PlannedSide("head", diary)).rounds([1], IDS))
    assert diary == ["discard base 1", "base 1", "head 1"]


def test_each_side_measures_the_cases_that_it_has() -> None:
    diary: list[str] = []
    base = PlannedSide("base", diary, case_ids=IDS[:2])
    head = PlannedSide("head", diary, case_ids=IDS[1:])
    rounds = list(turns(base, head).rounds([1], IDS))
    assert {record.case.id for record in rounds[0].base} == set(IDS[:2])
    assert {record.case.id for record in rounds[0].head} == set(IDS[1:])


@pytest.mark.parametrize("status", [Status.TIMEOUT, Status.OUT_OF_MEMORY, Status.INCORRECT])
def test_every_kind_of_failure_has_its_second_try(status: Status) -> None:
    diary: list[str] = []
    head = PlannedSide("head", diary, {"1": [broken(IDS[0], status)]})
    rounds = list(turns(PlannedSide("base", diary), head).rounds([1], IDS))
    assert all(record.status is Status.OK for record in rounds[0].head)


def test_a_stored_side_is_not_tried_again() -> None:
    base = PlannedSide("base", [], {"1": [broken(IDS[0])]})
    base.is_measured = False
    head = PlannedSide("head", [])
    list(turns(base, head).rounds([1], IDS))
    assert [turn for turn, _ in head.taken] == ["1"]


def test_what_was_given_up_has_one_more_try_in_the_rounds_that_confirm() -> None:
    diary: list[str] = []
    head = PlannedSide("head", diary, {"1": [broken(IDS[0])], "1-again": [broken(IDS[0])]})
    taking = turns(PlannedSide("base", diary), head)
    list(taking.rounds([1], IDS))
    (fresh,) = taking.afresh().rounds([2], IDS[:1])
    assert [record.status for record in fresh.head] == [Status.OK]
