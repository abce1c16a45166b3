"""GateJob: what a gate was asked for, kept in its folder so that it can be gone on with.

results/gates/<gate id>/
    job.json                what was asked for
    base.json, head.json    the arms' cases
    base-1/, head-1/ ...    run folders of the rounds; those after the screen confirm it
    base-2-again/           what failed in a round, tried once more
    logs/                   what the processes printed
    gate.json               the GateResult
    gate.html, gate.md, junit.xml ...
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.codec import from_json, to_json
from harness.errors import ConfigError, RecordError, did_you_mean
from harness.store.disk import storing, write_atomically
from harness.store.folder import run_suffix
from harness.store.gate_folder import GATES, GateFolder

JOB = "job.json"
LATEST = "latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateJob:
    """What a gate was asked for."""

    gate_id: str
    base: str
    head: str
    overrides: tuple[str, ...]
    """Of `chipscale gate`, as they were written, and those of `--quick`."""
    only: tuple[str, ...] = ()
    """Of `--case`."""
    config_dirs: tuple[str, ...] = ()
    base_digest: str
    """Of the code that was measured; a gate is gone on with by the same code alone."""
    head_digest: str
    started_at: str
    """UTC, ISO 8601."""
    command: str


def new_gate_id(suite: str, model: str) -> str:
    """A name that begins with the time, so that names sort by age."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{suite}-{model}-{run_suffix()}"


def make_folder(folder: Path) -> None:
    """Make the gate's folder.

    Raises:
        StorageError: when the disk takes no more.
        ConfigError: when it cannot be made there.
    """
    try:
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"results_dir: {folder}: {error.strerror}. Name a folder that can be written."
        ) from None


def write_job(folder: Path, job: GateJob) -> None:
    """Write it down, whole or not at all."""
    write_atomically(folder / JOB, to_json(job) + "\n")


def read_job(folder: Path) -> GateJob:
    """What the gate in that folder was asked for.

    Raises:
        RecordError: when it cannot be read.
    """
    try:
        text = (folder / JOB).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{folder / JOB}: cannot be read ({error}).") from None
    return from_json(GateJob, text, str(folder / JOB))


def gate_folders(results_dir: Path) -> list[Path]:
    """Folders of all gates, oldest first."""
    root = results_dir / GATES
    return sorted(one.parent for one in root.glob(f"*/{JOB}"))


def find_gate(name: str, results_dir: Path, *, is_whole: bool = False) -> Path:
    """A gate's folder by its id or a part of it that only one has, or `latest`.

    Args:
        name: as the user wrote it.
        results_dir: where gates are.
        is_whole: `latest` is the last that came to its end, where one did.

    Raises:
        RecordError: when none is meant, or several.
    """
    folders = gate_folders(results_dir)
    if not folders:
        raise RecordError(
            f"{results_dir / GATES}: no gates there yet. `chipscale gate base=main` makes the "
            "first."
        )
    if name == LATEST:
        whole = [one for one in folders if GateFolder(one).is_whole] if is_whole else []
        return (whole or folders)[-1]
    found = [folder for folder in folders if name and name in folder.name]
    exact = [folder for folder in found if folder.name == name]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if found:
        ids = ", ".join(folder.name for folder in found[:5])
        raise RecordError(f"{name}: {len(found)} gates have that in their name, as {ids}.")
    near = did_you_mean(name, (folder.name for folder in folders))
    raise RecordError(
        f"{name}: no gate of that name in {results_dir / GATES}. {near}`chipscale gate list` shows "
        "all."
    )
