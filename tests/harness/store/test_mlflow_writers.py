"""Many writers at once, and servers that go away: every run is there exactly once."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from harness.store.folder import RunFolder
from harness.store.interface import free_port, running_server
from harness.store.mlflow import SyncState, TrackingTarget, tracking_target
from harness.store.mlflow.keeper import DUPLICATE_TAG
from tests.harness.sample_run import sample_info, sample_records, write_run
from tests.harness.store.many_writers import end, runs_of, start_writers, times_logged

pytestmark = pytest.mark.usefixtures("quiet_mlflow")
NUM_WRITERS = 8


def small_run(root: Path, run_id: str) -> RunFolder:
    return write_run(root, records=sample_records()[:6], info=sample_info(run_id=run_id))


class Served:
    """A server on one port that can be killed and started again."""

    def __init__(self, database: TrackingTarget) -> None:
        self._database = database
        self._port = free_port(0)
        self._stack = ExitStack()
        self.target = TrackingTarget(uri="", artifact_root=None, ui_url="")

    def start(self) -> None:
        served, self._process = self._stack.enter_context(
            running_server(self._database, self._port)
        )
        self.target = tracking_target(Path("/none"), {"MLFLOW_TRACKING_URI": served.ui_url})
        self.target = replace(self.target, synced_file=None)

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.stop()

    def stop(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, fresh_database: Path) -> Iterator[Served]:
    results = tmp_path_factory.mktemp("served")
    (results / "mlflow.db").write_bytes(fresh_database.read_bytes())
    server = Served(tracking_target(results, {}))
    server.start()
    yield server
    server.stop()


def test_eight_processes_share_a_database_that_is_not_there_yet(tmp_path: Path) -> None:
    results = tmp_path / "results"
    folders = [small_run(results / "runs", f"r{number}") for number in range(NUM_WRITERS)]
    target = tracking_target(results, {})
    writers = start_writers(target, [[folder.path] for folder in folders])
    assert end(writers) == [0] * NUM_WRITERS
    assert times_logged(runs_of(target)) == {f"r{number}": 1 for number in range(NUM_WRITERS)}
    assert not list(results.glob(".mlflow.db*"))


@pytest.mark.slow
def test_eight_writers_of_one_folder_leave_one_whole_run_on_a_server(
    tmp_path: Path, served: Served
) -> None:
    # No lock is shared, as between hosts: on a server there is none at all.
    folders = [small_run(tmp_path, f"contested-{number}").path for number in range(3)]
    writers = start_writers(served.target, [folders] * NUM_WRITERS)
    assert end(writers) == [0] * NUM_WRITERS
    runs = [
        run
        for run in runs_of(served.target)
        if run.data.tags["chipscale.run_uid"].startswith("contested")
    ]
    assert times_logged(runs) == {folder.name: 1 for folder in folders}
    for run in runs:
        assert run.data.tags["chipscale.sync"] == "complete"
        assert (run.info.status, run.data.metrics["ok"]) == ("FINISHED", 6)


@pytest.mark.slow
def test_a_server_killed_while_eight_processes_sync_has_every_run_once(
    tmp_path: Path, served: Served
) -> None:
    names = [f"fault-{number:02d}" for number in range(3 * NUM_WRITERS)]
    folders = [small_run(tmp_path, name).path for name in names]
    writers = start_writers(
        served.target, [folders[at::NUM_WRITERS] for at in range(NUM_WRITERS)], patience_s=60
    )
    wait_for_runs(served.target, "fault", 4)
    served.kill()
    time.sleep(1)
    served.start()
    assert end(writers) == [0] * NUM_WRITERS
    runs = [run for run in runs_of(served.target) if run.info.run_name and "fault" in uid(run)]
    assert times_logged(runs) == dict.fromkeys(names, 1)
    assert {run.data.tags["chipscale.sync"] for run in runs} == {"complete"}
    assert {len(run.data.metrics) for run in runs} == {len(runs[0].data.metrics)}
    for run in runs:
        check_artifacts(served.target, run.info.run_id, tmp_path / uid(run))


def uid(run: object) -> str:
    return str(run.data.tags["chipscale.run_uid"])  # type: ignore[attr-defined]


def wait_for_runs(target: TrackingTarget, prefix: str, number: int) -> None:
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        if sum(uid(run).startswith(prefix) for run in runs_of(target)) >= number:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {number} runs in a minute")


def check_artifacts(target: TrackingTarget, run_id: str, folder: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=target.uri)
    held = Path(client.download_artifacts(run_id, "records.jsonl"))
    assert held.read_bytes() == (folder / "records.jsonl").read_bytes()


def test_of_two_runs_with_one_uid_the_smaller_id_is_kept_and_the_other_says_so(
    tmp_path: Path, target: TrackingTarget
) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    from harness.store.mlflow.child import Session, folder_result

    folder = small_run(tmp_path, "twice")
    first = folder_result(Session(replace(target, synced_file=None), {}), folder.path)
    client = MlflowClient(tracking_uri=target.uri)
    # As a writer leaves it that died between creating a run and looking for others.
    other = client.create_run(first.experiment_id, tags={"chipscale.run_uid": "twice"})
    keeper, duplicate = sorted((first.run_id, other.info.run_id))
    again = folder_result(Session(replace(target, synced_file=None), {}), folder.path)
    assert again.run_id == keeper
    assert [run.info.run_id for run in client.search_runs([first.experiment_id])] == [keeper]
    assert client.get_run(keeper).data.tags["chipscale.sync"] == "complete"
    (deleted,) = client.search_runs([first.experiment_id], run_view_type=ViewType.DELETED_ONLY)
    assert (deleted.info.run_id, deleted.data.tags[DUPLICATE_TAG]) == (duplicate, keeper)


def test_a_writer_whose_run_was_deleted_under_it_goes_on_with_the_one_kept(
    tmp_path: Path, target: TrackingTarget
) -> None:
    from mlflow import MlflowClient

    from harness.store.mlflow.experiments import Experiments
    from harness.store.mlflow.layout import run_content
    from harness.store.mlflow.writer import write_run as write_mlflow_run

    content = run_content(small_run(tmp_path, "raced"))
    client = MlflowClient(tracking_uri=target.uri)
    log_batch, kept_ids = client.log_batch, []

    def overtaken(run_id: str, *args: object, **keywords: object) -> None:
        if not kept_ids:
            # The other writer sees ours, keeps its own, and is done before our next call.
            other = client.create_run(
                experiments.id_of(content), tags={"chipscale.run_uid": content.uid}
            )
            kept_ids.append(other.info.run_id)
            client.set_tag(run_id, DUPLICATE_TAG, other.info.run_id)
            client.delete_run(run_id)
        log_batch(run_id, *args, **keywords)  # type: ignore[arg-type]

    experiments = Experiments(client, target)
    client.log_batch = overtaken  # type: ignore[method-assign]
    written = write_mlflow_run(client, experiments, content)
    assert [written.run_id] == kept_ids
    (run,) = client.search_runs([written.experiment_id])
    assert run.data.tags["chipscale.sync"] == "complete"


def test_a_run_that_a_person_deleted_is_left_so_until_it_is_restored(
    tmp_path: Path, target: TrackingTarget
) -> None:
    from mlflow import MlflowClient

    from harness.store.mlflow.child import Session, folder_result

    folder = small_run(tmp_path, "unwanted")
    fresh = replace(target, synced_file=None)
    first = folder_result(Session(fresh, {}), folder.path)
    client = MlflowClient(tracking_uri=target.uri)
    client.delete_run(first.run_id)
    again = folder_result(Session(fresh, {}), folder.path)
    assert (again.state, again.is_done) == (SyncState.DELETED, True)
    assert f"`mlflow runs restore --run-id {first.run_id}`" in again.message
    assert client.search_runs([first.experiment_id]) == []
    client.restore_run(first.run_id)
    assert folder_result(Session(fresh, {}), folder.path).state is SyncState.UNCHANGED
