"""Reads what the gate keeps between its runs: one JSON object with its schema version."""

import json
from pathlib import Path
from typing import TypeVar

from harness.codec import from_json
from harness.errors import NewerRecordError, RecordError

T = TypeVar("T")


def read_versioned(path: Path, kind: type[T], version: int, remedy: str) -> T:
    """The value in that file; the empty one where there is no such file.

    Args:
        path: the file.
        kind: what it holds; it has the field `schema_version`, and can be made of nothing.
        version: the newest schema that this chipscale reads.
        remedy: a sentence on what to do where the file is damaged.

    Raises:
        RecordError: when it cannot be read; NewerRecordError when a newer chipscale wrote it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return kind()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read ({error}). {remedy}") from None
    # Asked first: what a newer schema has is not damage.
    written = _version(text)
    if written is not None and written > version:
        raise NewerRecordError(
            f"{path}: written by a newer chipscale (schema {written}; this one reads up to "
            f"{version}). Update chipscale."
        )
    try:
        return from_json(kind, text, str(path))
    except RecordError as error:
        raise RecordError(f"{error} {remedy}") from None


def _version(text: str) -> int | None:
    try:
        data = json.loads(text)
    except json.JSONDecodeError:
        return None
    found = data.get("schema_version") if isinstance(data, dict) else None
    return found if isinstance(found, int) else None
