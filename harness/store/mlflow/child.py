"""The process that talks to MLflow: a request on standard input, one result a line on output.

Started by `bounded.py`, which stops it when its time is up; what it has printed by then counts.
"""

import getpass
import hashlib
import json
import logging
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from harness.codec import to_json
from harness.errors import ChipscaleError
from harness.store.folder import COMPARISON, PROJECTION, RUN, SERVING, RunFolder
from harness.store.mlflow.bounded import failed
from harness.store.mlflow.comparison_layout import comparison_content
from harness.store.mlflow.database import create_database, lock_of
from harness.store.mlflow.layout import run_content
from harness.store.mlflow.outcome import SyncResult, SyncState
from harness.store.mlflow.projection_layout import projection_content
from harness.store.mlflow.serving_layout import serving_content
from harness.store.mlflow.target import TrackingTarget
from harness.store.mlflow.writer import Written, write_run

PROBE_TIMEOUT_S = 5.0
"""A server that does not answer its health page in this time will not take a run either.

A user who allows MLflow less with MLFLOW_HTTP_REQUEST_TIMEOUT waits less.
"""


def unreachable(target: TrackingTarget) -> str:
    """Why the server cannot be reached, or an empty string; a database always can."""
    if not target.is_server:
        return ""
    wait_s = min(PROBE_TIMEOUT_S, float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", "inf")))
    try:
        with urllib.request.urlopen(f"{target.uri.rstrip('/')}/health", timeout=wait_s):
            return ""
    except urllib.error.HTTPError as error:
        # A proxy may hide the page or ask for a name; only its own failure is ours.
        if error.code < 500:
            return ""
        return f"MLflow at {target.uri} answered {error.code} {error.reason}"
    except TimeoutError:
        return f"MLflow at {target.uri} did not answer within {wait_s:g} s"
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return f"MLflow at {target.uri} did not answer within {wait_s:g} s"
        return f"MLflow at {target.uri} cannot be reached ({reason})"


def writer_lock(target: TrackingTarget) -> FileLock:
    """Held while writing: two syncs of one folder at once would each find it missing in MLflow."""
    database = target.database_path
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
        return lock_of(database)
    name = hashlib.sha256(f"{getpass.getuser()} {target.uri}".encode()).hexdigest()[:16]
    return FileLock(Path(tempfile.gettempdir()) / f"chipscale-{name}.lock")


def _message(folder: RunFolder, written: list[Written], state: SyncState, uri: str) -> str:
    verb = {
        SyncState.CREATED: "logged to",
        SyncState.COMPLETED: "brought up to date in",
        SyncState.UNCHANGED: "already in",
    }[state]
    what = "The run" if (folder.path / RUN).exists() else "The projection"
    if (folder.path / COMPARISON).exists():
        what = "The comparison"
    if len(written) == 2:
        what = "The run and its projection"
    be = "are" if len(written) == 2 else "is"
    return f"{what} {be} {verb} MLflow at {uri}."


def sync_folder(
    client: MlflowClient, target: TrackingTarget, folder: RunFolder, vendors: Mapping[str, str]
) -> SyncResult:
    """The folder's run and its projection, each its own MLflow run."""
    began = time.monotonic()
    run = projected = None
    is_projection = any((folder.path / name).exists() for name in (PROJECTION, SERVING, COMPARISON))
    if (folder.path / RUN).exists() or not is_projection:
        run = write_run(client, target, run_content(folder, vendors))
    projection = folder.projection
    if projection is not None:
        projected = write_run(client, target, projection_content(folder, projection))
    comparison = folder.comparison
    if comparison is not None:
        run = write_run(client, target, comparison_content(folder, comparison))
    serving = folder.serving
    if serving is not None:
        projected = write_run(client, target, serving_content(folder, serving))
    written = [one for one in (run, projected) if one is not None]
    states = {one.state for one in written}
    state = states.pop() if len(states) == 1 else SyncState.COMPLETED
    return SyncResult(
        folder=str(folder.path),
        state=state,
        message=_message(folder, written, state, target.uri),
        experiment_id=run.experiment_id if run else "",
        run_id=run.run_id if run else "",
        projection_experiment_id=projected.experiment_id if projected else "",
        projection_run_id=projected.run_id if projected else "",
        seconds=time.monotonic() - began,
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def folder_result(
    client: MlflowClient, target: TrackingTarget, path: Path, vendors: Mapping[str, str]
) -> SyncResult:
    """The same, with whatever goes wrong as a result that says so."""
    try:
        return sync_folder(client, target, RunFolder(path), vendors)
    except ChipscaleError as error:
        return failed(path, _first_line(error))
    except MlflowException as error:
        return failed(path, f"MLflow at {target.uri} refused the run ({_first_line(error)})")
    except Exception as error:  # noqa: BLE001,RUF100 - one folder must not cost the others
        return failed(path, f"{type(error).__name__}: {_first_line(error)}")


def main() -> None:
    """Read the request, sync each folder, print each result as soon as it is there."""
    request = json.load(sys.stdin)
    target = TrackingTarget(
        uri=request["uri"], artifact_root=request["artifact_root"], ui_url=request["ui_url"]
    )
    paths = [Path(path) for path in request["folders"]]
    # MLflow prints links and progress where it likes; results must stay alone.
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.disable(logging.WARNING)

    def tell(result: SyncResult) -> None:
        output.write(to_json(result) + "\n")
        output.flush()

    why = unreachable(target)
    if why:
        for path in paths:
            tell(failed(path, why))
        return
    database = target.database_path
    with writer_lock(target):
        if database is not None:
            create_database(database)
        client = MlflowClient(tracking_uri=target.uri, registry_uri=target.uri)
        for path in paths:
            tell(folder_result(client, target, path, request["vendors"]))


if __name__ == "__main__":
    main()
