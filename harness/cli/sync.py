"""`chipscale sync [FOLDER...]`: bring run folders home and fill MLflow from them."""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness.cli.finish import vendors_of
from harness.cli.render import render_reports
from harness.cli.run_closure import keep_closures
from harness.config.this_chip import chip_name
from harness.errors import NothingMeasured, RecordError
from harness.run import RUNS, close_run
from harness.store.folder import REPORT_HTML, RUN, RunFolder, run_folders
from harness.store.mlflow import sync, tracking_target

BUDGET_S = 3600.0
"""A person who asked for nothing but this can wait; the 30 s are for the end of a run."""
FAILED_EXIT_CODE = 1


def main(options: argparse.Namespace) -> int:
    """Sync the folders named, or all runs of the results folder."""
    results_dir = _results_dir(options.results_dir, options.folders)
    console = Console(highlight=False)
    if options.folders:
        folders = [_at_home(path, results_dir, options.config_dir) for path in options.folders]
    else:
        folders = [folder for folder in run_folders(results_dir / RUNS) if folder.has_records]
    if not folders:
        raise NothingMeasured(
            f"{results_dir / RUNS}: no runs with records there. `chipscale run` makes one; "
            "`chipscale sync FOLDER` takes one from elsewhere."
        )
    for folder in folders:
        for warning in folder.warnings():
            console.print(
                f"warning: {folder.path.name}: {warning}",
                style="yellow",
                markup=False,
                soft_wrap=True,
            )
        if not (folder.path / REPORT_HTML).exists():
            keep_closures(folder)
            render_reports(folder)
    results = sync(folders, tracking_target(results_dir), budget_s=BUDGET_S, vendors=vendors_of())
    for result in results:
        console.print(f"{Path(result.folder).name}: {result.message}", markup=False, soft_wrap=True)
    return 0 if all(result.is_done for result in results) else FAILED_EXIT_CODE


def _results_dir(given: Path | None, folders: Sequence[Path]) -> Path:
    """The results folder asked for; else the one that the first run lies in; else `results`."""
    if given is None and folders and folders[0].resolve().parent.name == RUNS:
        return folders[0].resolve().parents[1]
    return (given or Path("results")).resolve()


def _at_home(path: Path, results_dir: Path, config_dirs: Sequence[Path]) -> RunFolder:
    """The run in the results folder, copied there if it was measured elsewhere.

    Raises:
        RecordError: when the folder holds no run, or another run of that name is at home.
    """
    if not (path / RUN).exists():
        raise RecordError(f"{path}: no {RUN} there, so it is not a run folder.")
    away = RunFolder(path)
    home = RunFolder(results_dir / RUNS / away.info.run_id)
    if path.resolve() != home.path.resolve():
        held = {record.case.id: record for record in home.records()}
        brought = {record.case.id: record for record in away.records()}
        if any(brought.get(case_id) != record for case_id, record in held.items()):
            raise RecordError(
                f"{path}: {home.path} holds other records of that run id. Move one of them away."
            )
        # The worker may have gone on over there since the last time.
        shutil.copytree(path, home.path, dirs_exist_ok=True)
    close_run(home, lambda environment: chip_name(environment, config_dirs))
    return home
