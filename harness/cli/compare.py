"""`chipscale compare A B [C ...]`: chips against one another, from runs of the same work."""

import argparse
import hashlib
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from harness.cli.comparing import Opened, opened, projected_runs
from harness.codec import to_json
from harness.compare import TOLERANCE, compare_runs
from harness.comparison import ChipComparison
from harness.errors import ChipscaleError, ConfigError, RecordError, StorageError
from harness.report import comparison_csv, comparison_markdown, comparison_page
from harness.report.comparison_table import comparison_view
from harness.run import RUNS, found_run
from harness.store.disk import write_atomically
from harness.store.folder import (
    COMPARISON,
    COMPARISON_CSV,
    COMPARISONS,
    REPORT_HTML,
    REPORT_MARKDOWN,
    RunFolder,
)
from harness.store.mlflow import sync, tracking_target
from harness.store.mlflow.target import TrackingTarget

TABLE = "table"
TABLE_WIDTH = 80
TABLE_FILE = "comparison.txt"
SUFFIXES = {
    ".html": "html",
    ".htm": "html",
    ".md": "markdown",
    ".csv": "csv",
    ".json": "json",
    ".txt": TABLE,
}
WRITERS: dict[str, Callable[[ChipComparison], str]] = {
    "markdown": comparison_markdown.render,
    "html": comparison_page.render,
    "csv": comparison_csv.render,
    "json": lambda comparison: to_json(comparison) + "\n",
    TABLE: lambda comparison: _table_text(comparison),
}
FILES = {
    "json": COMPARISON,
    "html": REPORT_HTML,
    "markdown": REPORT_MARKDOWN,
    "csv": COMPARISON_CSV,
}
"""What is kept of a comparison, in its folder."""
TRACKING_BUDGET_S = 30.0
TRACKING_FAILED_EXIT_CODE = 1


def main(options: argparse.Namespace) -> int:
    """Compare, show and keep; returns 1 where MLflow was asked for and is absent.

    Raises:
        RecordError: for a run that is not there, cannot be read or measured unequal work.
        NothingMeasured: when two runs have no problem in common.
        ConfigError: for one run alone or the same twice, and for a file that cannot be written.
    """
    wanted, out = _format(options.format, options.out)
    searched = (options.results_dir or Path("results")).resolve()
    tell = Console(highlight=False, stderr=True)
    found = [found_run(name, searched) for name in options.runs]
    for one in found:
        if one.remark:
            tell.print(one.remark, style="dim", markup=False, soft_wrap=True)
    tolerance = TOLERANCE if options.tolerance is None else options.tolerance
    if not 0 <= tolerance < 1:
        raise ConfigError(f"--tolerance: {tolerance} is not between 0 and 1, as 0.03 for 3 %.")
    results_dir = searched
    if options.results_dir is None:
        results_dir = _home(found[0].folder, searched)
    runs = [opened(one.folder) for one in found]
    comparison = compare_runs(
        [one.run for one in runs],
        comparison_id=_id(runs, tolerance, options.force),
        tolerance=tolerance,
        is_forced=options.force,
        projections=projected_runs(runs),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(_command(options)),
    )
    if out is not None:
        _write(comparison, out, wanted)
    if out is None and wanted not in (None, TABLE):
        sys.stdout.write(WRITERS[wanted](comparison))
    else:
        Console(highlight=False).print(comparison_view(comparison, options.cases))
    folder = _kept(comparison, results_dir, tell)
    for path in [] if out is None else [out]:
        tell.print(f"Written: {path}", markup=False, soft_wrap=True)
    return _tracked(folder, results_dir, options.track, tell)


def _command(options: argparse.Namespace) -> list[str]:
    """The words that make this comparison, whatever was printed of it."""
    words = ["chipscale", "compare", *options.runs]
    if options.tolerance is not None:
        words += ["--tolerance", f"{options.tolerance:g}"]
    return [*words, "--force"] if options.force else words


def _home(folder: RunFolder, otherwise: Path) -> Path:
    """The results folder that a run named by its folder lies in."""
    path = folder.path.resolve()
    return path.parents[1] if path.parent.name == RUNS else otherwise


def _format(wanted: str | None, out: Path | None) -> tuple[str | None, Path | None]:
    """The format asked for, or that of the file's name; a folder has all, which is None.

    Raises:
        ConfigError: when the file's folder is not there, or its name says nothing of a format.
    """
    if out is None:
        return wanted, None
    if out.is_dir() or (not out.suffix and wanted is None):
        return None, out
    if not out.resolve().parent.is_dir():
        raise ConfigError(f"--out: {out.resolve().parent} is not a folder. Make it first.")
    chosen = wanted or SUFFIXES.get(out.suffix)
    if chosen is None:
        raise ConfigError(
            f"--out: {out.suffix} says nothing of a format. Use one of {', '.join(SUFFIXES)}, or "
            f"add --format with one of {', '.join(WRITERS)}."
        )
    return chosen, out


def _id(runs: Sequence[Opened], tolerance: float, is_forced: bool) -> str:
    """The same for the same runs and rules, so that comparing again brings no second one."""
    ids = [one.run.run_id for one in runs]
    digest = hashlib.sha256("\0".join([*ids, str(tolerance), str(is_forced)]).encode())
    chips = [one.run.chip for one in runs]
    return f"{'-vs-'.join(chips[:3])}-{digest.hexdigest()[:8]}".replace("/", "_").replace(" ", "_")


def _table_text(comparison: ChipComparison) -> str:
    console = Console(width=TABLE_WIDTH, highlight=False, no_color=True)
    with console.capture() as captured:
        console.print(comparison_view(comparison))
    return captured.get()


def _write(comparison: ChipComparison, out: Path, wanted: str | None) -> None:
    """One file, or all formats into a folder.

    Raises:
        StorageError: when the disk does not take it.
    """
    if wanted is not None:
        write_atomically(out, WRITERS[wanted](comparison))
        return
    out.mkdir(parents=True, exist_ok=True)
    for name, file in (*FILES.items(), (TABLE, TABLE_FILE)):
        write_atomically(out / file, WRITERS[name](comparison))


def _kept(comparison: ChipComparison, results_dir: Path, tell: Console) -> RunFolder | None:
    """The comparison's own folder; None where the results cannot be written to, which is told."""
    folder = RunFolder(results_dir / COMPARISONS / comparison.comparison_id)
    comparison = _as_before(comparison, folder)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        for name, file in FILES.items():
            write_atomically(folder.path / file, WRITERS[name](comparison))
    except (OSError, StorageError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        tell.print(
            f"warning: the comparison is not kept: {folder.path}: {why}",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )
        return None
    tell.print(f"Report: {folder.path / REPORT_HTML}", markup=False, soft_wrap=True)
    return folder


def _as_before(comparison: ChipComparison, folder: RunFolder) -> ChipComparison:
    """The time and command of the one that is kept, where nothing else is new."""
    try:
        kept = folder.comparison
    except RecordError:
        return comparison  # Damaged, or of another version: written anew.
    if kept is None:
        return comparison
    same = replace(comparison, created_at=kept.created_at, command=kept.command)
    return same if same == kept else comparison


def _tracked(
    folder: RunFolder | None, results_dir: Path, is_asked: bool | None, tell: Console
) -> int:
    """Log it where that is asked for or results are logged already; the exit code."""
    try:
        target = tracking_target(results_dir)
    except ChipscaleError:
        if is_asked:
            raise
        return 0
    if folder is None or is_asked is False or (is_asked is None and not _is_in_use(target)):
        return TRACKING_FAILED_EXIT_CODE if is_asked else 0
    (result,) = sync([folder], target, budget_s=TRACKING_BUDGET_S)
    style = "" if result.is_done else "yellow"
    tell.print(result.message, style=style, markup=False, soft_wrap=True)
    return TRACKING_FAILED_EXIT_CODE if is_asked and not result.is_done else 0


def _is_in_use(target: TrackingTarget) -> bool:
    """A server, or an embedded database that a run has made."""
    return target.is_server or (target.database_path is not None and target.database_path.exists())
