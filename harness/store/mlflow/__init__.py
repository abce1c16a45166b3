"""MLflow filled from run folders: a view of them that may be away, and can be filled again.

    target.py      where MLflow is, and links into its UI
    probe.py       whether a server is there at all
    bounded.py     sync(): all of it in a child process with a deadline
    outcome.py     what became of each folder
    ledger.py      what MLflow holds already, so that unchanged folders cost nothing
    child.py       that process: one folder after the other, and what it does in an outage
    reasons.py     what MLflow's errors mean, in one line
    kinds.py       what a folder may hold, and the layout of each (pure)
    layout.py      a run -> what MLflow shall hold (pure)
    projection_layout.py   a projection -> what MLflow shall hold (pure)
    serving_layout.py      a projection of serving -> what MLflow shall hold (pure)
    gate_layout.py         a gate and its two sides -> what MLflow shall hold (pure)
    keys.py        a case -> its metric key and step (pure)
    views.py       the saved views of an experiment (pure)
    experiments.py the experiments that runs go to, found or made
    keeper.py      one MLflow run for each uid, whoever else writes it
    writer.py      brings one MLflow run to what the layout says, however often
    database.py    the embedded SQLite database, made whole or not at all
    history.py     the runs of the past that MLflow keeps, read by history_child.py

Only child, history_child, reasons, experiments, keeper, writer and database import mlflow, so the
command line stays quick.
"""

from harness.store.mlflow.bounded import prepare, sync
from harness.store.mlflow.outcome import SyncedRun, SyncResult, SyncState
from harness.store.mlflow.target import (
    TrackingTarget,
    experiment_link,
    run_link,
    tracking_target,
)

__all__ = [
    "SyncResult",
    "SyncState",
    "SyncedRun",
    "TrackingTarget",
    "experiment_link",
    "prepare",
    "run_link",
    "sync",
    "tracking_target",
]
