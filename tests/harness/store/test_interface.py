import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from harness.errors import ChipscaleError
from harness.store.interface import free_port, landing_link, running_server, serve
from harness.store.mlflow import SyncState, TrackingTarget, sync, tracking_target
from tests.harness.sample_run import sample_info, sample_projection, sample_records, write_run


def test_a_port_that_is_taken_is_replaced_by_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(port) not in (0, port)
    assert free_port(port) == port


def test_a_server_elsewhere_is_only_linked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    said: list[str] = []
    serve(tracking_target(Path("/r"), {"MLFLOW_TRACKING_URI": url}), tell=said.append)
    assert said == [f"MLflow: {url}/#/experiments?workflowType=machine_learning"]


def test_a_server_that_does_not_start_says_why(target: TrackingTarget) -> None:
    assert target.database_path is not None
    target.database_path.write_bytes(b"this is no database, but long enough to look like one")
    with pytest.raises(ChipscaleError, match="did not start"), running_server(target, 0):
        pass


@pytest.mark.slow
def test_the_server_lands_on_the_newest_suite_takes_runs_over_http_and_stops(
    tmp_path: Path, target: TrackingTarget
) -> None:
    runs = tmp_path / "results" / "runs"
    folder = write_run(runs, records=sample_records()[:6], projection=sample_projection())
    (local,) = sync([folder], target)
    with running_server(target, 0) as (served, _):
        link = landing_link(served)
        assert link == (
            f"{served.ui_url}/#/experiments/{local.experiment_id}/runs"
            "?workflowType=machine_learning&viewStateShareKey=latest"
        )
        remote = tracking_target(tmp_path, {"MLFLOW_TRACKING_URI": served.ui_url})
        (again,) = sync([folder], remote)
        assert (again.state, again.run_id) == (SyncState.UNCHANGED, local.run_id)
        info = sample_info(run_id="another")
        other = write_run(tmp_path / "other", records=sample_records()[:6], info=info)
        (created,) = sync([other], remote)
        assert created.state is SyncState.CREATED
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(served.ui_url, timeout=2)


@pytest.mark.slow
def test_a_kill_leaves_no_server_behind(target: TrackingTarget) -> None:
    code = (
        "import sys; from pathlib import Path; from harness.store.interface import serve\n"
        "from harness.store.mlflow import tracking_target\n"
        "serve(tracking_target(Path(sys.argv[1]), {}), 0, tell=lambda s: print(s, flush=True))\n"
    )
    assert target.database_path is not None
    shown = subprocess.Popen(
        [sys.executable, "-c", code, str(target.database_path.parent)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert shown.stdout is not None
    assert shown.stdout.readline().startswith("Starting")
    link = shown.stdout.readline()
    address = link.split()[1].partition("/#")[0]
    shown.send_signal(signal.SIGTERM)
    assert shown.wait(20) == 0
    shown.stdout.close()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address, timeout=2)
