from dataclasses import replace

import pytest

from harness.errors import RecordError
from harness.fingerprint import fingerprint
from harness.store.folder import RunFolder
from harness.store.history import history_run
from harness.store.mlflow import TrackingTarget
from harness.store.mlflow.history import mlflow_history
from tests.harness.sample_run import sample_info, write_run

pytestmark = pytest.mark.usefixtures("quiet_mlflow")


def logged(target: TrackingTarget, day: int, **tags: str) -> RunFolder:
    """A run of that day, in MLflow."""
    from harness.store.mlflow.child import Session, folder_result

    database = target.database_path
    assert database is not None
    info = sample_info(
        run_id=f"2026010{day}T030000-quick-llama3_8b-{'x' * day}",
        started_at=f"2026-01-0{day}T03:00:00+00:00",
        tags=tuple(tags.items()),
    )
    folder = write_run(database.parent / "runs", info=info)
    assert folder_result(Session(target, {}), folder.path).is_done
    return folder


def test_mlflow_gives_back_the_history_that_was_logged(target: TrackingTarget) -> None:
    folders = [logged(target, day) for day in (2, 1)]
    logged(target, 3, role="head")
    expected = sorted(
        (history_run(folder, fingerprint) for folder in folders), key=lambda run: run.started_at
    )
    found = mlflow_history(target, {"suite": "quick", "git_branch": "main"})
    assert [run.run_id for run in found] == [run.run_id for run in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert dict(ours.protocols) == dict(theirs.protocols)
        assert dict(ours.medians_s) == pytest.approx(dict(theirs.medians_s), rel=1e-5)
        # A checkout with local changes says so in MLflow.
        assert replace(ours, medians_s=(), protocols=(), commit="") == replace(
            theirs, medians_s=(), protocols=(), commit=""
        )


def test_a_branch_that_nobody_logged_has_no_history(target: TrackingTarget) -> None:
    logged(target, 1)
    assert mlflow_history(target, {"suite": "quick", "git_branch": "it's not there"}) == ()
    assert mlflow_history(target, {"suite": "no such suite"}) == ()


def test_a_server_that_is_away_is_one_line() -> None:
    away = TrackingTarget(uri="http://127.0.0.1:9", artifact_root=None, ui_url="http://127.0.0.1:9")
    with pytest.raises(RecordError, match=r"history: MLflow at \S+ cannot be reached"):
        mlflow_history(away, {"suite": "quick"})
