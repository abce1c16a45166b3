"""A real PostgreSQL and a real MLflow server with basic authentication over it."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from harness.store.interface import free_port
from harness.store.mlflow import SyncResult, TrackingTarget, sync, tracking_target
from tests.harness.sample_run import sample_info, sample_records, write_run
from tests.harness.store.many_writers import end, start_writers, times_logged

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("quiet_mlflow"),
    pytest.mark.skipif(shutil.which("initdb") is None, reason="no PostgreSQL here"),
]
ADMINISTRATOR = ("ada", "a long enough password")
WRITER = ("wilma", "another long password")
READER = ("rudi", "a third long password")
QUIET = {"DO_NOT_TRACK": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def as_postgres(*command: str) -> list[str]:
    """PostgreSQL refuses to run as root."""
    return ["runuser", "-u", "postgres", "--", *command] if os.geteuid() == 0 else list(command)


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """A server with nothing in it, on a socket in the folder alone; its URI."""
    folder.mkdir()
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        for parent in folder.parents:
            if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
                parent.chmod(parent.stat().st_mode | 0o711)
    data = folder / "data"
    quick = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off")
    subprocess.run(
        as_postgres("initdb", "-D", str(data), "-A", "trust", "-U", "mlflow", "--no-sync"),
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=folder,
    )
    with subprocess.Popen(
        as_postgres(
            "postgres", "-D", str(data), "-k", str(folder), "-c", "listen_addresses=", *quick
        ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
    ) as server:
        try:
            uri = f"postgresql+psycopg2://mlflow@/postgres?host={folder}"
            wait_until(lambda: accepts(uri))
            yield uri
        finally:
            stop = ("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
            subprocess.run(as_postgres(*stop), check=False, stdout=subprocess.DEVNULL, cwd=folder)
            server.kill()


def accepts(uri: str) -> bool:
    import psycopg2

    try:
        psycopg2.connect(uri.replace("+psycopg2", "")).close()
    except psycopg2.OperationalError:
        return False
    return True


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except OSError:
        return False


def wait_until(is_so: object, within_s: float = 120) -> None:
    assert callable(is_so)
    deadline_s = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


@contextmanager
def authenticating_server(folder: Path, uri: str) -> Iterator[str]:
    """MLflow with `--app-name basic-auth`, as docs/mlflow.md sets it up; its address."""
    configuration = folder / "auth.ini"
    configuration.write_text(
        "[mlflow]\n"
        "default_permission = READ\n"
        "auth_cache_ttl_seconds = 60\n"
        f"database_uri = sqlite:///{folder / 'users.db'}\n"
        f"admin_username = {ADMINISTRATOR[0]}\n"
        f"admin_password = {ADMINISTRATOR[1]}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n",
        encoding="utf-8",
    )
    url = f"http://127.0.0.1:{free_port(0)}"
    options = {
        "--app-name": "basic-auth",
        "--workers": "1",
        "--host": "127.0.0.1",
        "--port": url.rpartition(":")[2],
        "--backend-store-uri": uri,
        "--artifacts-destination": str(folder / "artifacts"),
    }
    with (
        (folder / "log.txt").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *(w for o in options.items() for w in o)],
            stdout=log,
            stderr=log,
            env={
                **os.environ,
                **QUIET,
                "MLFLOW_AUTH_CONFIG_PATH": str(configuration),
                "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test",
            },
            start_new_session=True,
        ) as server,
    ):
        try:
            wait_until(lambda: answers(url) or server.poll() is not None)
            assert server.poll() is None, (folder / "log.txt").read_text(encoding="utf-8")
            yield url
        finally:
            os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the server, which has an administrator, a user who may write and one who may read."""
    folder = tmp_path_factory.mktemp("server")
    with postgresql(folder / "pg") as uri, authenticating_server(folder, uri) as url:
        for name, password in (WRITER, READER):
            administer(url, "2.0/mlflow/users/create", username=name, password=password)
        yield url


def administer(address: str, what: str, **values: str) -> None:
    """What docs/mlflow.md does with curl."""
    secret = base64.b64encode(":".join(ADMINISTRATOR).encode()).decode()
    request = urllib.request.Request(
        f"{address}/api/{what}",
        data=json.dumps(values).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Basic {secret}"},
    )
    with urllib.request.urlopen(request, timeout=30):
        pass


def act_as(environment: pytest.MonkeyPatch, user: tuple[str, str]) -> None:
    environment.setenv("MLFLOW_TRACKING_USERNAME", user[0])
    environment.setenv("MLFLOW_TRACKING_PASSWORD", user[1])


def target_at(address: str) -> TrackingTarget:
    found = tracking_target(Path("/none"), {"MLFLOW_TRACKING_URI": address})
    return replace(found, synced_file=None)


def sync_here(path: Path, target: TrackingTarget) -> SyncResult:
    from harness.store.mlflow.child import Session, folder_result

    return folder_result(Session(target, {}), path)


def small_runs(root: Path, names: Sequence[str]) -> list[Path]:
    return [
        write_run(root, records=sample_records()[:6], info=sample_info(run_id=name)).path
        for name in names
    ]


def test_a_run_is_logged_with_the_users_name_and_password(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    act_as(monkeypatch, WRITER)
    (path,) = small_runs(tmp_path, ["with-a-password"])
    from harness.store.folder import RunFolder

    (result,) = sync([RunFolder(path)], target_at(address), budget_s=120)
    assert result.is_done, result.message
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=address)
    run = client.get_run(result.run_id)
    assert run.data.tags["chipscale.sync"] == "complete"
    assert "records.jsonl" in {file.path for file in client.list_artifacts(result.run_id)}


def test_a_wrong_password_is_said_in_one_line(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    act_as(monkeypatch, (WRITER[0], "wrong"))
    (path,) = small_runs(tmp_path, ["wrong-password"])
    result = sync_here(path, target_at(address))
    assert result.message == (
        f"MLflow at {address} refused the user name or the password of wilma: set "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. Nothing is lost: "
        f"`chipscale sync {path}` logs it later."
    )
    act_as(monkeypatch, WRITER)
    assert sync_here(path, target_at(address)).is_done


def test_a_reader_is_told_which_permission_is_missing_and_writes_once_it_is_given(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    act_as(monkeypatch, WRITER)
    first, second = small_runs(tmp_path, ["of-the-writer", "of-the-reader"])
    experiment_id = sync_here(first, target_at(address)).experiment_id
    act_as(monkeypatch, READER)
    refused = sync_here(second, target_at(address))
    assert "does not let rudi write there" in refused.message
    assert "permission EDIT" in refused.message
    assert "\n" not in refused.message
    administer(
        address,
        "3.0/mlflow/users/permissions/grant",
        username=READER[0],
        resource_type="experiment",
        resource_id=experiment_id,
        permission="EDIT",
    )
    taken = sync_here(second, target_at(address))
    assert taken.is_done, taken.message


def test_two_writers_at_once_leave_each_run_once(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    act_as(monkeypatch, WRITER)
    paths = small_runs(tmp_path, ["pair-0", "pair-1"])
    target = target_at(address)
    assert end(start_writers(target, [paths, paths])) == [0, 0]
    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name("chipscale/quick")
    assert experiment is not None
    times = times_logged(client.search_runs([experiment.experiment_id]))
    assert (times["pair-0"], times["pair-1"]) == (1, 1)
