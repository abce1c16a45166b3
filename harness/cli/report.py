"""`chipscale report RUN...`: write the reports again, as after an update of chipscale."""

import argparse

from harness.cli.render import render_reports
from harness.run import find_run
from harness.store.folder import REPORT_HTML, REPORT_MARKDOWN


def main(options: argparse.Namespace) -> int:
    """Render each run named."""
    for name in options.runs:
        folder = find_run(name, options.results_dir.resolve())
        render_reports(folder, options.config_dir)
        print(folder.path / REPORT_HTML)
        print(folder.path / REPORT_MARKDOWN)
    return 0
