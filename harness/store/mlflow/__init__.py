"""MLflow filled from run folders: a view of them that may be away, and can be filled again.

    target.py      where MLflow is, and links into its UI
    bounded.py     sync(): all of it in a child process with a deadline
    outcome.py     what became of each folder
    child.py       that process: one folder after the other
    layout.py      a folder -> what MLflow shall hold (pure)
    projection_layout.py   a projection -> what MLflow shall hold (pure)
    comparison_layout.py   several runs against one another -> what MLflow shall hold (pure)
    serving_layout.py      a projection of serving -> what MLflow shall hold (pure)
    keys.py        a case -> its metric key and step (pure)
    views.py       the saved views of an experiment (pure)
    writer.py      brings one MLflow run to what the layout says, however often
    database.py    the embedded SQLite database, made whole or not at all

Only child, writer and database import mlflow, so the command line stays quick.
"""

from harness.store.mlflow.bounded import prepare, sync
from harness.store.mlflow.outcome import SyncResult, SyncState
from harness.store.mlflow.target import (
    TrackingTarget,
    experiment_link,
    run_link,
    tracking_target,
)

__all__ = [
    "SyncResult",
    "SyncState",
    "TrackingTarget",
    "experiment_link",
    "prepare",
    "run_link",
    "sync",
    "tracking_target",
]
