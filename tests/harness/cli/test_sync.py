import io
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from harness.cli.main import main
from harness.cli.sync_folders import at_home, meant_folders, results_dir_of
from harness.cli.sync_watch import Watcher
from harness.errors import RecordError
from harness.store.folder import RunFolder
from harness.store.mlflow import prepare, tracking_target
from tests.harness.sample_run import sample_info, sample_projection, sample_records, write_run

RECORDS = sample_records()[:4]


def a_run(root: Path, name: str, **changes: object) -> RunFolder:
    info = sample_info(run_id=name, num_cases=len(RECORDS), **changes)
    return write_run(root, records=RECORDS, info=info)


def a_projection(root: Path, name: str) -> RunFolder:
    folder = RunFolder(root / name)
    folder.path.mkdir(parents=True)
    folder.write("projection.json", sample_projection())
    return folder


def test_a_folder_of_runs_or_a_results_folder_means_all_in_it(tmp_path: Path) -> None:
    one, two = (a_run(tmp_path / "runs", name) for name in ("a", "b"))
    projection = a_projection(tmp_path / "projections", "p")
    write_run(tmp_path / "runs", records=(), info=sample_info(run_id="begun"))
    assert meant_folders(one.path) == (one.path,)
    assert meant_folders(tmp_path / "runs") == (one.path, two.path)
    assert meant_folders(tmp_path) == (one.path, two.path, projection.path)
    assert results_dir_of(None, [projection.path]) == tmp_path
    assert results_dir_of(None, [tmp_path]) == tmp_path
    with pytest.raises(RecordError, match="so it is not a run folder"):
        meant_folders(tmp_path / "nothing")


def test_results_from_a_medium_that_is_read_only_come_home_writable(tmp_path: Path) -> None:
    medium, home = tmp_path / "medium", tmp_path / "results"
    brought = (a_run(medium, "away"), a_projection(medium, "p"))
    for file in medium.rglob("*"):
        file.chmod(0o555 if file.is_dir() else 0o444)
    try:
        folders = [at_home(folder.path, home, ()) for folder in brought]
    finally:
        for file in medium.rglob("*"):
            file.chmod(0o755)
    assert [folder.path for folder in folders] == [home / "runs/away", home / "projections/p"]
    assert folders[0].records() == RECORDS
    for folder in folders:
        for file in folder.path.rglob("*"):
            assert file.stat().st_mode & 0o200


def test_bringing_home_again_keeps_what_was_made_here_and_takes_what_has_grown(
    tmp_path: Path,
) -> None:
    away = write_run(
        tmp_path / "away",
        records=RECORDS[:2],
        info=sample_info(run_id="r", num_cases=4, ended_at=""),
    )
    home = at_home(away.path, tmp_path / "results", ())
    (home.path / "report.html").write_text("made here", encoding="utf-8")
    shutil.copy(a_run(tmp_path / "full", "r").path / "records.jsonl", away.path / "records.jsonl")
    at_home(away.path, tmp_path / "results", ())
    assert home.records() == RECORDS
    assert home.info.ended_at
    assert (home.path / "report.html").read_text(encoding="utf-8") == "made here"


def test_another_projection_of_the_same_name_does_not_replace_the_one_at_home(
    tmp_path: Path,
) -> None:
    away = a_projection(tmp_path / "away", "p")
    at_home(away.path, tmp_path / "results", ())
    away.write("projection.json", replace(sample_projection(), mfu=0.1))
    with pytest.raises(RecordError, match=r"holds another projection\.json"):
        at_home(away.path, tmp_path / "results", ())


def test_what_fails_for_every_folder_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        a_run(tmp_path / "runs", name)
    under = ["--results-dir", str(tmp_path)]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htp://host")
    assert main(["sync", *under]) == 2
    assert capsys.readouterr().err.count("begins with no scheme of MLflow's") == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main(["sync", *under]) == 1
    out = capsys.readouterr().out
    assert out.count("cannot be reached") == 1
    assert "2 more folders failed in the same way" in out


def test_an_interval_that_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sync", "--watch", "--interval", "0", "--results-dir", str(tmp_path)]
    assert main(arguments) == 2
    assert "--interval: 0 is no number of seconds above 0" in capsys.readouterr().err


def test_a_watch_says_once_that_the_server_is_away_and_asks_ever_more_rarely(
    tmp_path: Path,
) -> None:
    a_run(tmp_path / "runs", "waits")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    said = io.StringIO()
    target = tracking_target(tmp_path, {"MLFLOW_TRACKING_URI": url})
    watcher = Watcher([tmp_path], tmp_path, (), 100.0, target, Console(file=said, width=200))
    assert [watcher.look() for _ in range(3)] == [200.0, 300.0, 300.0]
    lines = said.getvalue().splitlines()
    assert len(lines) == 1
    assert "cannot be reached" in lines[0]
    assert "1 folder(s) wait for it." in lines[0]


@pytest.mark.slow
def test_a_watch_logs_what_is_new_and_ends_quietly_at_ctrl_c(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    assert prepare(tracking_target(results, {})) == ""
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "harness", "sync", "--watch", "--interval", "0.2"),
            *("--results-dir", str(results)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"},
        # What a shell puts in the background ignores Ctrl-C, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as watching:
        try:
            assert watching.stdout is not None
            assert "following" in watching.stdout.readline()
            a_run(results / "runs", "new")
            assert "new: The run is logged to MLflow" in watching.stdout.readline()
            watching.send_signal(signal.SIGINT)
            rest, _ = watching.communicate(timeout=60)
            assert "stopped; what was being logged is finished by the next sync." in rest
            assert rest.count("\n") == 1
            assert watching.returncode == 0
        finally:
            watching.kill()
