"""Where MLflow is, and links that land on the right page of its UI."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import quote, urlsplit

from harness.errors import did_you_mean

SQLITE = "sqlite:///"
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
"""MLflow's own; a folder of files, its first store, is no longer taken by version 3.17."""
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
    synced_file: Path | None = None
    """Where is written down what MLflow holds already; None where that is not kept."""

    @property
    def shown(self) -> str:
        """The URI as people and logs may see it: without a password."""
        return re.sub(r"(://[^/@:]*):[^/]*@", r"\1:***@", self.uri)

    @property
    def mistake(self) -> str:
        """What is wrong with the URI itself, with what to do; empty when nothing is."""
        scheme, separator, rest = self.uri.partition(":")
        allowed = (*SCHEMES, *(one.name for one in entry_points(group="mlflow.tracking_store")))
        takes = (
            "MLflow is at http://HOST:PORT, https://HOST, sqlite:////ABSOLUTE/PATH.db, or "
            "postgresql+psycopg2://USER@HOST/NAME"
        )
        where = f"MLFLOW_TRACKING_URI: '{self.shown}'"
        if self.uri == "databricks":
            return ""
        if not separator or scheme == "file":
            return f"{where} is a folder, which MLflow no longer takes as a store. {takes}"
        if scheme.partition("+")[0] not in allowed:
            return (
                f"{where} begins with no scheme of MLflow's. {did_you_mean(scheme, allowed)}{takes}"
            )
        if scheme == "sqlite" and not rest.startswith("///"):
            return f"{where} has too few slashes: sqlite:////ABSOLUTE/PATH.db has four"
        if self.is_server:
            try:
                address = urlsplit(self.uri)
                has_host = bool(address.hostname) and address.port != 0
            except ValueError:
                has_host = False
            if not has_host or re.search(r"\s", self.uri):
                return f"{where} names no host and port that could be. {takes}"
        return ""

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
        bare = re.sub(r"://[^/]*@", "://", uri.rstrip("/"))
        return TrackingTarget(
            uri=uri, artifact_root=None, ui_url=bare, synced_file=_synced_file(results, uri)
        )
    if not uri:
        uri = f"{SQLITE}{results.resolve() / 'mlflow.db'}"
    elif uri.startswith(SQLITE):
        uri = f"{SQLITE}{Path(uri.removeprefix(SQLITE)).resolve()}"
    artifact_root = str(results.resolve() / "mlartifacts")
    return TrackingTarget(
        uri=uri,
        artifact_root=artifact_root,
        ui_url=ui_url,
        synced_file=_synced_file(results, uri),
    )


def _synced_file(results: Path, uri: str) -> Path:
    """One for each place, by a hash since a URI may hold a password."""
    name = hashlib.sha256(uri.encode()).hexdigest()[:8]
    return results.resolve() / f"mlflow.synced.{name}.jsonl"


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
