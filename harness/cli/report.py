"""`chipscale report RUN...`: write the reports again, as after an update of chipscale."""

import argparse
import sys

from harness.cli.render import render_reports
from harness.errors import NothingMeasured
from harness.run import find_run
from harness.store.folder import REPORT_HTML, REPORT_MARKDOWN


def main(options: argparse.Namespace) -> int:
    """Render each run named."""
    for name in options.runs:
        folder = find_run(name, options.results_dir.resolve())
        if not folder.records():
            raise NothingMeasured(f"{folder.path}: no record there, so there is nothing to report.")
        for warning in folder.warnings():
            print(f"warning: {warning}", file=sys.stderr)
        render_reports(folder, options.config_dir)
        print(folder.path / REPORT_HTML)
        print(folder.path / REPORT_MARKDOWN)
    return 0
