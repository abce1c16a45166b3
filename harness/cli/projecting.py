"""A projection made for a request, and kept with its report; for one cluster or each of several."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from harness.cli.finish import warned
from harness.cli.measured import measured
from harness.config.build import ProjectRequest
from harness.config.calibration import shipped_calibration
from harness.device.chip import ChipSpec
from harness.errors import ConfigError
from harness.extrapolate.mixed import project_mixed
from harness.extrapolate.project import context_of, project
from harness.extrapolate.ratio import DrawnStep, step_by_cause, step_by_interval
from harness.projection import Projection
from harness.record import Record
from harness.report import html
from harness.roofline import Roofline
from harness.store.disk import write_atomically
from harness.store.folder import PROJECTION, REPORT_HTML, RunFolder
from harness.workload.cost import step_cost

PROJECTIONS = "projections"
"""The folder of projections made without a run of their own, inside the results folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Projected:
    """A projection with what it was made of."""

    request: ProjectRequest
    projection: Projection
    chip: ChipSpec | None
    """The chip it is of; None of a mixed cluster."""
    records: tuple[Record, ...] = ()
    roofs: Roofline | None = None
    memory_bytes: float | None = None

    def drawn_step(self) -> DrawnStep:
        """Its step under draws that are common with those of other projections."""
        if self.chip is None:
            return step_by_interval(self.projection)
        context = context_of(
            chip=self.chip,
            model=self.request.model,
            cluster=self.request.cluster,
            parallel=self.request.parallel,
            cost=step_cost,
            records=self.records,
            roofs=self.roofs,
            device_memory_bytes=self.memory_bytes,
            calibration=shipped_calibration(),
        )
        return step_by_cause(context, self.projection.headline.plan)


def projected(request: ProjectRequest, config_dirs: Sequence[Path]) -> Projected:
    """The projection that was asked for.

    Raises:
        PlanError: when no plan fits the cluster.
        ConfigError: when a rate that is needed is neither measured nor known, or the runs are of
            another chip.
    """
    if request.cluster.is_mixed:
        mixed = project_mixed(
            chips=request.island_chips,
            model=request.model,
            cluster=request.cluster,
            parallel=request.parallel,
            cost=step_cost,
            strict=request.is_strict,
            goal=request.goal,
            calibration=shipped_calibration(),
        )
        return Projected(request=request, projection=mixed, chip=None)
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
    return Projected(
        request=request,
        projection=warned(replace(projection, run_ids=run_ids), records, roofs),
        chip=chip,
        records=records,
        roofs=roofs,
        memory_bytes=memory_bytes,
    )


def keep(made: Projected, html_file: Path | None = None) -> RunFolder:
    """A folder with the projection and its report, or with the report in that file instead."""
    request, projection = made.request, made.projection
    folder = new_folder(request.results_dir, f"{projection.model}-{request.cluster.name}")
    folder.write(PROJECTION, projection)
    report = (html_file or folder.path / REPORT_HTML).resolve()
    write_atomically(report, html.render(projection=projection, chip=made.chip))
    return folder


def new_folder(results_dir: Path, name: str) -> RunFolder:
    """A folder among the projections whose name begins with the time."""
    folder = RunFolder(results_dir / PROJECTIONS / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{name}")
    folder.path.mkdir(parents=True, exist_ok=True)
    return folder


def check_report_file(html_file: Path | None) -> None:
    """Refuse a file that no report can be written to, before anything is computed for it.

    Raises:
        ConfigError: when the file's folder is not there, or it is a folder itself.
    """
    if html_file is None:
        return
    file = html_file.resolve()
    if file.is_dir():
        raise ConfigError(f"html: {html_file} is a folder. Name a file in it, as report.html.")
    if not file.parent.is_dir():
        raise ConfigError(f"html: {file.parent} is not a folder. Make it first.")
