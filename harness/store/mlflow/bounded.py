"""sync(): everything MLflow, in a child process that is stopped when its time is up.

A child process, since MLflow can wait in places no time-out of ours reaches (measured with its
own defaults: 20 minutes for one call to a server that accepts and never answers), and since it
logs, warns and sets process-wide state, which stay in the child.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import harness
from harness.codec import from_json
from harness.errors import RecordError
from harness.store.folder import RunFolder
from harness.store.mlflow.outcome import SyncResult, SyncState
from harness.store.mlflow.probe import unreachable
from harness.store.mlflow.target import TrackingTarget

BUDGET_S = 30.0
"""The longest that a measurement's end may wait for MLflow, whatever it does."""
BOUNDED_HTTP = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
"""Used unless the user set them: MLflow's own wait 4 minutes for a server that is not there."""
QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "GIT_PYTHON_REFRESH": "quiet",
    "PYTHONWARNINGS": "ignore",
}
INSTALL = "MLflow is not installed (`pip install mlflow` adds it)"


def child_environment(target: TrackingTarget) -> dict[str, str]:
    """What a process that talks to MLflow runs in: quiet, and patient for seconds only."""
    here = str(Path(harness.__file__).resolve().parent.parent)
    path = os.environ.get("PYTHONPATH", "")
    environment = {**BOUNDED_HTTP, **os.environ, **QUIET}
    environment["PYTHONPATH"] = f"{here}{os.pathsep}{path}" if path else here
    if target.artifact_root is not None:
        # Else MLflow's Default experiment makes a folder `mlruns` wherever the user stands.
        environment["_MLFLOW_SERVER_ARTIFACT_ROOT"] = target.artifact_root
    return environment


def failed(folder: Path, why: str) -> SyncResult:
    """The result that says what happened, that nothing is lost, and how to try again."""
    return SyncResult(
        folder=str(folder),
        state=SyncState.FAILED,
        message=f"{why}. Nothing is lost: `chipscale sync {folder}` logs it later.",
    )


def _request(
    target: TrackingTarget,
    paths: Sequence[Path],
    vendors: Mapping[str, str],
    patience_s: float = 0.0,
) -> str:
    return json.dumps(
        {
            "uri": target.uri,
            "artifact_root": target.artifact_root,
            "ui_url": target.ui_url,
            "synced_file": None if target.synced_file is None else str(target.synced_file),
            "folders": [str(path) for path in paths],
            "vendors": dict(vendors),
            "patience_s": patience_s,
        }
    )


def _run_child(
    request: str,
    target: TrackingTarget,
    budget_s: float,
    tell: Callable[[SyncResult], None] | None = None,
) -> tuple[dict[str, SyncResult], str]:
    """What became of each folder by then, and why the child did not finish, if it did not."""
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            # -P: a file of the user's folder must not stand in for a module.
            [sys.executable, "-P", "-m", "harness.store.mlflow.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=child_environment(target),
        )
        results: dict[str, SyncResult] = {}
        reader = threading.Thread(target=_collect, args=(child, results, tell), daemon=True)
        reader.start()
        why = ""
        try:
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError), child.stdin:
                child.stdin.write(request)
            child.wait(max(budget_s, 0.0))
        except subprocess.TimeoutExpired:
            why = f"MLflow at {target.shown} was not done after {budget_s:.0f} s"
        finally:
            child.kill()
            child.wait()
            reader.join()
            assert child.stdout is not None
            child.stdout.close()
        if not why:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
            otherwise = f"MLflow's process ended with exit code {child.returncode}"
            why = lines[-1].rstrip(".") if lines and child.returncode else otherwise
    return results, why


def _collect(
    child: subprocess.Popen[str],
    results: dict[str, SyncResult],
    tell: Callable[[SyncResult], None] | None,
) -> None:
    """Each result as soon as it is there."""
    assert child.stdout is not None
    for line in child.stdout:
        try:
            result = from_json(SyncResult, line)
        except RecordError:
            continue  # The line the child was writing when its time was up.
        results[result.folder] = result
        if tell is not None:
            tell(result)


def sync(
    folders: Sequence[RunFolder],
    target: TrackingTarget,
    *,
    budget_s: float = BUDGET_S,
    vendors: Mapping[str, str] | None = None,
    patience_s: float = 0.0,
    tell: Callable[[SyncResult], None] | None = None,
) -> tuple[SyncResult, ...]:
    """Fill MLflow from the folders: each exactly once, however often this is called.

    Never raises for MLflow, and never takes longer than the budget; a folder that was not
    reached in it has a result that says so.

    Args:
        folders: Runs, with or without a projection; or a projection alone.
        target: From `tracking_target`.
        budget_s: For all folders together; a user who asked for nothing else can wait longer.
        vendors: Chip name to vendor, for the tag `vendor`.
        patience_s: How long a server that goes away meanwhile is waited for, each time.
        tell: Called with each folder's result as soon as it is there, from another thread.
    """
    if not folders:
        return ()
    paths = [folder.path.resolve() for folder in folders]
    began = time.monotonic()
    why = ""
    if importlib.util.find_spec("mlflow") is None:
        why = INSTALL
    why = why or target.mistake or unreachable(target, budget_s)
    results: dict[str, SyncResult] = {}
    if not why:
        request = _request(target, paths, vendors or {}, patience_s)
        left_s = budget_s - (time.monotonic() - began)
        results, why = _run_child(request, target, left_s, tell)
    for path in paths:
        if str(path) not in results:
            results[str(path)] = failed(path, why)
            if tell is not None:
                tell(results[str(path)])
    return tuple(results[str(path)] for path in paths)


def prepare(target: TrackingTarget, *, budget_s: float = 120.0) -> str:
    """Make the embedded database if there is none; empty, or why it could not be made."""
    if target.mistake:
        return target.mistake
    path = target.database_path
    if path is None or path.exists():
        return ""
    _, why = _run_child(_request(target, (), {}), target, budget_s)
    return "" if path.exists() else why
