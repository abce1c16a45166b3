"""The history that MLflow keeps of a suite, read in a child process with a deadline."""

import importlib.util
import json
import subprocess
import sys

from harness.codec import from_json
from harness.errors import RecordError
from harness.store.mlflow.bounded import INSTALL, child_environment
from harness.store.mlflow.probe import unreachable
from harness.store.mlflow.target import TrackingTarget
from harness.trend import HistoryRun

READ_BUDGET_S = 120.0
"""Some hundred runs take seconds; whoever asks for a baseline cannot go on without it."""
MAX_RUNS = 500
"""The newest that are looked at: two years of nights."""


def mlflow_history(
    target: TrackingTarget,
    tags: dict[str, str],
    *,
    max_runs: int = MAX_RUNS,
    budget_s: float = READ_BUDGET_S,
) -> tuple[HistoryRun, ...]:
    """The runs of a suite with those tags, oldest first; sides of a gate are none.

    Args:
        target: From `tracking_target`.
        tags: `suite` has to be among them; `chip`, `git_branch`, `fingerprint` narrow it down.
        max_runs: The newest that are read.
        budget_s: All of it takes no longer.

    Raises:
        RecordError: when MLflow is away, too slow, or cannot be read, in one line.
    """
    assert "suite" in tags, "an experiment is that of a suite"
    why = target.mistake or unreachable(target, budget_s)
    if importlib.util.find_spec("mlflow") is None:
        why = INSTALL
    database = target.database_path
    if not why and database is not None and not database.exists():
        why = f"{database}: no MLflow database there yet; a run that is logged makes it"
    if why:
        raise RecordError(f"history: {why}.")
    request = json.dumps({"uri": target.uri, "tags": tags, "max_runs": max_runs})
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "harness.store.mlflow.history_child"],
            input=request,
            capture_output=True,
            text=True,
            timeout=budget_s,
            env=child_environment(target),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RecordError(
            f"history: MLflow at {target.shown} was not done after {budget_s:.0f} s. Ask for "
            "less with model=, chip=, branch= and fingerprint=."
        ) from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        said = lines[-1].rstrip(".") if lines else f"exit code {done.returncode}"
        raise RecordError(f"history: {said}.")
    return tuple(from_json(HistoryRun, line) for line in done.stdout.splitlines())
