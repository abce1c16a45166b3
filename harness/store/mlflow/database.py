"""The embedded SQLite database: made whole or not at all, by one process at a time."""

import os
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient

from harness.store.mlflow.target import SQLITE


def lock_of(path: Path) -> FileLock:
    """The lock that whoever writes the database holds: `mlflow.lock` beside `mlflow.db`."""
    return FileLock(path.with_suffix(".lock"))


def create_database(path: Path) -> bool:
    """Create the database where there is none; true if it was created now. Hold the lock.

    MLflow runs about 60 migrations on a new file, some seconds that no other process may join:
    of 18 processes that opened one fresh file at once, 16 died. They are not transactional, so
    they run on a file of another name: one that is stopped half-way leaves no broken database.
    """
    if path.exists() and path.stat().st_size > 0:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        MlflowClient(tracking_uri=f"{SQLITE}{temporary}").search_experiments(max_results=1)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True
