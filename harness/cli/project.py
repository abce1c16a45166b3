"""`chipscale project`: a training step of a model on a cluster, from runs or data sheets."""

import argparse

from omegaconf import OmegaConf
from rich.console import Console

from harness.cli import side_by_side
from harness.cli.finish import track
from harness.cli.projecting import check_report_file, keep, projected
from harness.config.build import project_request
from harness.config.compose import compose
from harness.config.pairs import is_side_by_side
from harness.report.table import explanation_view, projection_view


def main(options: argparse.Namespace) -> int:
    """Project, show and keep."""
    config = compose("project", options.overrides, options.config_dir)
    if options.cfg is not None:
        print(OmegaConf.to_yaml(config, resolve=True), end="")
        return 0
    if is_side_by_side(config):
        return side_by_side.main(options, config)
    request = project_request(config, options.config_dir)
    check_report_file(request.html_file)
    console = Console(highlight=False)
    with console.status("projecting ..."):
        made = projected(request, options.config_dir)
    console.print(projection_view(made.projection))
    if request.is_explained:
        console.print(explanation_view(made.projection))
    folder = keep(made, request.html_file)
    console.print(f"Report: {request.html_file or folder.path / 'report.html'}", markup=False)
    is_tracked = track([folder], request.results_dir, request.tracking, console)
    return 0 if is_tracked else 1
