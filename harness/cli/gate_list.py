"""`chipscale gate list` and `chipscale gate show GATE`: what was gated."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.arms.job import LATEST, find_gate, gate_folders, read_job
from harness.errors import ConfigError, NothingMeasured, RecordError
from harness.report.gate_table import gate_view
from harness.store.gate_folder import GateFolder


def list_gates(words: Sequence[str]) -> int:
    """One line a gate, the oldest first; a damaged one is told of and does not hide the others.

    Raises:
        NothingMeasured: when there is none.
    """
    results_dir, rest = results_dir_of(words)
    if rest:
        raise ConfigError(f"{rest[0]}: `chipscale gate list` takes results_dir= alone.")
    folders = gate_folders(results_dir)
    if not folders:
        raise NothingMeasured(
            f"{results_dir}: no gates there yet. `chipscale gate base=main` makes the first."
        )
    table = Table(box=None, pad_edge=False)
    for title in ("gate", "base", "head", "verdict"):
        table.add_column(title, overflow="fold")
    for folder in folders:
        try:
            job = read_job(folder)
            gate = GateFolder(folder)
            verdict = gate.result.headline if gate.is_whole else "stopped before its end"
            table.add_row(folder.name, job.base, job.head, verdict)
        except RecordError as error:
            table.add_row(folder.name, "", "", str(error))
    Console(highlight=False).print(table, markup=False)
    return 0


def show_gate(words: Sequence[str]) -> int:
    """What a gate found, as it was shown when it ended.

    Raises:
        RecordError: when it did not come to its end, or cannot be read.
    """
    results_dir, rest = results_dir_of(words)
    if len(rest) > 1:
        raise ConfigError(f"{rest[1]}: `chipscale gate show GATE` shows one gate.")
    folder = find_gate(rest[0] if rest else LATEST, results_dir, is_whole=True)
    Console(highlight=False).print(gate_view(GateFolder(folder).result))
    return 0


def results_dir_of(words: Sequence[str]) -> tuple[Path, list[str]]:
    """The results folder that the words name, and the words that are left."""
    results_dir, rest = Path("results"), []
    for word in words:
        if word.startswith("results_dir="):
            results_dir = Path(word.partition("=")[2])
        else:
            rest.append(word)
    return results_dir.resolve(), rest
