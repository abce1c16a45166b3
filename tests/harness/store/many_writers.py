"""Processes that log folders at the same moment, and what MLflow then has of them."""

import multiprocessing
from collections import Counter
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TYPE_CHECKING

from harness.store.mlflow import SyncResult, TrackingTarget

if TYPE_CHECKING:
    from mlflow.entities import Run

FORK = multiprocessing.get_context("fork")
"""MLflow, imported once here, need not be imported by each process: 3 s of a processor."""


def _write(
    target: TrackingTarget, paths: Sequence[Path], patience_s: float, barrier: Barrier
) -> None:
    from harness.store.mlflow.child import open_session, sync_all

    results: list[SyncResult] = []
    barrier.wait(60)
    sync_all(open_session(target, {}), paths, patience_s, results.append)
    failures = [result.message for result in results if not result.is_done]
    assert not failures, failures
    assert len(results) == len(paths)


def start_writers(
    target: TrackingTarget, paths_of_each: Sequence[Sequence[Path]], patience_s: float = 0.0
) -> list[multiprocessing.process.BaseProcess]:
    """A process for each list of folders; all begin at the same moment."""
    import harness.store.mlflow.child  # noqa: F401 - before they part

    barrier = FORK.Barrier(len(paths_of_each))
    writers: list[multiprocessing.process.BaseProcess] = [
        FORK.Process(target=_write, args=(target, paths, patience_s, barrier), daemon=True)
        for paths in paths_of_each
    ]
    for writer in writers:
        writer.start()
    return writers


def end(
    writers: Sequence[multiprocessing.process.BaseProcess], within_s: float = 120
) -> list[int | None]:
    """Their exit codes."""
    for writer in writers:
        writer.join(within_s)
    return [writer.exitcode for writer in writers]


def runs_of(target: TrackingTarget, experiment: str = "chipscale/quick") -> "list[Run]":
    """All that are not deleted."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=target.uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id], max_results=5000))


def times_logged(runs: "Sequence[Run]") -> Counter[str]:
    """How many runs there are of each run folder."""
    return Counter(run.data.tags["chipscale.run_uid"] for run in runs)
