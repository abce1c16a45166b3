"""`chipscale project`: a training step of a model on a cluster, from runs or data sheets."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console

from harness.cli.finish import track, warned
from harness.cli.measured import measured
from harness.config.build import ProjectRequest, project_request
from harness.config.calibration import shipped_calibration
from harness.config.compose import compose
from harness.device.chip import ChipSpec
from harness.errors import ConfigError
from harness.extrapolate.mixed import project_mixed
from harness.extrapolate.project import project
from harness.projection import Projection
from harness.report import html
from harness.report.table import explanation_view, projection_view
from harness.store.disk import write_atomically
from harness.store.folder import PROJECTION, RunFolder
from harness.workload.cost import step_cost

PROJECTIONS = "projections"
"""The folder of projections made without a run of their own, inside the results folder."""


def main(options: argparse.Namespace) -> int:
    """Project, show and keep."""
    config = compose("project", options.overrides, options.config_dir)
    if options.cfg is not None:
        print(OmegaConf.to_yaml(config, resolve=True), end="")
        return 0
    request = project_request(config, options.config_dir)
    console = Console(highlight=False)
    with console.status("projecting ..."):
        projection, chip = _projected(request, options.config_dir)
    console.print(projection_view(projection))
    if request.is_explained:
        console.print(explanation_view(projection))
    folder = _keep(projection, chip, request)
    console.print(f"Report: {request.html_file or folder.path / 'report.html'}", markup=False)
    is_tracked = track([folder], request.results_dir, request.tracking, console)
    return 0 if is_tracked else 1


def _projected(
    request: ProjectRequest, config_dirs: Sequence[Path]
) -> tuple[Projection, ChipSpec | None]:
    """The projection, and the chip it is of where that is one."""
    if request.cluster.is_mixed:
        return (
            project_mixed(
                chips=request.island_chips,
                model=request.model,
                cluster=request.cluster,
                parallel=request.parallel,
                cost=step_cost,
                strict=request.is_strict,
                goal=request.goal,
                calibration=shipped_calibration(),
            ),
            None,
        )
    chip, records, roofs, memory_bytes, run_ids = measured(
        request.runs, request.chip, request.cluster, request.results_dir, config_dirs
    )
    projection = project(
        chip=chip,
        model=request.model,
        cluster=request.cluster,
        parallel=request.parallel,
        cost=step_cost,
        records=records,
        roofs=roofs,
        device_memory_bytes=memory_bytes,
        strict=request.is_strict,
        goal=request.goal,
        calibration=shipped_calibration(),
    )
    return warned(replace(projection, run_ids=run_ids), records, roofs), chip


def _keep(projection: Projection, chip: ChipSpec | None, request: ProjectRequest) -> RunFolder:
    """A folder with the projection and its report."""
    now = datetime.now(UTC)
    name = f"{now:%Y%m%dT%H%M%S}-{projection.model}-{request.cluster.name}"
    folder = RunFolder(request.results_dir / PROJECTIONS / name)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write(PROJECTION, projection)
    report = request.html_file or folder.path / "report.html"
    if not report.resolve().parent.is_dir():
        raise ConfigError(f"html: {report.resolve().parent} is not a folder. Make it first.")
    write_atomically(report.resolve(), html.render(projection=projection, chip=chip))
    return folder
