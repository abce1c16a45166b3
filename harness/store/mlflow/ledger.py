"""What MLflow holds already, written down beside the results, so that it need not be asked again.

    results/mlflow.synced.<where>.jsonl      a line per folder and sync; the last one counts

A folder is as it was while its files have the names, sizes and times of change that they had.
An entry counts only while MLflow has the experiment that it names, made at the same moment: a
database that was deleted or begun anew is filled again. What a person deleted in MLflow stays so.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from harness import __version__
from harness.codec import from_json, to_json
from harness.errors import RecordError
from harness.store.disk import write_atomically
from harness.store.mlflow.outcome import SyncedRun
from harness.store.mlflow.target import TrackingTarget

MIN_LINES_TO_COMPACT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One folder that MLflow holds."""

    folder: str
    state: str
    """`folder_state` of what was synced."""
    runs: tuple[SyncedRun, ...]
    experiments: tuple[tuple[str, int], ...]
    """The id of each experiment, and when it was made, in milliseconds since 1970."""


def folder_state(folder: Path) -> str:
    """Differs when a file of the folder has changed, or is read by another chipscale.

    An empty string for a folder that cannot be listed, which is never held for unchanged.
    """
    try:
        with os.scandir(folder) as found:
            files = sorted(
                (file.name, file.stat().st_size, file.stat().st_mtime_ns)
                for file in found
                if file.is_file()
            )
    except OSError:
        return ""
    text = json.dumps([__version__, files])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Ledger:
    """The entries of one target; without a file none are kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._entries: dict[str, Entry] = {}
        num_lines = 0
        for line in _lines(path):
            num_lines += 1
            try:
                entry = from_json(Entry, line)
            except RecordError:
                continue  # Cut short, or of another version; its folder is looked at again.
            self._entries[entry.folder] = entry
        self._has_many_old = num_lines > max(MIN_LINES_TO_COMPACT, 2 * len(self._entries))

    def entry(self, folder: Path) -> Entry | None:
        """That of the folder, if it is as it was then."""
        entry = self._entries.get(str(folder))
        state = folder_state(folder) if entry is not None else ""
        return entry if entry is not None and state and entry.state == state else None

    def note(self, entry: Entry) -> None:
        """Keep an entry; best effort, since without it the folder is only looked at again."""
        self._entries[entry.folder] = entry
        if self._path is None or not entry.state:
            return
        try:
            if self._has_many_old:
                self._has_many_old = False
                write_atomically(
                    self._path, "".join(to_json(one) + "\n" for one in self._entries.values())
                )
                return
            # One write of one line: those of other processes come before or after it.
            with self._path.open("a", encoding="utf-8") as file:
                file.write(to_json(entry) + "\n")
        except (OSError, ValueError):
            return


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def open_ledger(target: TrackingTarget) -> Ledger:
    """That of the target."""
    return Ledger(target.synced_file)
