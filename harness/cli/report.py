"""`chipscale report RUN...`: write the reports again, as after an update of chipscale."""

import argparse
import shlex
import sys
from pathlib import Path

from harness.cli.comparing import opened, projected_runs
from harness.cli.render import render_reports
from harness.compare import TOLERANCE, compare_runs
from harness.comparison import ChipComparison
from harness.errors import NothingMeasured
from harness.run import find_run, found_run
from harness.store.folder import REPORT_HTML, REPORT_MARKDOWN, RunFolder


def main(options: argparse.Namespace) -> int:
    """Render each run named, held against another where one is.

    Raises:
        RecordError: for a run that is not there or cannot be read.
        NothingMeasured: for a run without records, or without a problem in common with the other.
    """
    results_dir = options.results_dir.resolve()
    for name in options.runs:
        folder = find_run(name, results_dir)
        if not folder.records():
            raise NothingMeasured(f"{folder.path}: no record there, so there is nothing to report.")
        for warning in folder.warnings():
            print(f"warning: {warning}", file=sys.stderr)
        comparison = None
        if options.against is not None:
            comparison = _against(options.against, folder, results_dir)
        render_reports(folder, options.config_dir, comparison)
        print(folder.path / REPORT_HTML)
        print(folder.path / REPORT_MARKDOWN)
    return 0


def _against(reference: str, folder: RunFolder, results_dir: Path) -> ChipComparison:
    """The run after the reference, so that its speedups read as the run's own."""
    runs = [opened(found_run(reference, results_dir).folder), opened(folder)]
    return compare_runs(
        [one.run for one in runs],
        comparison_id="-vs-".join(one.run.run_id for one in runs),
        tolerance=TOLERANCE,
        projections=projected_runs(runs),
        command=shlex.join(["chipscale", "compare", *(one.run.run_id for one in runs)]),
    )
