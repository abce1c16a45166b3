"""Whether a server is there at all, asked before the seconds that importing MLflow takes."""

import os
import urllib.error
import urllib.request

from harness.store.mlflow.target import TrackingTarget

PROBE_TIMEOUT_S = 5.0
"""A server that does not answer its health page in this time will not take a run either.

A user who allows MLflow less with MLFLOW_HTTP_REQUEST_TIMEOUT waits less.
"""


def unreachable(target: TrackingTarget, within_s: float = PROBE_TIMEOUT_S) -> str:
    """Why the server cannot be reached, or an empty string; a database always can."""
    if not target.is_server:
        return ""
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
