"""records.jsonl: a line is appended whole or not at all, and damage costs its own line alone.

A last line without an end was cut short by a crash and is no record. Any other line that cannot be
read is damaged: a reader leaves it out and tells of it, and whoever writes on in the file first
moves it to `records.quarantined.jsonl`, so that its case is measured again.
"""

import contextlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.codec import from_data, from_json, to_json
from harness.errors import NewerRecordError, RecordError, UnknownKeyError
from harness.record import SCHEMA_VERSION, Record
from harness.store.disk import remove_unfinished, storing, write_all, write_atomically

MAX_REASON_CHARACTERS = 200
"""A reason may quote the value it is about, and a damaged line has long ones."""


def quarantine_of(path: Path) -> Path:
    """Where damaged lines of that file of records go."""
    return path.with_suffix(".quarantined.jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedLine:
    """A line that holds no record."""

    line: int
    """Its number in the file it was found in, from 1."""
    reason: str
    text: str
    """Its bytes, each as the character of that number (latin-1), so that none is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordLines:
    """What a file of records holds."""

    records: tuple[Record, ...] = ()
    """In the order they were made."""
    damaged: tuple[DamagedLine, ...] = ()
    sound: bytes = b""
    """The lines of the records, as they are in the file."""


def read_records(path: Path) -> RecordLines:
    """All whole records of the file, and the lines that are none.

    Raises:
        NewerRecordError: when a newer chipscale wrote them. That is said of a higher schema version
            anywhere, and of an unknown key where no line at all can be read: one line with such a
            key among good ones is damaged.
    """
    if not path.exists():
        return RecordLines()
    records: list[Record] = []
    sound: list[bytes] = []
    damaged: list[DamagedLine] = []
    unknown_key: UnknownKeyError | None = None
    # Split as bytes: in damaged text other characters than this one would end a line too.
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        try:
            records.append(_record(line, where))
            sound.append(line + b"\n")
        except NewerRecordError:
            raise
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            if isinstance(error, UnknownKeyError):
                unknown_key = error
            damaged.append(
                DamagedLine(
                    line=number,
                    reason=str(error).replace(where, "record")[:MAX_REASON_CHARACTERS],
                    text=line.decode("latin-1"),
                )
            )
    if unknown_key is not None and not records:
        raise NewerRecordError(f"{unknown_key} Update chipscale.")
    return RecordLines(records=tuple(records), damaged=tuple(damaged), sound=b"".join(sound))


def _record(line: bytes, where: str) -> Record:
    """Raises NewerRecordError, and for damage whatever reading it raises."""
    data = json.loads(line.decode("utf-8"))
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise NewerRecordError(
            f"{where}: schema version {version} is newer than this chipscale reads "
            f"({SCHEMA_VERSION}). Update chipscale."
        )
    record = from_data(Record, data, where)
    assert isinstance(record, Record)
    samples_s = record.measurement.samples_s if record.measurement is not None else (0.0,)
    if not samples_s or not all(0 <= sample_s < math.inf for sample_s in samples_s):
        raise RecordError(f"{where}.measurement.samples_s: not all are times.")
    return record


def read_quarantined(path: Path) -> tuple[DamagedLine, ...]:
    """The damaged lines that were moved to that file; what cannot be read of it is left out."""
    if not path.exists():
        return ()
    lines: list[DamagedLine] = []
    for text in path.read_text(encoding="ascii", errors="replace").split("\n"):
        with contextlib.suppress(RecordError):
            lines.append(from_json(DamagedLine, text))
    return tuple(lines)


def damage_text(lines: Sequence[DamagedLine]) -> str:
    """`Damaged records: line 7 (not JSON) and 2 more`; the beginning of a sentence."""
    more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
    return f"Damaged records: line {lines[0].line} ({lines[0].reason.rstrip('.')}){more}"


def repair(path: Path) -> tuple[DamagedLine, ...]:
    """Make the file fit to be appended to; gives the damaged lines that were moved out of it.

    Raises:
        NewerRecordError: when a newer chipscale wrote it; nothing is changed then.
        StorageError: when the disk does not take the change; nothing is lost then.
    """
    remove_unfinished(path)
    found = read_records(path)
    if found.damaged:
        # Put there before it is taken here, so that a crash in between loses nothing.
        quarantine = quarantine_of(path)
        held = read_quarantined(quarantine)
        kept = (*held, *(line for line in found.damaged if line not in held))
        write_atomically(quarantine, "".join(to_json(line) + "\n" for line in kept))
        write_atomically(path, found.sound)
    else:
        with storing(path):
            cut_incomplete_line(path)
    return found.damaged


def cut_incomplete_line(path: Path) -> None:
    """Remove a last line that a crash cut short: it is not a record, and the next would join it."""
    if not path.exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        with path.open("rb+") as file:
            file.truncate(data.rfind(b"\n") + 1)


class RecordWriter:
    """The file, open for its only writer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with storing(path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def append(self, record: Record) -> None:
        """Write the record and make sure that it is on disk.

        Raises:
            StorageError: when the disk does not take it; nothing of it is in the file then.
        """
        line = (to_json(record) + "\n").encode("ascii")
        size_bytes = os.fstat(self._descriptor).st_size
        with storing(self._path):
            try:
                write_all(self._descriptor, line)
                os.fsync(self._descriptor)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, size_bytes)
                raise

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)
