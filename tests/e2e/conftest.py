"""What every end-to-end test begins with; MLflow's own client reads results back."""

import shutil
import warnings
from pathlib import Path

import pytest

# MLflow's database models raise deprecation warnings of SQLAlchemy once, when they are first
# imported; with warnings as errors they would stay half configured for the whole session.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, fresh_database: Path) -> Path:
    """One results folder for a file of tests, with an MLflow database that has no run yet."""
    folder = tmp_path_factory.mktemp("results")
    shutil.copy(fresh_database, folder / "mlflow.db")
    return folder


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
