import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from harness.errors import ChipscaleError
from harness.store.interface import free_port, running_server, serve
from harness.store.mlflow import SyncState, TrackingTarget, sync, tracking_target
from harness.store.mlflow.layout import is_derived
from tests.harness.sample_run import sample_info, sample_projection, sample_records, write_run


def test_a_port_that_is_taken_is_replaced_by_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(port) not in (0, port)
    assert free_port(port) == port


def test_what_is_made_from_runs_is_no_suite() -> None:
    made = ("chipscale/gate", "chipscale/gate/quick", "chipscale/projection")
    assert all(is_derived(name) for name in made)
    assert not any(is_derived(name) for name in ("chipscale/quick", "chipscale/gateway"))


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
def test_the_ui_lands_on_the_newest_suite_takes_runs_over_http_and_a_kill_leaves_nothing(
    tmp_path: Path, target: TrackingTarget
) -> None:
    records, results = sample_records()[:6], tmp_path / "results"
    folder = write_run(results / "runs", records=records, projection=sample_projection())
    (local,) = sync([folder], target)
    code = (
        "import sys; from pathlib import Path; from harness.store.interface import serve\n"
        "from harness.store.mlflow import tracking_target\n"
        "serve(tracking_target(Path(sys.argv[1]), {}), 0, tell=lambda s: print(s, flush=True))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(results)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as shown:
        try:
            assert shown.stdout is not None
            assert shown.stdout.readline().startswith("Starting")
            address, _, page = shown.stdout.readline().split()[1].partition("/#")
            assert page == (
                f"/experiments/{local.experiment_id}/runs"
                "?workflowType=machine_learning&viewStateShareKey=latest"
            )
            remote = tracking_target(tmp_path, {"MLFLOW_TRACKING_URI": address})
            other = write_run(tmp_path, records=records, info=sample_info(run_id="another"))
            held, created = sync([folder, other], remote)
            assert (held.state, held.run_id) == (SyncState.UNCHANGED, local.run_id)
            assert created.state is SyncState.CREATED
            shown.send_signal(signal.SIGTERM)
            assert shown.wait(20) == 0
        finally:
            # Leaving the block waits for the process, so a failed assertion must end it.
            shown.kill()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address, timeout=2)
