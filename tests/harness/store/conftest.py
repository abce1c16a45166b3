import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.store.mlflow import TrackingTarget, prepare, tracking_target


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; some seconds to make, so it is made once and copied."""
    results = tmp_path_factory.mktemp("database")
    target = tracking_target(results, {})
    assert prepare(target) == ""
    path = target.database_path
    assert path is not None
    return path


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
