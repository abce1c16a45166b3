"""What a user or another program may have done to MLflow: one line that says what to do."""

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from harness.store.folder import RunFolder
from harness.store.mlflow import SyncResult, SyncState, TrackingTarget, sync, tracking_target
from harness.store.mlflow.ledger import folder_state
from tests.harness.sample_run import sample_info, sample_records, write_run

pytestmark = pytest.mark.usefixtures("quiet_mlflow")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return write_run(tmp_path / "results" / "runs", records=sample_records()[:6])


def sync_here(folder: RunFolder, target: TrackingTarget) -> SyncResult:
    """What the child process does, with what it would end with as the folder's result."""
    from harness.store.mlflow.bounded import failed
    from harness.store.mlflow.child import folder_result, open_session
    from harness.store.mlflow.reasons import reason

    try:
        session = open_session(target, {})
    except Exception as error:
        return failed(folder.path, reason(error, target))
    return folder_result(session, folder.path)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("htp://mlflow:5000", "Did you mean 'http'?"),
        ("localhost:5000", "begins with no scheme of MLflow's"),
        ("postgres://mlflow@db/runs", "Did you mean 'postgresql'?"),
        ("mlruns", "is a folder, which MLflow no longer takes"),
        ("file:///tmp/mlruns", "is a folder, which MLflow no longer takes"),
        ("sqlite:mlflow.db", "sqlite:////ABSOLUTE/PATH.db has four"),
        ("http://", "names no host"),
        ("http://mlflow:many", "names no host and port that could be"),
    ],
)
def test_a_mistaken_tracking_uri_is_named_with_what_is_allowed(
    folder: RunFolder, tmp_path: Path, uri: str, says: str
) -> None:
    before = folder_state(folder.path)
    (result,) = sync([folder], tracking_target(tmp_path, {"MLFLOW_TRACKING_URI": uri}))
    assert result.state is SyncState.FAILED
    assert result.message.startswith("MLFLOW_TRACKING_URI: '")
    assert says in result.message
    assert "\n" not in result.message
    assert folder_state(folder.path) == before


@pytest.mark.parametrize(
    "uri",
    [
        "http://mlflow:5000",
        "https://mlflow.example.org/team",
        "postgresql+psycopg2://mlflow:secret@/runs?host=/run/postgresql",
        "sqlite:////tmp/mlflow.db",
        "databricks",
    ],
)
def test_a_tracking_uri_that_mlflow_takes_is_no_mistake(tmp_path: Path, uri: str) -> None:
    assert tracking_target(tmp_path, {"MLFLOW_TRACKING_URI": uri}).mistake == ""


def test_a_password_in_the_uri_is_never_shown(folder: RunFolder, tmp_path: Path) -> None:
    uri = "postgresql+psycopg2://mlflow:secret@127.0.0.1:1/runs"
    target = tracking_target(tmp_path, {"MLFLOW_TRACKING_URI": uri})
    assert target.shown == "postgresql+psycopg2://mlflow:***@127.0.0.1:1/runs"
    assert "secret" not in str(target.synced_file)
    (result,) = sync([folder], target)
    assert result.state is SyncState.FAILED
    assert f"The database {target.shown} cannot be reached (" in result.message
    assert "secret" not in result.message
    assert "\n" not in result.message


def test_a_database_of_a_newer_mlflow_is_told_and_left_as_it_is(
    folder: RunFolder, target: TrackingTarget
) -> None:
    path = target.database_path
    assert path is not None
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'f00000000000'")
    before = path.read_bytes()
    result = sync_here(folder, target)
    assert "newer than" in result.message
    assert "`pip install --upgrade mlflow`" in result.message
    assert path.read_bytes() == before


def test_a_database_of_an_older_mlflow_is_told_with_the_upgrade(
    folder: RunFolder, target: TrackingTarget
) -> None:
    path = target.database_path
    assert path is not None
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0c779009ac13'")
    assert f"`mlflow db upgrade sqlite:///{path}`" in sync_here(folder, target).message


def test_a_damaged_database_is_told_with_the_way_to_a_new_one(
    folder: RunFolder, target: TrackingTarget
) -> None:
    path = target.database_path
    assert path is not None
    path.write_bytes(b"this is no database, but long enough to look like one")
    result = sync_here(folder, target)
    assert "is no SQLite database, or a damaged one: move it away" in result.message
    assert "\n" not in result.message


def test_a_locked_database_is_told(
    folder: RunFolder, target: TrackingTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = target.database_path
    assert path is not None
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        result = sync_here(folder, target)
    assert "is locked by another program" in result.message
    assert sync_here(folder, target).state is SyncState.CREATED


def test_a_corrupt_projection_is_named_and_costs_no_other_folder(
    folder: RunFolder, target: TrackingTarget, tmp_path: Path
) -> None:
    other = write_run(
        tmp_path / "other", records=sample_records()[:2], info=sample_info(run_id="other")
    )
    (other.path / "projection.json").write_text('{"model": "llama', encoding="utf-8")
    broken = sync_here(other, target)
    assert f"{other.path / 'projection.json'}: not JSON" in broken.message
    assert "\n" not in broken.message
    assert sync_here(folder, target).is_done


def test_a_folder_that_has_not_changed_is_not_looked_at_again(
    folder: RunFolder, target: TrackingTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sync_here(folder, target)
    monkeypatch.setattr(RunFolder, "records", lambda self: pytest.fail("it was read"))
    again = sync_here(folder, target)
    assert (again.state, again.runs) == (SyncState.UNCHANGED, first.runs)


def test_a_database_begun_anew_is_filled_again(
    folder: RunFolder, target: TrackingTarget, fresh_database: Path
) -> None:
    path = target.database_path
    assert path is not None
    sync_here(folder, target)
    shutil.copy(fresh_database, path)
    assert sync_here(folder, target).state is SyncState.CREATED


def test_a_damaged_ledger_only_costs_a_look(folder: RunFolder, target: TrackingTarget) -> None:
    assert target.synced_file is not None
    sync_here(folder, target)
    target.synced_file.write_text('{"folder": 7}\n\x00\nno JSON', encoding="utf-8")
    assert sync_here(folder, target).state is SyncState.UNCHANGED


def test_a_growing_run_keeps_one_point_for_each_case(
    folder: RunFolder, target: TrackingTarget
) -> None:
    from mlflow import MlflowClient

    result = sync_here(folder, replace(target, synced_file=None))
    full = write_run(folder.path.parent.parent / "full", records=sample_records()[:9])
    (folder.path / "records.jsonl").write_bytes((full.path / "records.jsonl").read_bytes())
    folder.write("run.json", replace(sample_info(), ended_at="2026-01-02T03:09:00+00:00"))
    assert sync_here(folder, replace(target, synced_file=None)).state is SyncState.COMPLETED
    client = MlflowClient(tracking_uri=target.uri)
    run = client.get_run(result.run_id)
    keys = [key for key in run.data.metrics if key.startswith("copy")]
    assert keys
    for key in keys:
        assert len(client.get_metric_history(result.run_id, key)) == 1
    table = json.loads(Path(client.download_artifacts(result.run_id, "results.json")).read_text())
    assert len(table["data"]) == 9
