"""RunFolder: one run on disk, the truth that MLflow and reports are filled from.

results/runs/<run id>/
    run.json          RunInfo: what was asked for, by whom it was started, when it ended
    config.yaml       the resolved configuration
    cases.json        the cases, as the worker was given them
    environment.json  what ran
    records.jsonl     one Record per line, appended as they are made
    roofs.json        the roofs that the results are held against, and the runs they come from
    projection.json   the projection, once made
    report.html, report.md
"""

import os
import secrets
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.codec import from_json, to_json
from harness.environment import Environment
from harness.errors import RecordError
from harness.projection import Projection
from harness.record import SCHEMA_VERSION, Record
from harness.roofline import Roofline
from harness.roofs import measured_roofs

RECORDS = "records.jsonl"
ENVIRONMENT = "environment.json"
RUN = "run.json"
CASES = "cases.json"
CONFIG = "config.yaml"
PROJECTION = "projection.json"
ROOFS = "roofs.json"
REPORT_HTML = "report.html"
REPORT_MARKDOWN = "report.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What a run is, apart from its results."""

    run_id: str
    suite: str
    model: str
    """Empty when the suite has none."""
    device: str
    """The device asked for: cpu, cuda, fake ..."""
    chip: str
    """Name of the chip in `configs/chip/`, or of the processor where there is no data sheet."""
    num_cases: int
    started_at: str
    """UTC, ISO 8601."""
    ended_at: str = ""
    """Empty while it runs, and after it was stopped before its end."""
    command: str = ""
    tags: tuple[tuple[str, str], ...] = ()


def write_atomically(path: Path, text: str) -> None:
    """Write the file so that a reader, or a crash, sees the old text or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run's folder; reading it never needs a device, torch or MLflow."""

    path: Path

    @property
    def info(self) -> RunInfo:
        """What the run is. Raises RecordError when the folder holds no run."""
        return from_json(RunInfo, self._read(RUN), str(self.path / RUN))

    @property
    def environment(self) -> Environment:
        """What ran. Raises RecordError when it was never written."""
        return from_json(Environment, self._read(ENVIRONMENT), str(self.path / ENVIRONMENT))

    @property
    def projection(self) -> Projection | None:
        """The projection made from the run, if one was."""
        if not (self.path / PROJECTION).exists():
            return None
        return from_json(Projection, self._read(PROJECTION), str(self.path / PROJECTION))

    @property
    def roofs(self) -> Roofline:
        """The roofs that the results are held against: those kept, else the run's own."""
        if not (self.path / ROOFS).exists():
            return measured_roofs(self.records())
        return from_json(Roofline, self._read(ROOFS), str(self.path / ROOFS))

    @property
    def has_records(self) -> bool:
        """Whether any case of the run is over."""
        path = self.path / RECORDS
        return path.exists() and path.stat().st_size > 0

    def records(self) -> tuple[Record, ...]:
        """All whole records, in the order they were made.

        A last line that a crash cut short is not a record yet and is left out.

        Raises:
            RecordError: for any other line that cannot be read, with its number.
        """
        return tuple(self._iterate_records())

    def _iterate_records(self) -> Iterator[Record]:
        path = self.path / RECORDS
        if not path.exists():
            return
        # What is not text becomes what is not JSON, and is told with its line.
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith("\n"):
                    return
                try:
                    record = from_json(Record, line, f"{path}:{number}")
                except RecordError as error:
                    raise RecordError(
                        f"{error} Take that line out; `chipscale run resume={self.path.name}` "
                        "measures its case again."
                    ) from None
                if record.schema_version > SCHEMA_VERSION:
                    raise RecordError(
                        f"{path}:{number}: schema version {record.schema_version} is newer than "
                        f"this chipscale reads ({SCHEMA_VERSION}). Update chipscale."
                    )
                yield record

    def write(self, name: str, value: object) -> None:
        """Write a value as JSON under that name, atomically."""
        write_atomically(self.path / name, to_json(value) + "\n")

    def _read(self, name: str) -> str:
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise RecordError(
                f"{self.path}: no {name} there, so nothing was measured in it. "
                "`chipscale list runs` shows which runs have records."
            ) from None


def run_suffix() -> str:
    """Five random letters that set apart runs of one second; digits could be read as a number."""
    return "".join(secrets.choice(string.ascii_lowercase) for _ in range(5))


def run_folders(root: Path) -> tuple[RunFolder, ...]:
    """All run folders below `root`, oldest first; their names begin with the time."""
    if not root.is_dir():
        return ()
    return tuple(RunFolder(path) for path in sorted(root.iterdir()) if (path / RUN).exists())
