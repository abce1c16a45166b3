import importlib.util
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.report.gate_outputs import write_files
from harness.store.folder import RunFolder
from harness.store.mlflow import (
    SyncResult,
    SyncState,
    TrackingTarget,
    experiment_link,
    run_link,
    sync,
    tracking_target,
)
from harness.store.mlflow.gate_layout import GATE_VIEWS
from tests.harness.report.gate_sample import result
from tests.harness.sample_run import (
    many_records,
    ok_record,
    sample_info,
    sample_projection,
    sample_records,
    write_run,
)
from tests.harness.store.gate_run import measured_gate, written

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.usefixtures("quiet_mlflow")
RUN_ID = sample_info().run_id


def client_of(target: TrackingTarget) -> "MlflowClient":
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=target.uri)


def sync_here(folder: RunFolder, target: TrackingTarget) -> SyncResult:
    """What the child process does with one folder, without the seconds MLflow's import takes."""
    from harness.store.mlflow.child import Session, folder_result

    return folder_result(Session(target, {}), folder.path)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = write_run(tmp_path / "results" / "runs", projection=sample_projection())
    (made.path / "report.html").write_text("<p>report</p>", encoding="utf-8")
    return made


@pytest.fixture
def hanging_server() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


class Stuck(BaseHTTPRequestHandler):
    """It is healthy, it says, and answers nothing else."""

    def do_GET(self) -> None:
        if self.path == "/health":
            self.send_response(200)
            self.end_headers()
            return
        while not self.server.__dict__["is_over"]:
            time.sleep(0.05)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def stuck_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stuck)
    server.__dict__["is_over"] = False
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.__dict__["is_over"] = True
    server.shutdown()
    thread.join()
    server.server_close()


class Broken(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(500)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def broken_server() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Broken)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_run_and_its_projection_can_be_read_back(
    folder: RunFolder, target: TrackingTarget
) -> None:
    (result,) = sync([folder], target)
    assert result.state is SyncState.CREATED
    client = client_of(target)
    run = client.get_run(result.run_id)
    assert run.info.run_name == "quick@imaginary_x1 0123456"
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 160_000
    assert run.data.tags["chipscale.run_uid"] == RUN_ID
    assert run.data.tags["chipscale.sync"] == "complete"
    assert run.data.params["timer"] == "virtual_clock"
    history = client.get_metric_history(
        result.run_id, "gemm.bf16.forward/median_us.N6144.K4096.triton"
    )
    assert [point.step for point in history] == [1024, 4096]
    paths = {file.path for file in client.list_artifacts(result.run_id)}
    assert {"results.json", "results.csv", "records.jsonl", "report.html", "config"} <= paths
    views = client.get_experiment(result.experiment_id).tags
    assert {f"mlflow.sharedViewState.{key}" for key in ("latest", "leaderboard", "by-chip")} <= set(
        views
    )
    projection = result.run_of("projection")
    assert projection is not None
    projected = client.get_run(projection.run_id)
    assert projected.data.metrics["tokens_per_s"] > 1e7
    assert projected.data.tags["source_runs"] == RUN_ID
    assert client.get_experiment(projection.experiment_id).name == "chipscale/projection"


def test_a_second_sync_changes_nothing(folder: RunFolder, target: TrackingTarget) -> None:
    first = sync_here(folder, target)
    path = target.database_path
    assert path is not None
    before = path.read_bytes()
    second = sync_here(folder, target)
    assert second.state is SyncState.UNCHANGED
    assert second.runs == first.runs
    assert path.read_bytes() == before


def test_a_sync_that_was_stopped_half_way_is_completed(
    folder: RunFolder, target: TrackingTarget
) -> None:
    from harness.store.mlflow.experiments import Experiments
    from harness.store.mlflow.layout import run_content
    from harness.store.mlflow.writer import write_run as write_mlflow_run

    class Stopped(Exception):  # noqa: N818
        pass

    client = client_of(target)

    def stop(*_: object) -> None:
        raise Stopped

    working, client.log_artifact = client.log_artifact, stop  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        write_mlflow_run(client, Experiments(client, target), run_content(folder))
    client.log_artifact = working  # type: ignore[method-assign]
    (partial,) = client.search_runs(
        [client.get_experiment_by_name("chipscale/quick").experiment_id]
    )
    assert partial.data.tags["chipscale.sync"] == "partial"

    result = sync_here(folder, target)
    assert result.run_id == partial.info.run_id
    assert result.state is SyncState.COMPLETED
    run = client.get_run(result.run_id)
    assert run.data.tags["chipscale.sync"] == "complete"
    assert len(client.search_runs([result.experiment_id])) == 1
    history = client.get_metric_history(
        result.run_id, "gemm.bf16.forward/median_us.N6144.K4096.triton"
    )
    assert len(history) == 2


def test_a_resumed_run_is_brought_up_to_date(tmp_path: Path, target: TrackingTarget) -> None:
    records = sample_records()
    unfinished = sample_info(ended_at="")
    folder = write_run(tmp_path / "runs", records=records[:20], info=unfinished)
    first = sync_here(folder, target)
    client = client_of(target)
    assert client.get_run(first.run_id).info.status == "KILLED"
    assert client.get_run(first.run_id).data.tags["chipscale.sync"] == "partial"

    full = write_run(tmp_path / "again", records=records)
    (folder.path / "records.jsonl").write_bytes((full.path / "records.jsonl").read_bytes())
    folder.write("run.json", sample_info())
    second = sync_here(folder, target)
    run = client.get_run(first.run_id)
    assert (second.state, second.run_id) == (SyncState.COMPLETED, first.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["ok"] == 48


def test_a_description_edited_by_a_person_is_kept(
    folder: RunFolder, target: TrackingTarget
) -> None:
    result = sync_here(folder, target)
    client = client_of(target)
    client.set_tag(result.run_id, "mlflow.note.content", "Fan was broken.")
    (folder.path / "report.html").write_text("<p>newer</p>", encoding="utf-8")
    again = sync_here(folder, target)
    assert again.state is SyncState.COMPLETED
    run = client.get_run(result.run_id)
    assert run.data.tags["mlflow.note.content"] == "Fan was broken."
    path = Path(client.download_artifacts(result.run_id, "report.html"))
    assert path.read_text(encoding="utf-8") == "<p>newer</p>"


def test_a_projection_alone_is_synced(tmp_path: Path, target: TrackingTarget) -> None:
    alone = RunFolder(tmp_path / "projections" / "one")
    alone.path.mkdir(parents=True)
    alone.write("projection.json", sample_projection())
    result = sync_here(alone, target)
    assert result.state is SyncState.CREATED
    assert [run.kind for run in result.runs] == ["projection"]


def test_a_folder_that_cannot_be_read_does_not_cost_the_others(
    folder: RunFolder, target: TrackingTarget, tmp_path: Path
) -> None:
    empty = RunFolder(tmp_path / "empty")
    empty.path.mkdir()
    bad, good = sync([empty, folder], target)
    assert bad.state is SyncState.FAILED
    assert "none of run.json, projection.json" in bad.message
    assert good.is_done


def test_the_table_compare_view_joins_two_chips(target: TrackingTarget, tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "runs", info=sample_info(run_id=f"run-{chip}", chip=chip))
        for chip in ("imaginary_x1", "other_y2")
    ]
    results = [sync_here(folder, target) for folder in folders]
    client = client_of(target)
    tables = [
        json.loads(
            Path(client.download_artifacts(result.run_id, "results.json")).read_text("utf-8")
        )
        for result in results
    ]
    assert tables[0]["columns"] == tables[1]["columns"]
    assert [row[0] for row in tables[0]["data"]] == [row[0] for row in tables[1]["data"]]
    assert len({result.experiment_id for result in results}) == 1


def test_a_server_that_is_away_is_told_at_once_with_the_command_that_tries_again(
    folder: RunFolder, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    target = tracking_target(tmp_path, {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"})
    began = time.monotonic()
    (result,) = sync([folder], target)
    assert time.monotonic() - began < 20
    assert result.state is SyncState.FAILED
    assert "cannot be reached" in result.message
    assert f"`chipscale sync {folder.path}`" in result.message


def test_a_server_that_accepts_and_never_answers_is_given_up(
    folder: RunFolder, tmp_path: Path, hanging_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    target = tracking_target(tmp_path, {"MLFLOW_TRACKING_URI": hanging_server})
    began = time.monotonic()
    (result,) = sync([folder], target)
    assert time.monotonic() - began < 20
    assert "did not answer within 1 s" in result.message


def test_the_budget_holds_whatever_the_child_waits_for(
    folder: RunFolder, tmp_path: Path, stuck_server: str
) -> None:
    target = tracking_target(tmp_path, {"MLFLOW_TRACKING_URI": stuck_server})
    began = time.monotonic()
    results = sync([folder, folder], target, budget_s=6.0)
    assert time.monotonic() - began < 9
    assert all("was not done after 6 s" in result.message for result in results)


def test_a_server_that_answers_500_is_told(
    folder: RunFolder, tmp_path: Path, broken_server: str
) -> None:
    target = tracking_target(tmp_path, {"MLFLOW_TRACKING_URI": broken_server})
    (result,) = sync([folder], target)
    assert "answered 500" in result.message


def test_without_mlflow_the_result_says_how_to_get_it(
    folder: RunFolder, target: TrackingTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (result,) = sync([folder], target)
    assert result.message.startswith("MLflow is not installed (`pip install mlflow` adds it)")


def test_an_experiment_that_was_deleted_is_named_with_the_way_back(
    folder: RunFolder, target: TrackingTarget
) -> None:
    result = sync_here(folder, target)
    client_of(target).delete_experiment(result.experiment_id)
    again = sync_here(folder, target)
    assert "mlflow experiments restore" in again.message


def test_no_folders_need_no_mlflow(target: TrackingTarget) -> None:
    assert sync([], target) == ()


def test_importing_the_store_does_not_import_mlflow() -> None:
    modules = "harness.store.mlflow, harness.store.interface"
    code = f"import sys, {modules}; sys.exit('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == 0


@pytest.mark.slow
def test_a_thousand_cases_are_logged_in_seconds(tmp_path: Path, target: TrackingTarget) -> None:
    folder = write_run(tmp_path / "runs", records=many_records(1000))
    result = sync_here(folder, target)
    assert result.is_done
    assert result.seconds < 15  # 2.5 s on two idle cores; other work may share them


def test_links_carry_the_workflow_without_which_runs_cannot_be_found() -> None:
    target = tracking_target(Path("/results"), {})
    assert target.uri == "sqlite:////results/mlflow.db"
    assert run_link(target, "1", "abc") == (
        "http://127.0.0.1:5177/#/experiments/1/runs/abc?workflowType=machine_learning"
    )
    assert experiment_link(target, "1", "leaderboard").endswith(
        "workflowType=machine_learning&viewStateShareKey=leaderboard"
    )


def test_the_users_tracking_uri_wins_and_a_relative_database_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server = tracking_target(tmp_path, {"MLFLOW_TRACKING_URI": "https://mlflow.example.org/"})
    assert server.is_server
    assert server.ui_url == "https://mlflow.example.org"
    database = tracking_target(tmp_path, {"MLFLOW_TRACKING_URI": "sqlite:///mine.db"})
    assert database.database_path == tmp_path / "mine.db"


def test_a_gate_is_synced_once_into_three_runs(tmp_path: Path, target: TrackingTarget) -> None:
    path = measured_gate(tmp_path / "results")
    first = sync_here(RunFolder(path), target)
    assert first.state is SyncState.CREATED, first.message
    assert [run.kind for run in first.runs] == ["gate", "base", "head"]
    again = sync_here(RunFolder(path), target)
    assert again.state is SyncState.UNCHANGED
    assert again.runs == first.runs
    client = client_of(target)
    found = client.get_experiment_by_name("chipscale/gate")
    assert found is not None
    assert len(client.search_runs([found.experiment_id])) == 1
    assert {view.tag for view in GATE_VIEWS} <= set(found.tags)
    sides = client.get_experiment_by_name("chipscale/gate/quick")
    assert sides is not None
    heads = client.search_runs([sides.experiment_id], "tags.role = 'head' and tags.pr = '17'")
    assert len(heads) == 1


def test_a_gate_with_other_links_is_brought_up_to_date(
    tmp_path: Path, target: TrackingTarget
) -> None:
    folder = written(tmp_path / "results", result(ui_links=()))
    sync_here(folder, target)
    write_files(result(), folder.path)
    again = sync_here(folder, target)
    assert again.state is SyncState.COMPLETED
    experiment = again.runs[0].experiment_id
    assert len(client_of(target).search_runs([experiment])) == 1


def test_records_with_one_sample_are_logged(tmp_path: Path, target: TrackingTarget) -> None:
    single = ok_record(sample_records()[0].case, num_samples=1)
    result = sync_here(write_run(tmp_path / "runs", records=[single]), target)
    assert client_of(target).get_run(result.run_id).data.metrics["ok"] == 1
