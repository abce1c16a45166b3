import math
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import NewerRecordError, RecordError
from harness.gate.floors import (
    MAX_KEPT,
    CaseFloor,
    Floors,
    FloorsFile,
    choose,
    floors_from,
    floors_text,
    read_floors,
)
from harness.record import Status
from tests.harness.gate.rounds_of import COPY, failed, slower, suite, with_head


def floors(fingerprint: str = "here", estimates: tuple[float, ...] = (0.01,) * 5) -> Floors:
    return Floors(
        fingerprint=fingerprint,
        chip="imaginary_x1",
        num_rounds=5,
        cases=(CaseFloor(case_id=COPY, estimates=estimates),),
    )


def test_every_suite_gives_each_case_one_estimate() -> None:
    found = floors_from([slower(0.01), slower(-0.02)], "here", "imaginary_x1")
    assert found.num_rounds == 5
    floor = found.of(COPY)
    assert floor is not None
    assert floor.estimates == pytest.approx((math.log(1.01), math.log(0.98)), abs=1e-3)


def test_the_deviation_is_around_the_truth_which_is_no_change() -> None:
    # A side that is always slower is noise of the machine, though its estimates agree.
    assert CaseFloor(case_id=COPY, estimates=(0.02,) * 5).deviation == pytest.approx(0.02 * 1.4826)


def test_a_suite_in_which_a_case_failed_is_none_for_it() -> None:
    broken = with_head(slower(0.01), 2, failed(Status.CRASHED))
    assert floors_from([broken, slower(0.01)], "here", "x").of(COPY) is not None
    found = floors_from([broken], "here", "x")
    assert found.of(COPY) is None


def test_many_cases_have_their_own_floors() -> None:
    assert len(floors_from([suite({1: 0.0, 2: 0.01})], "here", "x").cases) == 2


def test_they_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = FloorsFile().with_floors(floors())
    path = tmp_path / "floors.json"
    path.write_text(floors_text(file), encoding="utf-8")
    assert read_floors(path) == file


def test_no_file_means_no_floors(tmp_path: Path) -> None:
    assert read_floors(tmp_path / "floors.json") == FloorsFile()


def test_another_calibration_adds_to_the_estimates_and_the_oldest_go() -> None:
    file = FloorsFile().with_floors(floors(estimates=(0.5,) * MAX_KEPT))
    file = file.with_floors(floors(estimates=(0.1, 0.2)))
    (machine,) = file.machines
    assert machine.cases[0].estimates == (0.5,) * (MAX_KEPT - 2) + (0.1, 0.2)


def test_machines_are_kept_apart() -> None:
    file = FloorsFile().with_floors(floors("here")).with_floors(floors("there"))
    assert [one.fingerprint for one in file.machines] == ["here", "there"]
    assert choose(file, "there") == (floors("there"), "")


def test_floors_of_another_machine_are_not_used_and_that_is_said() -> None:
    found, warning = choose(FloorsFile().with_floors(floors("there")), "here")
    assert found is None
    assert warning == (
        "No A/A floors of this machine (here) are known, so the tolerance is the policy's alone. "
        "There are floors of imaginary_x1 (there), which say nothing of this one. "
        "`chipscale gate calibrate` measures them."
    )


def test_a_file_of_a_newer_chipscale_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "floors.json"
    path.write_text('{"schema_version": 2, "machines": [], "more": 1}', encoding="utf-8")
    with pytest.raises(NewerRecordError, match=r"schema 2; this one reads up to 1.*Update"):
        read_floors(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"machines": 3}', '{"else": 1}'])
def test_a_damaged_file_says_what_to_do(tmp_path: Path, text: str) -> None:
    path = tmp_path / "floors.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecordError, match="Move the file away") as raised:
        read_floors(path)
    assert str(path) in str(raised.value)
    assert path.read_text(encoding="utf-8") == text


def test_a_quick_calibration_does_not_cost_a_careful_one() -> None:
    quick = replace(floors(), num_rounds=3)
    file = FloorsFile().with_floors(floors()).with_floors(quick)
    assert choose(file, "here", 5) == (floors(), "")
    assert choose(file, "here", 3) == (quick, "")
    assert choose(file, "here", 8) == (floors(), "")
