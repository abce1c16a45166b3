"""What `chipscale compare` prints of runs that were not measured alike."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.record import Record, Status
from tests.harness.sample_run import sample_info, sample_records, write_run


def with_parts(record: Record, **parts: str) -> Record:
    hashed = "".join(parts.values())
    return replace(record, protocol_hash=hashed, protocol_parts=tuple(parts.items()))


def under(results: Path) -> list[str]:
    return ["--results-dir", str(results), "--no-track"]


def test_forced_every_line_says_what_was_not_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    timed = [record for record in sample_records() if record.status is Status.OK][:3]
    ours = tuple(with_parts(record, inputs="normal") for record in timed)
    theirs = (ours[0], *(with_parts(record, inputs="zeros") for record in timed[1:]))
    first = write_run(tmp_path / "a", records=ours)
    second = write_run(tmp_path / "b", info=sample_info(run_id="other"), records=theirs)
    assert main(["compare", str(first.path), str(second.path), "--force", *under(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "not equal work" in shown
    assert shown.count("inputs: normal and zeros") == 2
    assert "FORCED: 2 cases were measured by different protocols" in shown


def test_a_line_says_which_run_had_fewer_sets_of_inputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    ours = tuple(record for record in sample_records() if record.status is Status.OK)[:2]
    measurement = ours[0].measurement
    assert measurement is not None
    num_sets = measurement.num_input_sets
    short = replace(ours[0], measurement=replace(measurement, num_input_sets=num_sets + 1))
    first = write_run(tmp_path / "a", records=ours)
    second = write_run(tmp_path / "b", info=sample_info(run_id="other"), records=(short, ours[1]))
    assert main(["compare", str(first.path), str(second.path), "--cases", *under(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown.count(f"same, sets of inputs: A {num_sets}, B {num_sets + 1}") == 1
    assert "1 cases had fewer sets of inputs in one of the two" in shown
