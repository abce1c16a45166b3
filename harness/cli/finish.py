"""What follows the measuring of a run: projection, report, MLflow, and what to type next."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from harness.cli.render import render_reports
from harness.cli.run_closure import keep_closures
from harness.cli.run_roofs import settle_roofs
from harness.config.build import RunRequest, TrackingRequest
from harness.config.calibration import shipped_calibration
from harness.config.specs import list_names, load_chip
from harness.config.this_chip import this_chip
from harness.errors import (
    CASE_FAILED_EXIT_CODE,
    TRACKING_REQUIRED_EXIT_CODE,
    ConfigError,
    PlanError,
)
from harness.extrapolate.project import project
from harness.fleet import SWEEP_TAG, keep_spread
from harness.judgement import proof_warnings
from harness.projection import Projection
from harness.record import FAILURES, Record
from harness.report.closure_table import closure_view
from harness.report.rows import wall_time_text
from harness.report.spread_table import spread_view
from harness.report.table import projection_view, results_view, roofs_view
from harness.results import ResultRow, accepted, best_rows, result_rows
from harness.roofline import Roofline
from harness.store.folder import PROJECTION, REPORT_HTML, RunFolder
from harness.store.mlflow import sync, tracking_target
from harness.wall_time import wall_time_of
from harness.workload.cost import step_cost
from harness.workload.step import Phase


def finish_run(
    folder: RunFolder,
    request: RunRequest,
    console: Console,
    config_dirs: Sequence[Path] = (),
) -> int:
    """Project, report, log and show a measured run; returns the exit code."""
    records = folder.records()
    rows = show_results(folder, console, config_dirs)
    project_run(folder, request, console, config_dirs)
    # A run that was resumed may have been the last one of its sweep to end.
    sweep = dict(folder.info.tags).get(SWEEP_TAG)
    spread = keep_spread(sweep, request.results_dir) if sweep else None
    if spread is not None:
        console.print(spread_view(spread))
    render_reports(folder, config_dirs)
    tracking = track([folder], request.results_dir, request.tracking, console, config_dirs)
    _say_what_next(folder, request, console)
    statuses = Counter(record.status for record in records)
    has_failed = any(statuses[failure] for failure in FAILURES) or any(
        row.is_rejected for row in rows
    )
    if not tracking:
        return TRACKING_REQUIRED_EXIT_CODE
    return CASE_FAILED_EXIT_CODE if has_failed else 0


def show_results(
    folder: RunFolder, console: Console, config_dirs: Sequence[Path] = ()
) -> tuple[ResultRow, ...]:
    """The table of results, the roofs that the run has searched, and where the time went."""
    records = folder.records()
    roofs = settle_roofs(folder, config_dirs)
    run_id = folder.info.run_id
    rows = result_rows(records, roofs)
    console.print(results_view(rows, roofs, run_id))
    if any(roof.is_searched and roof.run_id == run_id for roof in roofs.roofs):
        console.print()
        console.print(roofs_view(roofs))
    closures = keep_closures(folder)
    if closures:
        console.print()
        console.print(closure_view(closures))
    for warning in proof_warnings(folder.proof):
        console.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)
    wall_time = wall_time_of(records)
    if wall_time is not None:
        console.print(wall_time_text(wall_time), markup=False)
    console.print()
    return rows


def project_run(
    folder: RunFolder, request: RunRequest, console: Console, config_dirs: Sequence[Path] = ()
) -> None:
    """Project from the run where that was asked for and its suite has a training step.

    Raises:
        PlanError: only when `strict` was asked for.
    """
    if not request.is_projected:
        return
    if any(Phase.TRAINING in record.case.roles for record in folder.records()):
        _project(folder, request, console, config_dirs)
    else:
        console.print("No projection: the suite has no training work, and a step is of training.")


def _project(
    folder: RunFolder, request: RunRequest, console: Console, config_dirs: Sequence[Path]
) -> None:
    """Project from the run and keep the result; a plan that cannot be is told, not fatal.

    Raises:
        PlanError: only when `strict` was asked for.
    """
    with console.status("projecting ..."):
        try:
            projection = projection_of_run(folder, request, config_dirs)
        except (PlanError, ConfigError) as error:
            if request.is_strict:
                raise
            console.print(f"No projection: {error}", style="yellow", markup=False)
            return
    folder.write(PROJECTION, projection)
    console.print(projection_view(projection))


def projection_of_run(
    folder: RunFolder, request: RunRequest, config_dirs: Sequence[Path] = ()
) -> Projection:
    """The cluster of the request, made of the chip that the run measured.

    Raises:
        PlanError: when no plan fits, or when `strict` and an op was not measured.
        ConfigError: when a rate that is needed is neither measured nor known.
    """
    environment = folder.environment
    chip = this_chip(environment, config_dirs)
    if request.cluster.chip not in ("this", chip.name):
        raise ConfigError(
            f"cluster: {request.cluster.name} is made of {request.cluster.chip}, but the chip "
            f"measured is {chip.name}. Use cluster=this_100k, or `chipscale project` for the other."
        )
    projection = project(
        chip=chip,
        model=request.model,
        cluster=request.cluster,
        parallel=request.parallel,
        cost=step_cost,
        records=accepted(folder.records(), folder.roofs),
        roofs=folder.roofs,
        device_memory_bytes=environment.device.memory_bytes,
        strict=request.is_strict,
        calibration=shipped_calibration(),
    )
    run_ids = (folder.info.run_id,)
    return warned(replace(projection, run_ids=run_ids), folder.records(), folder.roofs)


def doubts(records: Sequence[Record], roofs: Roofline | None = None) -> tuple[str, ...]:
    """What makes measurements doubtful, one sentence each."""
    rows = best_rows(result_rows(records, roofs))
    noisy = sum(row.is_noisy for row in rows)
    if not noisy:
        return ()
    return (
        f"Of the {len(rows)} problems measured {noisy} came out noisy, and their medians may be "
        "far off: the interval knows of their samples, not of what disturbed them.",
    )


def warned(
    projection: Projection, records: Sequence[Record], roofs: Roofline | None = None
) -> Projection:
    """The projection, with what makes its measurements doubtful among its assumptions."""
    return replace(projection, assumptions=(*doubts(records, roofs), *projection.assumptions))


def track(
    folders: Sequence[RunFolder],
    results_dir: Path,
    tracking: TrackingRequest,
    console: Console,
    config_dirs: Sequence[Path] = (),
) -> bool:
    """Fill MLflow within its time, and tell how that went; False when it was required and failed.

    An absent MLflow never makes a measurement fail.
    """
    if not tracking.is_enabled:
        return True
    target = tracking_target(results_dir)
    with console.status("logging to MLflow ..."):
        results = sync(
            folders, target, budget_s=tracking.timeout_s, vendors=vendors_of(config_dirs)
        )
    failed = [result for result in results if not result.is_done]
    for result in failed:
        console.print(f"warning: {result.message}", style="yellow", markup=False, soft_wrap=True)
    if not failed:
        console.print(f"MLflow: logged to {target.shown}", markup=False, soft_wrap=True)
    return not (failed and tracking.is_required)


def vendors_of(config_dirs: Sequence[Path] = ()) -> dict[str, str]:
    """Vendor by chip name."""
    return {name: load_chip(name, config_dirs).vendor for name in list_names("chip", config_dirs)}


def _say_what_next(folder: RunFolder, request: RunRequest, console: Console) -> None:
    """What most people want next."""
    is_default = request.results_dir == Path("results").resolve()
    where = "" if is_default else f" --results-dir {_short(request.results_dir)}"
    steps = {
        "see it in MLflow": f"chipscale ui{where}",
        "read the report": _short(folder.path / REPORT_HTML),
        "another chip": "the same there, then here: chipscale compare RUN RUN",
        "a bare host's chip": f"{folder.info.command} plan=cases.json",
    }
    console.print("\nNext:")
    for what, command in steps.items():
        console.print(f"  {what + ':':<18} {command}", markup=False, soft_wrap=True)


def _short(path: Path) -> str:
    """The path from here where that is shorter."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
