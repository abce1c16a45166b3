"""`chipscale project`: a training step of a model on a cluster, from runs or data sheets."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console

from harness.cli.finish import track, warned
from harness.config.build import ProjectRequest, project_request
from harness.config.compose import compose
from harness.config.this_chip import this_chip
from harness.device.chip import ChipSpec
from harness.errors import ConfigError
from harness.extrapolate.mixed import project_mixed
from harness.extrapolate.project import project
from harness.projection import Projection
from harness.record import Record
from harness.report import html
from harness.report.table import projection_view
from harness.results import accepted
from harness.roofline import Roofline
from harness.run import find_run
from harness.store.disk import write_atomically
from harness.store.folder import PROJECTION, RunFolder
from kernels import registry

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
                cost=registry.cost,
                strict=request.is_strict,
                goal=request.goal,
            ),
            None,
        )
    chip, records, roofs, memory_bytes, run_ids = _measured(request, config_dirs)
    projection = project(
        chip=chip,
        model=request.model,
        cluster=request.cluster,
        parallel=request.parallel,
        cost=registry.cost,
        records=records,
        roofs=roofs,
        device_memory_bytes=memory_bytes,
        strict=request.is_strict,
        goal=request.goal,
    )
    return warned(replace(projection, run_ids=run_ids), records, roofs), chip


def _measured(
    request: ProjectRequest, config_dirs: Sequence[Path]
) -> tuple[ChipSpec, tuple[Record, ...], Roofline | None, float | None, tuple[str, ...]]:
    """The chip, its measurements and roofs, the memory it said it has, and the runs' ids.

    Measurements are those that are not too fast to be true. With several runs their own roofs are
    taken together, since each may have found another part.

    Raises:
        ConfigError: when the runs are of another chip than the cluster, or none is given for a
            cluster of the chip measured.
    """
    folders = [find_run(name, request.results_dir) for name in request.runs]
    if not folders:
        if request.chip is None:
            raise ConfigError(
                f"runs: cluster {request.cluster.name} is made of the chip measured, so a run is "
                "needed. Set runs=[latest], or choose a cluster of a known chip: "
                "`chipscale list clusters`."
            )
        return request.chip, (), None, None, ()
    chips = [this_chip(folder.environment, config_dirs) for folder in folders]
    chip = request.chip or chips[0]
    for folder, measured in zip(folders, chips, strict=True):
        if measured.name != chip.name:
            raise ConfigError(
                f"runs: {folder.info.run_id} measured {measured.name}, but cluster "
                f"{request.cluster.name} is made of {chip.name}. Leave the run out, or set "
                "cluster=this_100k for a cluster of the chip measured."
            )
    records = tuple(
        record for folder in folders for record in accepted(folder.records(), folder.roofs)
    )
    roofs = folders[0].roofs if len(folders) == 1 else None
    memory_bytes = folders[0].environment.device.memory_bytes
    return chip, records, roofs, memory_bytes, tuple(folder.info.run_id for folder in folders)


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
