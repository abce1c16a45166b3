"""`chipscale ui`: MLflow's server over the embedded database, on this machine alone.

One worker and no job executor: 2 processes and 0.5 GB instead of 16 processes and 3.3 GB, and it
answers after some 6 s instead of 21 s (MLflow 3.18, two cores).
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from harness.errors import ChipscaleError
from harness.store.mlflow.bounded import QUIET, prepare
from harness.store.mlflow.layout import EXPERIMENT, is_derived
from harness.store.mlflow.target import DEFAULT_PORT, TrackingTarget, experiment_link

HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.2
REQUEST_TIMEOUT_S = 10.0


def free_port(wanted: int) -> int:
    """The wanted port if it is free, else any free one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            # As servers do, so that a port closed a moment ago counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ChipscaleError(f"No port is free on {HOST}.")


def _post(url: str, body: dict[str, object]) -> dict[str, object]:
    request = urllib.request.Request(
        url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as answer:
        data = json.load(answer)
    return data if isinstance(data, dict) else {}


def _items(data: object, key: str) -> list[dict[str, object]]:
    found = data.get(key, []) if isinstance(data, dict) else []
    return [item for item in found if isinstance(item, dict)]


def newest_experiment(url: str) -> str:
    """The id of our experiment with the newest run; empty when there is none.

    What is made from runs counts only when there is nothing else, since it follows nearly every
    run.
    """
    api = f"{url}/api/2.0/mlflow"
    experiments = _post(
        f"{api}/experiments/search",
        {"max_results": 1000, "filter": f"name LIKE '{EXPERIMENT}/%'"},
    )
    found = _items(experiments, "experiments")
    suites = [item for item in found if not is_derived(str(item["name"]))]
    ids = [str(item["experiment_id"]) for item in suites or found]
    if not ids:
        return ""
    runs = _post(
        f"{api}/runs/search",
        {"experiment_ids": ids, "max_results": 1, "order_by": ["attributes.start_time DESC"]},
    )
    newest = _items(runs, "runs")
    info = newest[0].get("info") if newest else None
    return str(info.get("experiment_id", "")) if isinstance(info, dict) else ids[0]


def landing_link(target: TrackingTarget) -> str:
    """The page to open first: the newest run's experiment in its saved view."""
    try:
        experiment_id = newest_experiment(target.ui_url)
    except (OSError, ValueError, KeyError):
        experiment_id = ""
    if not experiment_id:
        return f"{target.ui_url}/#/experiments?workflowType=machine_learning"
    return experiment_link(target, experiment_id)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=REQUEST_TIMEOUT_S):
            return True
    except OSError:
        return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and its worker, which share a process group of their own."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, kind)
        try:
            server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            continue
        return


def _start(target: TrackingTarget, port: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    artifacts = target.artifact_root or str(Path.cwd() / "mlartifacts")
    options = {
        "--workers": "1",
        "--host": HOST,
        "--port": str(port),
        "--backend-store-uri": target.uri,
        "--artifacts-destination": artifacts,
    }
    words = [word for option in options.items() for word in option]
    return subprocess.Popen(
        # -P: a file of the user's folder must not stand in for a module.
        [sys.executable, "-P", "-m", "mlflow", "server", *words],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **QUIET, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        # Ctrl-C reaches us alone, so that the server ends when we say so and not half-way.
        start_new_session=True,
    )


@contextlib.contextmanager
def running_server(
    target: TrackingTarget, port: int = DEFAULT_PORT
) -> Iterator[tuple[TrackingTarget, subprocess.Popen[bytes]]]:
    """A server over the target's database while the block runs: the target with its address.

    Raises:
        ChipscaleError: when the database cannot be made or the server does not start.
    """
    why = prepare(target)
    if why:
        raise ChipscaleError(f"{why}.")
    port = free_port(port)
    served = TrackingTarget(
        uri=target.uri, artifact_root=target.artifact_root, ui_url=f"http://{HOST}:{port}"
    )
    with tempfile.TemporaryFile() as log:
        server = _start(target, port, log)
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not _answers(served.ui_url):
                if server.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    lines = log.read().decode(errors="replace").strip().splitlines()
                    last = lines[-1] if lines else "it said nothing"
                    raise ChipscaleError(f"MLflow's server did not start: {last}")
                time.sleep(POLL_S)
            yield served, server
        finally:
            _stop(server)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Ctrl-C and a polite kill both end the block quietly, so that no server is left behind."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    held = {kind: signal.signal(kind, interrupt) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        for kind, handler in held.items():
            signal.signal(kind, handler)


def serve(
    target: TrackingTarget, port: int = DEFAULT_PORT, *, tell: Callable[[str], None] = print
) -> None:
    """Serve MLflow's UI until Ctrl-C, and tell the link that lands on the right page.

    A target that is a server has its UI already, so only the link is told.

    Raises:
        ChipscaleError: when the server does not start.
    """
    if target.is_server:
        tell(f"MLflow: {landing_link(target)}")
        return
    tell("Starting MLflow's server ...")
    with _ended_by_signals(), running_server(target, port) as (served, server):
        tell(f"MLflow: {landing_link(served)}")
        tell("Ctrl-C stops it.")
        server.wait()
        raise ChipscaleError("MLflow's server ended by itself; `chipscale ui` starts it again.")
