import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.store.mlflow import TrackingTarget, tracking_target


@pytest.fixture
def target(tmp_path: Path, fresh_database: Path) -> TrackingTarget:
    results = tmp_path / "results"
    results.mkdir(exist_ok=True)
    shutil.copy(fresh_database, results / "mlflow.db")
    return tracking_target(results, {})


@pytest.fixture
def quiet_mlflow() -> Iterator[None]:
    """MLflow read back in this process may warn of its own dependencies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
