"""Why MLflow did not take a run, as one line for people that says what to do.

MLflow, SQLAlchemy and requests tell it in many ways, some of them pages long.
"""

import os
import re
import sqlite3
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException, RestException
from sqlalchemy.exc import OperationalError

from harness.errors import ChipscaleError
from harness.store.mlflow.target import TrackingTarget

MAX_CHARACTERS = 300
_NETWORK = ("Connection", "Timeout", "ChunkedEncodingError", "SSLError", "ProtocolError")
"""What the names of the errors of requests and urllib3 hold when a server is gone or slow."""


def first_line(error: BaseException) -> str:
    """The error's text up to its first line's end, or its type when it has none."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:MAX_CHARACTERS]


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__ or at.__context__
    return found


def _status(error: BaseException) -> int | None:
    """The HTTP status that the server answered with, if it is told."""
    response = getattr(error, "response", None)
    if response is not None:
        return int(response.status_code)
    told = re.search(r"(?:failed with|with) error code (\d{3})", str(error))
    if told:
        return int(told.group(1))
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())  # type: ignore[no-untyped-call]
    return None


def is_conflict(error: BaseException) -> bool:
    """Whether another writer was quicker, so that the same goes well at once.

    MLflow reads before it writes, and its server runs writers side by side: two that add one tag
    both find none. SQLite and PostgreSQL word it so.
    """
    text = str(error)
    return "UNIQUE constraint failed" in text or "duplicate key value" in text


def is_outage(error: BaseException) -> bool:
    """Whether MLflow was away or broken, so that the same may go well later."""
    for one in _chain(error):
        if any(word in type(one).__name__ for word in _NETWORK):
            return True
        if isinstance(one, OperationalError) and not isinstance(one.orig, sqlite3.Error):
            return True
    if isinstance(error, RestException) or "failed with" in str(error):
        return (_status(error) or 0) >= 500
    return False


def _of_schema(found: str, target: TrackingTarget) -> str:
    versions = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    if any(versions.glob(f"{found}_*.py")):
        return (
            f"The database {target.shown} is of an MLflow older than {mlflow.__version__}: back "
            f"it up, then `mlflow db upgrade {target.shown}` brings it up to date"
        )
    return (
        f"The database {target.shown} is of an MLflow newer than {mlflow.__version__} and is left "
        "as it was: `pip install --upgrade mlflow` makes the one here as new"
    )


_SQLITE = {
    "not a database": "is no SQLite database, or a damaged one: move it away, and "
    "`chipscale sync` fills a new one from the run folders",
    "malformed": "is damaged: move it away, and `chipscale sync` fills a new one from the run "
    "folders",
    "locked": "is locked by another program that writes to it",
    "readonly": "may not be written to by this user",
    "unable to open": "cannot be opened: its folder is absent or not this user's",
    "disk is full": "cannot grow: the disk is full",
}
_DRIVERS = {
    "psycopg": "`pip install psycopg2-binary`, and postgresql+psycopg2:// in MLFLOW_TRACKING_URI",
    "psycopg2": "`pip install psycopg2-binary`",
    "MySQLdb": "`pip install pymysql`, and mysql+pymysql:// in MLFLOW_TRACKING_URI",
}


def _of_status(status: int, error: BaseException, target: TrackingTarget) -> str:
    """For the answers that say what to do; else empty."""
    user = os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    if status == 401:
        return (
            f"MLflow at {target.shown} refused the user name or the password"
            f"{f' of {user}' if user else ''}: set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD"
        )
    if status == 403 and "host" in str(error).lower():
        return (
            f"MLflow at {target.shown} does not serve that host name: its administrator adds it "
            "to `mlflow server --allowed-hosts`"
        )
    if status == 403:
        return (
            f"MLflow at {target.shown} does not let {user or 'this user'} write there: an "
            "administrator gives the permission EDIT on the experiment"
        )
    if status == 413:
        return f"MLflow at {target.shown} or its proxy takes no request that large (413)"
    return ""


def reason(error: BaseException, target: TrackingTarget) -> str:
    """What happened and what to do, without the full stop at its end."""
    if isinstance(error, ChipscaleError):
        return first_line(error)
    for one in _chain(error):
        text = str(one)
        schema = re.search(r"out-of-date database schema \(found version (\w+)", text)
        alembic = re.search(r"Can't locate revision identified by '(\w+)'", text)
        if schema or alembic:
            return _of_schema((schema or alembic).group(1), target)  # type: ignore[union-attr]
        if isinstance(one, sqlite3.Error):
            for words, what in _SQLITE.items():
                if words in text:
                    return f"The database {target.database_path or target.shown} {what}"
        if isinstance(one, ModuleNotFoundError) and one.name in _DRIVERS:
            return f"The driver of {target.shown} is not installed: {_DRIVERS[one.name]}"
    told = _of_status(_status(error) or 0, error, target)
    if told:
        return told
    if is_outage(error):
        return f"MLflow at {target.shown} is away or broken ({_without_url(error)})"
    return f"MLflow at {target.shown} refused the run ({_without_url(error)})"


def _without_url(error: BaseException) -> str:
    """The error's last cause, whose text is shorter than what is made of it on the way up."""
    text = re.sub(r"://[^/@\s:]*:[^/@\s]*@", "://***@", first_line(error))
    caused = re.search(r"Caused by (.*)", text)
    text = caused.group(1) if caused else text
    return text if isinstance(error, MlflowException) else f"{type(error).__name__}: {text}"
