"""`chipscale sync [FOLDER...]`: bring result folders home and fill MLflow from them."""

import argparse
from collections import Counter
from pathlib import Path

from rich.console import Console

from harness.cli.finish import vendors_of
from harness.cli.sync_folders import at_home, make_ready, meant_folders, results_dir_of, warn
from harness.cli.sync_watch import watch
from harness.errors import ChipscaleError, ConfigError, NothingMeasured, RecordError
from harness.run import RUNS
from harness.store.folder import RunFolder
from harness.store.mlflow import SyncResult, SyncState, sync, tracking_target
from harness.store.mlflow.ledger import Ledger, open_ledger

BUDGET_S = 6 * 3600.0
"""A person who asked for nothing but this can wait; the 30 s are for the end of a run."""
PATIENCE_S = 60.0
"""For a server that goes away meanwhile: as long as restarting it takes."""
MAX_UNCHANGED_SHOWN = 10
FAILED_EXIT_CODE = 1


def main(options: argparse.Namespace) -> int:
    """Sync the folders named, or all of the results folder; with --watch go on doing so.

    Raises:
        ConfigError: for an address of MLflow that cannot be.
        RecordError: when no result is in a folder that was named.
    """
    results_dir = results_dir_of(options.results_dir, options.folders)
    target = tracking_target(results_dir)
    if target.mistake:
        raise ConfigError(f"{target.mistake}.")
    if options.again and target.synced_file is not None:
        target.synced_file.unlink(missing_ok=True)
    console = Console(highlight=False)
    roots = options.folders or [results_dir]
    if options.watch:
        return watch(roots, results_dir, options.config_dir, options.interval, target, console)
    try:
        paths = [path for root in roots for path in meant_folders(root)]
    except RecordError:
        if options.folders:
            raise
        raise NothingMeasured(
            f"{results_dir / RUNS}: no runs with records there. `chipscale run` makes one; "
            "`chipscale sync FOLDER` takes one from elsewhere."
        ) from None
    ledger = open_ledger(target)
    folders, num_refused = _brought_home(paths, results_dir, options, ledger, console)
    unchanged: list[SyncResult] = []
    failures: Counter[str] = Counter()

    def tell(result: SyncResult) -> None:
        if result.state is SyncState.UNCHANGED and len(paths) > MAX_UNCHANGED_SHOWN:
            unchanged.append(result)
            return
        if not result.is_done:
            # What MLflow is refused for is mostly the same for all: it is told once.
            why = result.message.replace(result.folder, "")
            failures[why] += 1
            if failures[why] > 1:
                return
        console.print(f"{Path(result.folder).name}: {result.message}", markup=False, soft_wrap=True)

    results = sync(
        folders,
        target,
        budget_s=BUDGET_S,
        vendors=vendors_of(options.config_dir),
        patience_s=PATIENCE_S,
        tell=tell,
    )
    if unchanged:
        console.print(
            f"{len(unchanged):,} folders were already in MLflow at {target.shown}.",
            markup=False,
            soft_wrap=True,
        )
    num_more = failures.total() - len(failures)
    if num_more:
        console.print(
            f"{num_more:,} more folders failed in the same way; `chipscale sync` logs them later.",
            markup=False,
            soft_wrap=True,
        )
    return 0 if all(one.is_done for one in results) and not num_refused else FAILED_EXIT_CODE


def _brought_home(
    paths: list[Path],
    results_dir: Path,
    options: argparse.Namespace,
    ledger: Ledger,
    console: Console,
) -> tuple[list[RunFolder], int]:
    """The folders, and how many could not be taken; one of several must not cost the others.

    Raises:
        RecordError: when there is only one.
    """
    folders = []
    for path in paths:
        if ledger.entry(path.resolve()) is not None:
            folders.append(RunFolder(path))
            continue
        try:
            folder = at_home(path, results_dir, options.config_dir)
            make_ready(folder, console)
        except ChipscaleError as error:
            if len(paths) == 1:
                raise
            warn(console, str(error))
            continue
        folders.append(folder)
    return folders, len(paths) - len(folders)
