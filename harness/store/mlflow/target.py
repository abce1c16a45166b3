"""Where MLflow is, and links that land on the right page of its UI."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

SQLITE = "sqlite:///"
DEFAULT_PORT = 5177
"""Not MLflow's 5000, which macOS and other MLflow servers use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingTarget:
    """A tracking server or database."""

    uri: str
    """`sqlite:////absolute/path/mlflow.db`, `http://host:port`, or what else MLflow takes."""
    artifact_root: str | None
    """Folder for artifacts; None where the server keeps them."""
    ui_url: str
    """Base of the links: the server's own, or where `chipscale ui` serves the database."""

    @property
    def is_server(self) -> bool:
        """It is reached over HTTP, so it may be away and has a UI of its own."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def database_path(self) -> Path | None:
        """The SQLite file, or None for anything else."""
        return Path(self.uri.removeprefix(SQLITE)) if self.uri.startswith(SQLITE) else None


def tracking_target(
    results: Path, environment: Mapping[str, str] = os.environ, *, port: int = DEFAULT_PORT
) -> TrackingTarget:
    """`MLFLOW_TRACKING_URI` where it is set, else a database below the results folder.

    A relative path of a database is taken from the working folder once, here.
    """
    uri = environment.get("MLFLOW_TRACKING_URI", "").strip()
    ui_url = f"http://127.0.0.1:{port}"
    if uri.startswith(("http://", "https://")):
        return TrackingTarget(uri=uri, artifact_root=None, ui_url=uri.rstrip("/"))
    if not uri:
        uri = f"{SQLITE}{results.resolve() / 'mlflow.db'}"
    elif uri.startswith(SQLITE):
        uri = f"{SQLITE}{Path(uri.removeprefix(SQLITE)).resolve()}"
    artifact_root = str(results.resolve() / "mlartifacts")
    return TrackingTarget(uri=uri, artifact_root=artifact_root, ui_url=ui_url)


def run_link(target: TrackingTarget, experiment_id: str, run_id: str) -> str:
    """The page of one run.

    Without `workflowType` MLflow opens its pages for agents, where runs cannot be found.
    """
    return (
        f"{target.ui_url}/#/experiments/{quote(experiment_id)}/runs/{quote(run_id)}"
        "?workflowType=machine_learning"
    )


def experiment_link(target: TrackingTarget, experiment_id: str, view: str = "latest") -> str:
    """The runs of one experiment, in one of our saved views."""
    return (
        f"{target.ui_url}/#/experiments/{quote(experiment_id)}/runs"
        f"?workflowType=machine_learning&viewStateShareKey={quote(view)}"
    )
