"""`chipscale serve`: what a cluster serves of a model, from runs or data sheets."""

import argparse
from dataclasses import replace
from datetime import UTC, datetime

from omegaconf import OmegaConf
from rich.console import Console

from harness.cli.finish import doubts, track
from harness.cli.measured import measured
from harness.cli.projecting import PROJECTIONS, check_report_file
from harness.config.build import ServeRequest, serve_request
from harness.config.calibration import shipped_calibration
from harness.config.compose import compose
from harness.device.chip import ChipSpec
from harness.extrapolate.serving.serve import serve
from harness.report import serving_page
from harness.report.serving_table import serving_view
from harness.serving_projection import ServingProjection
from harness.store.disk import write_atomically
from harness.store.folder import REPORT_HTML, SERVING, RunFolder
from harness.workload.cost import step_cost


def main(options: argparse.Namespace) -> int:
    """Project, show and keep."""
    config = compose("serve", options.overrides, options.config_dir)
    if options.cfg is not None:
        print(OmegaConf.to_yaml(config, resolve=True), end="")
        return 0
    request = serve_request(config, options.config_dir)
    check_report_file(request.html_file)
    console = Console(highlight=False)
    with console.status("projecting ..."):
        chip, records, roofs, memory_bytes, run_ids = measured(
            request.runs, request.chip, request.cluster, request.results_dir, options.config_dir
        )
        projection = serve(
            chip=chip,
            model=request.model,
            cluster=request.cluster,
            spec=request.serving,
            cost=step_cost,
            records=records,
            roofs=roofs,
            device_memory_bytes=memory_bytes,
            strict=request.is_strict,
            calibration=shipped_calibration(),
        )
        projection = replace(
            projection,
            run_ids=run_ids,
            assumptions=(*doubts(records, roofs), *projection.assumptions),
        )
    console.print(serving_view(projection))
    folder = _keep(projection, chip, request)
    console.print(f"Report: {request.html_file or folder.path / REPORT_HTML}", markup=False)
    is_tracked = track([folder], request.results_dir, request.tracking, console)
    return 0 if is_tracked else 1


def _keep(projection: ServingProjection, chip: ChipSpec, request: ServeRequest) -> RunFolder:
    """A folder with the projection and its report."""
    now = datetime.now(UTC)
    name = f"{now:%Y%m%dT%H%M%S}-serve-{projection.model}-{projection.cluster}"
    folder = RunFolder(request.results_dir / PROJECTIONS / name)
    folder.path.mkdir(parents=True, exist_ok=True)
    report = request.html_file or folder.path / REPORT_HTML
    folder.write(SERVING, projection)
    write_atomically(report.resolve(), serving_page.render(projection=projection, chip=chip))
    return folder
