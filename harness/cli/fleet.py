"""`chipscale run devices=all`: every device of the machine at once, and how far apart they are."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from harness.cli.compiling import compile_before
from harness.cli.finish import project_run, show_results, track
from harness.cli.progress import FleetProgress
from harness.cli.render import render_reports
from harness.config.build import RunRequest, run_request
from harness.config.this_chip import chip_name
from harness.errors import (
    CASE_FAILED_EXIT_CODE,
    INTERRUPTED_EXIT_CODE,
    TRACKING_REQUIRED_EXIT_CODE,
    ChipscaleError,
)
from harness.fleet import (
    DEVICE_TAG,
    SWEEP_TAG,
    DeviceOutcome,
    device_indices,
    keep_spread,
    measure_fleet,
)
from harness.record import FAILURES
from harness.report.spread_table import spread_view
from harness.run import RUNS, new_job, resume_command
from harness.store.folder import REPORT_HTML, RunFolder, run_suffix
from harness.worker.job import Job
from kernels.tuning import TuningTable


def run_fleet(
    config: DictConfig,
    request: RunRequest,
    tuning: tuple[TuningTable, ...],
    console: Console,
    config_dirs: Sequence[Path] = (),
) -> int:
    """Measure the devices that the request names; returns the exit code."""
    assert request.devices is not None
    indices = device_indices(request.devices, request.device)
    sweep = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{run_suffix()}"
    requests = [run_request(_of_device(config, index)) for index in indices]
    jobs = [_job(one, sweep, tuning) for one in requests]
    console.print(
        f"chipscale: suite {request.suite}, model {request.model.name}, {len(request.cases)} cases "
        f"on each of {len(jobs)} devices, sweep {sweep}",
        markup=False,
        soft_wrap=True,
    )
    labels = [f"device {index}" for index in indices]
    try:
        compile_before(jobs[0], request.compile_processes, console, indices)
        with FleetProgress(console, labels, len(request.cases)) as progress:
            outcomes = measure_fleet(
                jobs,
                request.results_dir,
                progress.watchers,
                lambda environment: chip_name(environment, config_dirs),
            )
    except KeyboardInterrupt:
        _tell_stopped(jobs, request, console)
        return INTERRUPTED_EXIT_CODE
    return _finish(outcomes, requests, sweep, console, config_dirs)


def _of_device(config: DictConfig, index: int) -> DictConfig:
    """The configuration as it would be for that device alone; its run is resumed by it."""
    one = config.copy()
    one.devices = None
    one.device.index = index
    return one


def _job(request: RunRequest, sweep: str, tuning: tuple[TuningTable, ...]) -> Job:
    index = request.device.index
    job = new_job(
        suite=request.suite,
        model=request.model.name,
        device=request.device,
        policy=request.policy,
        cases=request.cases,
        tags=(*request.tags, (SWEEP_TAG, sweep), (DEVICE_TAG, str(index))),
        tuning=tuning,
        config_yaml=request.config_yaml,
    )
    return replace(job, run=replace(job.run, run_id=f"{job.run.run_id}-d{index}"))


def _tell_stopped(jobs: Sequence[Job], request: RunRequest, console: Console) -> None:
    folders = [RunFolder(request.results_dir / RUNS / job.run.run_id) for job in jobs]
    kept = sum(len(folder.records()) for folder in folders if folder.path.exists())
    num_cases = sum(len(job.cases) for job in jobs)
    begun = [job for job, folder in zip(jobs, folders, strict=True) if folder.path.exists()]
    how = "; go on with" if begun else "; no run has begun."
    console.print(f"Stopped. {kept} of {num_cases} records are kept{how}", markup=False)
    for job in begun:
        console.print(
            f"  {resume_command(job.run.run_id, request.results_dir)}", markup=False, soft_wrap=True
        )


def _finish(
    outcomes: Sequence[DeviceOutcome],
    requests: Sequence[RunRequest],
    sweep: str,
    console: Console,
    config_dirs: Sequence[Path],
) -> int:
    """Report and log every device, and show the one in the middle and the spread.

    Raises:
        ChipscaleError: the first one, when no device could be measured.
    """
    errors = [outcome for outcome in outcomes if outcome.error is not None]
    folders = [outcome.folder for outcome in outcomes if outcome.folder is not None]
    if not folders:
        assert errors[0].error is not None
        raise errors[0].error
    spread = keep_spread(sweep, requests[0].results_dir)
    shown = folders[0]
    if spread is not None:
        shown = next(one for one in folders if one.info.run_id == spread.middle.run_id)
    request = requests[[outcome.folder for outcome in outcomes].index(shown)]
    console.print(
        f"Device {request.device.index}"
        f"{', which is the one in the middle' if spread is not None else ''}:\n",
        markup=False,
    )
    show_results(shown, console)
    project_run(shown, request, console, config_dirs)
    for folder in folders:
        render_reports(folder, config_dirs)
    if spread is not None:
        console.print(spread_view(spread))
    for outcome in errors:
        console.print(
            f"warning: device {outcome.index} was not measured: {outcome.error}",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )
        if RunFolder(request.results_dir / RUNS / outcome.run_id).has_records:
            command = resume_command(outcome.run_id, request.results_dir)
            console.print(f"  what it has is kept: {command}", markup=False, soft_wrap=True)
    is_tracked = track(folders, request.results_dir, request.tracking, console, config_dirs)
    console.print("\nThe reports:")
    for folder in folders:
        console.print(f"  {folder.path / REPORT_HTML}", markup=False, soft_wrap=True)
    if not is_tracked:
        return TRACKING_REQUIRED_EXIT_CODE
    statuses = Counter(record.status for folder in folders for record in folder.records())
    if any(statuses[failure] for failure in FAILURES):
        return CASE_FAILED_EXIT_CODE
    for outcome in errors:
        error = outcome.error
        return error.exit_code if isinstance(error, ChipscaleError) else ChipscaleError.exit_code
    return 0
