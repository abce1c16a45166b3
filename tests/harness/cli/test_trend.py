from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.codec import from_json
from harness.store.folder import RECORDS
from harness.trend import Trend
from tests.harness.sample_run import RUN_ID, sample_info, sample_records, write_run


def write_history(results: Path, slow_from: int, num_runs: int = 10) -> None:
    """One run a night of one chip; from some night on all its cases take 1.5 times as long."""
    for night in range(num_runs):
        started = datetime(2026, 1, 2, 3, tzinfo=UTC) + timedelta(days=night)
        run_id = f"{started:%Y%m%dT%H%M%S}-quick-llama3_8b-{'abcdefghij'[night] * 5}"
        factor = (1.5 if night >= slow_from else 1.0) * (1 + 0.004 * (night % 3))
        records = []
        for record in sample_records(run_id):
            measured = record.measurement
            if measured is not None:
                samples = tuple(sample_s * factor for sample_s in measured.samples_s)
                record = replace(record, measurement=replace(measured, samples_s=samples))
            records.append(record)
        info = sample_info(run_id=run_id, started_at=started.isoformat())
        write_run(results / "runs", info=info, records=records)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("results")
    write_history(made, slow_from=6)
    return made


def test_a_night_on_which_all_became_slower_is_told_and_written(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "trend"
    assert main(["trend", "--results-dir", str(results), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "changed over 10 runs of quick on imaginary_x1, branch main" in " ".join(shown.split())
    trend = from_json(Trend, (out / "trend.json").read_text(encoding="utf-8"))
    assert {case.change_points[0].index for case in trend.changed} == {6}
    assert len(trend.shared_changes) == 1
    assert (out / "trend.md").read_text(encoding="utf-8").startswith("**")
    assert (out / "trend.html").stat().st_size > 0


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["suit=quick"], 2, "Did you mean 'suite'?"),
        (["last=0"], 2, "a number of runs from 1 on"),
        (["branch=mian"], 2, "Did you mean 'main'?"),
        (["--min-change", "0"], 2, "0.001 to 10 is allowed"),
        (["--source", "mlflow"], 2, "needs suite=NAME"),
        (["--source", "mlflow", "suite=quick"], 2, "no MLflow database there yet"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], code: int, told: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trend", *words, "--results-dir", str(results)]) == code
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


def test_an_empty_history_is_exit_code_5(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trend", "--results-dir", str(tmp_path)]) == 5
    assert "the history is empty" in capsys.readouterr().err


def test_a_run_that_cannot_be_read_is_told_and_the_others_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_history(tmp_path, slow_from=99, num_runs=4)
    broken = write_run(tmp_path / "runs", info=sample_info(run_id="20250101T000000-quick-x-aaaaa"))
    (broken.path / "environment.json").write_text("{", encoding="utf-8")
    assert (broken.path / RECORDS).exists()
    assert main(["trend", "--results-dir", str(tmp_path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "warning: left out of the history" in shown
    assert "over 4 runs" in shown
    assert RUN_ID not in shown
