"""GateFolder: one gate on disk.

results/gates/<gate id>/
    gate.json        the GateResult, the truth that the others are made from
    gate.html, gate.md, gate_comment.md, junit.xml
"""

import json
from dataclasses import dataclass
from pathlib import Path

from harness.codec import from_data
from harness.errors import NewerRecordError, RecordError
from harness.gate_result import GATE_SCHEMA_VERSION, GateResult

GATES = "gates"
"""Folder of all gates, below the results folder."""
GATE = "gate.json"
GATE_HTML = "gate.html"
GATE_MARKDOWN = "gate.md"
GATE_COMMENT = "gate_comment.md"
GATE_JUNIT = "junit.xml"


@dataclass(frozen=True, slots=True)
class GateFolder:
    """A gate's folder; reading it never needs a device, torch or MLflow."""

    path: Path

    @property
    def is_whole(self) -> bool:
        """The gate came to its end."""
        return (self.path / GATE).is_file()

    @property
    def result(self) -> GateResult:
        """What the gate found.

        Raises:
            NewerRecordError: when a newer chipscale wrote it.
            RecordError: when there is none, or it is damaged.
        """
        path = self.path / GATE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RecordError(
                f"{self.path}: no {GATE} there, so no gate came to its end in it."
            ) from None
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise RecordError(f"{path}: not JSON ({error}).") from None
        version = data.get("schema_version") if isinstance(data, dict) else None
        if isinstance(version, int) and version > GATE_SCHEMA_VERSION:
            raise NewerRecordError(
                f"{path}: schema version {version} is newer than this chipscale reads "
                f"({GATE_SCHEMA_VERSION}). Update chipscale."
            )
        result = from_data(GateResult, data, str(path))
        assert isinstance(result, GateResult)
        return result


def gate_folders(root: Path) -> tuple[GateFolder, ...]:
    """All gates below `root` that came to their end, oldest first; names begin with the time."""
    if not root.is_dir():
        return ()
    return tuple(GateFolder(path) for path in sorted(root.iterdir()) if GateFolder(path).is_whole)
