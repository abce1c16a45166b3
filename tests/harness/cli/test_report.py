"""`chipscale report`: a run's page again, alone or held against another run."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.record import Record
from tests.harness.sample_run import sample_info, sample_records, write_run


def slower(record: Record, factor: float) -> Record:
    if record.measurement is None:
        return record
    samples = tuple(factor * sample for sample in record.measurement.samples_s)
    return replace(record, measurement=replace(record.measurement, samples_s=samples))


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="([^"]+)"', page)


def test_against_another_run_the_page_explains_the_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    write_run(runs, info=sample_info(run_id="before"))
    records = tuple(slower(record, 1.25) for record in sample_records())
    folder = write_run(runs, info=sample_info(run_id="after"), records=records)
    under = ["--results-dir", str(tmp_path)]
    assert main(["report", "after", "--against", "before", *under]) == 0
    page = (folder.path / "report.html").read_text(encoding="utf-8")
    found = sections(page)
    assert found.index("distributions") < found.index("comparison") < found.index("method")
    assert {"groups-B", "cases-B"} <= set(found)
    assert "is 0.800 times as fast as A" in page
    assert main(["report", "after", *under]) == 0
    assert "comparison" not in sections((folder.path / "report.html").read_text(encoding="utf-8"))
    assert capsys.readouterr().err == ""


def test_against_a_run_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs", info=sample_info(run_id="after"))
    under = ["--results-dir", str(tmp_path)]
    assert main(["report", "after", "--against", "nowhere", *under]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_damaged_projection_is_named_with_the_way_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "runs", info=sample_info(run_id="after"))
    (folder.path / "projection.json").write_text("{", encoding="utf-8")
    assert main(["report", "after", "--results-dir", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "projection.json: not JSON" in line
    assert "move the file away to go on without" in line
