"""RunFolder: one run on disk, the truth that MLflow and reports are filled from.

results/runs/<run id>/
    run.json          RunInfo: what was asked for, by whom it was started, when it ended
    config.yaml       the resolved configuration
    cases.json        the cases, as the worker was given them
    environment.json  what ran
    proof.json        what its timer, launch and cache flush are worth
    records.jsonl     one Record per line, appended as they are made
    records.quarantined.jsonl   damaged lines that were found among them
    roofs.json        the roofs that the results are held against, and the runs they come from
    projection.json   the projection, once made
    serving.json      the projection of serving, in a folder of its own
    closure.json      its whole layers against the sum of their ops, where it has any
    spread.json       how its device compares with the others that were measured at once
    report.html, report.md

results/comparisons/<id>/
    comparison.json   several runs against one another, with its reports and a table
"""

import json
import secrets
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.cases import Case
from harness.codec import from_data, from_json, to_json
from harness.comparison import COMPARISON_SCHEMA_VERSION, ChipComparison
from harness.environment import Environment
from harness.errors import NewerRecordError, RecordError
from harness.projection import Projection
from harness.proof import Proof
from harness.record import Record
from harness.roofline import Roofline
from harness.roofs import measured_roofs
from harness.serving_projection import ServingProjection
from harness.spread import Spread
from harness.store.disk import write_atomically
from harness.store.records import (
    RecordLines,
    damage_text,
    quarantine_of,
    read_quarantined,
    read_records,
)

RECORDS = "records.jsonl"
ENVIRONMENT = "environment.json"
RUN = "run.json"
CASES = "cases.json"
CONFIG = "config.yaml"
PROOF = "proof.json"
PROJECTION = "projection.json"
SERVING = "serving.json"
CLOSURE = "closure.json"
SPREAD = "spread.json"
COMPARISON = "comparison.json"
COMPARISONS = "comparisons"
"""The folder of comparisons, inside the results folder."""
COMPARISON_CSV = "comparison.csv"
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
    def planned_cases(self) -> tuple[Case, ...]:
        """The cases that the run was to measure; empty where that is not known any more."""
        try:
            job = json.loads((self.path / CASES).read_text(encoding="utf-8"))
            cases: tuple[Case, ...] = from_data(tuple[Case, ...], job["cases"], CASES)
        except (OSError, ValueError, TypeError, KeyError, RecordError):
            return ()
        return cases

    @property
    def proof(self) -> Proof | None:
        """What timer, launch and flush are worth; None in runs of older versions."""
        if not (self.path / PROOF).exists():
            return None
        return from_json(Proof, self._read(PROOF), str(self.path / PROOF))

    @property
    def projection(self) -> Projection | None:
        """The projection made from the run, if one was."""
        if not (self.path / PROJECTION).exists():
            return None
        try:
            return from_json(Projection, self._read(PROJECTION), str(self.path / PROJECTION))
        except RecordError as error:
            raise RecordError(
                f"{error} The records do not depend on it: move the file away to go on without, "
                f"and `chipscale project 'runs=[{self.path.name}]'` projects anew."
            ) from None

    @property
    def serving(self) -> ServingProjection | None:
        """The projection of serving, where the folder holds one."""
        if not (self.path / SERVING).exists():
            return None
        return from_json(ServingProjection, self._read(SERVING), str(self.path / SERVING))

    @property
    def spread(self) -> Spread | None:
        """How the devices of its sweep compare, if it was one of several."""
        if not (self.path / SPREAD).exists():
            return None
        return from_json(Spread, self._read(SPREAD), str(self.path / SPREAD))

    @property
    def comparison(self) -> ChipComparison | None:
        """Several runs against one another, where the folder holds that.

        Raises:
            NewerRecordError: when a newer chipscale wrote it.
        """
        path = self.path / COMPARISON
        if not path.exists():
            return None
        text = self._read(COMPARISON)
        try:
            version = json.loads(text)["schema_version"]
        except (ValueError, TypeError, KeyError):
            version = None
        if isinstance(version, int) and version > COMPARISON_SCHEMA_VERSION:
            raise NewerRecordError(
                f"{path}: schema version {version} is newer than this chipscale reads "
                f"({COMPARISON_SCHEMA_VERSION}). Update chipscale."
            )
        return from_json(ChipComparison, text, str(path))

    @property
    def roofs(self) -> Roofline:
        """The roofs that the results are held against: those kept, else the run's own."""
        return self.roofs_with(self.records)

    def roofs_with(self, records: Callable[[], Sequence[Record]]) -> Roofline:
        """The same for a caller who has the records, which take seconds to read where many."""
        if not (self.path / ROOFS).exists():
            return measured_roofs(records())
        return from_json(Roofline, self._read(ROOFS), str(self.path / ROOFS))

    @property
    def has_records(self) -> bool:
        """Whether any case of the run is over."""
        path = self.path / RECORDS
        return path.exists() and path.stat().st_size > 0

    def read_records(self) -> RecordLines:
        """All whole records, in the order they were made, and the damaged lines among them.

        Raises:
            NewerRecordError: when a newer chipscale wrote them.
        """
        return read_records(self.path / RECORDS)

    def records(self) -> tuple[Record, ...]:
        """All whole records; `warnings` tells of damaged lines, which are left out.

        Raises:
            NewerRecordError: when a newer chipscale wrote them.
        """
        return self.read_records().records

    def warnings(self) -> tuple[str, ...]:
        """What a reader of the records should know of their file, one sentence each."""
        path = self.path / RECORDS
        sentences: list[str] = []
        lines = read_records(path)
        sentences += self._unfinished(len(lines.records))
        damaged = lines.damaged
        if damaged:
            sentences.append(
                f"{damage_text(damaged)}; left out, and measured again by "
                f"`chipscale run resume={self.path.name}`."
            )
        quarantined = read_quarantined(quarantine_of(path))
        if quarantined:
            sentences.append(f"{damage_text(quarantined)}; moved to {quarantine_of(path).name}.")
        return tuple(sentences)

    def _unfinished(self, num_records: int) -> list[str]:
        """That the run was stopped, or is still measured, in a sentence."""
        if not (self.path / RUN).exists():
            return []
        info = self.info
        if info.ended_at or num_records >= info.num_cases:
            return []
        return [
            f"Unfinished: {num_records} of {info.num_cases} cases have a record; "
            f"`chipscale run resume={info.run_id}` goes on."
        ]

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
