"""Whether a server is there at all, asked before the seconds that importing MLflow takes."""

import os
import socket
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from harness.store.mlflow.target import TrackingTarget

PROBE_TIMEOUT_S = 5.0
"""A server that does not answer its health page in this time will not take a run either.

A user who allows MLflow less with MLFLOW_HTTP_REQUEST_TIMEOUT waits less.
"""

_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Where a URI names none."""


def unreachable(target: TrackingTarget, within_s: float = PROBE_TIMEOUT_S) -> str:
    """Why the server cannot be reached, or an empty string; a file always can."""
    if not target.is_server:
        return _of_database(target, min(within_s, PROBE_TIMEOUT_S))
    wait_s = min(
        within_s, PROBE_TIMEOUT_S, float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", "inf"))
    )
    where = f"MLflow at {target.shown}"
    try:
        with urllib.request.urlopen(f"{target.ui_url}/health", timeout=wait_s):
            return ""
    except urllib.error.HTTPError as error:
        # A proxy may hide the page or ask for a name; only its own failure is ours.
        return "" if error.code < 500 else f"{where} answered {error.code} {error.reason}"
    except TimeoutError:
        return f"{where} did not answer within {wait_s:g} s"
    except OSError as error:
        cause = getattr(error, "reason", error)
        if isinstance(cause, TimeoutError):
            return f"{where} did not answer within {wait_s:g} s"
        return f"{where} cannot be reached ({cause})"


def _of_database(target: TrackingTarget, wait_s: float) -> str:
    """The same of PostgreSQL and its like on a host; MLflow itself tries for two minutes."""
    try:
        address = urlsplit(target.uri)
        port = address.port or _PORTS.get(address.scheme.partition("+")[0])
    except ValueError:
        return ""
    if not address.hostname or port is None:
        return ""
    try:
        socket.create_connection((address.hostname, port), timeout=wait_s).close()
    except OSError as error:
        return f"The database {target.shown} cannot be reached ({error})"
    return ""
