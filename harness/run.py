"""One run: a job measured into a folder of its own, or gone on with."""

import contextlib
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from harness.cases import Case
from harness.codec import to_json
from harness.device.request import DeviceRequest
from harness.environment import Environment
from harness.errors import ChipscaleError, NothingMeasured, RecordError, StorageError, did_you_mean
from harness.measure.policy import MeasurePolicy
from harness.record import Record, Status
from harness.store.disk import write_atomically
from harness.store.folder import (
    CASES,
    RUN,
    RunFolder,
    RunInfo,
    run_folders,
    run_suffix,
)
from harness.store.query import Found, Query, is_query
from harness.worker.job import Job, read_job
from harness.worker.supervisor import Watcher, supervise
from kernels.tuning import TuningTable

RUNS = "runs"
"""The folder of all runs, inside the results folder."""


def new_job(
    *,
    suite: str,
    model: str,
    device: DeviceRequest,
    policy: MeasurePolicy,
    cases: Sequence[Case],
    tags: tuple[tuple[str, str], ...],
    tuning: tuple[TuningTable, ...] = (),
    config_yaml: str,
) -> Job:
    """A job with a run id of its own, which begins with the time so that names sort by age."""
    now = datetime.now(UTC)
    return Job(
        run=RunInfo(
            run_id=f"{now:%Y%m%dT%H%M%S}-{suite}-{model}-{run_suffix()}",
            suite=suite,
            model=model,
            device=device.name,
            chip="",
            num_cases=len(cases),
            started_at=now.isoformat(timespec="seconds"),
            command=shlex.join(["chipscale", *sys.argv[1:]]),
            tags=tags,
        ),
        device=device,
        policy=policy,
        cases=tuple(cases),
        tuning=tuning,
        config_yaml=config_yaml,
    )


def job_to_resume(run_id: str, job: Job, results_dir: Path) -> Job:
    """The unfinished run of that id, provided that it measures what `job` asks for.

    Raises:
        RecordError: when there is no such run, or it measures something else.
    """
    folder = find_run(run_id, results_dir)
    earlier = read_job(folder.path / CASES)
    if folder.path.resolve() != (results_dir / RUNS / earlier.run.run_id).resolve():
        raise RecordError(
            f"resume: {folder.path} is a copy of run {earlier.run.run_id}, or was renamed. Only "
            f"{results_dir / RUNS / earlier.run.run_id} is gone on with; move it there."
        )
    if earlier.cases != job.cases or earlier.policy != job.policy:
        raise RecordError(
            f"resume: run {run_id} has other cases or another measuring policy than this "
            "command. Repeat the command it was started with and add resume=: "
            f"{earlier.run.command or 'see its run.json'}"
        )
    if earlier.device != job.device:
        raise RecordError(
            f"resume: run {run_id} is on device '{earlier.device.name}', this command on "
            f"'{job.device.name}'. A run is of one device."
        )
    return replace(job, run=replace(earlier.run, ended_at=""))


def measure_run(
    job: Job,
    results_dir: Path,
    watcher: Watcher,
    chip_name: Callable[[Environment], str],
    stop: threading.Event | None = None,
) -> RunFolder:
    """Measure what the run has no record of yet, and close the run.

    A stop that is set ends it as Ctrl-C does.

    Raises:
        NothingMeasured: when every case ended without a time.
        StorageError: when the disk takes no more; what was measured is kept.
        ChipscaleError: as `supervise`.
    """
    folder = RunFolder(results_dir / RUNS / job.run.run_id)
    is_new = not folder.path.exists()
    try:
        supervise(job, folder.path, watcher, stop=stop)
    except ChipscaleError as error:
        # Refused before anything was measured: no run has begun. One that is there already stays,
        # since another process may be at it.
        if is_new and not folder.has_records:
            shutil.rmtree(folder.path, ignore_errors=True)
        elif isinstance(error, StorageError):
            raise StorageError(
                f"{error} {len(folder.records())} of {len(job.cases)} records are kept. Make "
                f"room, then `{resume_command(job.run.run_id, results_dir)}` goes on."
            ) from None
        raise
    except BaseException:
        # Ctrl-C, or a reader of the output that is gone: what is there tells its chip.
        with contextlib.suppress(ChipscaleError, OSError):
            close_run(folder, chip_name)
        raise
    close_run(folder, chip_name)
    records = folder.records()
    if not any(record.status is Status.OK for record in records):
        raise NothingMeasured(
            f"None of the {len(records)} cases could be measured; the first says: "
            f"{_first_reason(records)}. {folder.path} has them all."
        )
    return folder


def close_run(folder: RunFolder, chip_name: Callable[[Environment], str]) -> None:
    """Write down which chip it was and, when every case has a record, that the run has ended."""
    info = folder.info
    ended_at = info.ended_at
    if not ended_at and len({one.case.id for one in folder.records()}) >= info.num_cases:
        ended_at = datetime.now(UTC).isoformat(timespec="seconds")
    # A name that was given where the run was made stays: it may be of that user's own chips.
    chip = info.chip or chip_name(folder.environment)
    if (chip, ended_at) != (info.chip, info.ended_at):
        closed = replace(info, chip=chip, ended_at=ended_at)
        write_atomically(folder.path / RUN, to_json(closed) + "\n")


def resume_command(run_id: str, results_dir: Path) -> str:
    """What to type to go on with a run that was stopped."""
    is_default = results_dir == Path("results").resolve()
    where = "" if is_default else f" results_dir={results_dir}"
    return f"chipscale run resume={run_id}{where}"


def find_run(name: str, results_dir: Path) -> RunFolder:
    """As `found_run`, for those who do not tell which of several it is."""
    return found_run(name, results_dir).folder


def found_run(name: str, results_dir: Path) -> Found:
    """A run by folder, by id or a part of it that only one run has, or by a query.

    A query is `latest`, `oldest`, or properties as `chip=h200 suite=training`; of several runs that
    match it is the newest, with a remark that says so.

    Raises:
        RecordError: when none is meant, or several have that part in their id.
    """
    if not name:
        raise RecordError("no run is named. `chipscale list runs` shows all.")
    if (Path(name) / RUN).exists():
        return Found(folder=RunFolder(Path(name)))
    folders = run_folders(results_dir / RUNS)
    if not folders:
        raise RecordError(
            f"{results_dir / RUNS}: no runs there yet. `chipscale run` makes the first."
        )
    if is_query(name):
        return Query.parse(name).find(folders)
    found = [folder for folder in folders if name in folder.path.name]
    exact = [folder for folder in found if folder.path.name == name]
    if len(exact or found) == 1:
        return Found(folder=(exact or found)[0])
    if found:
        ids = ", ".join(folder.path.name for folder in found[:5])
        raise RecordError(
            f"{name}: {len(found)} runs have that in their name, as {ids}. Give more of it."
        )
    near = did_you_mean(name, (folder.path.name for folder in folders))
    raise RecordError(
        f"{name}: no run of that name in {results_dir / RUNS}. {near}"
        "`chipscale list runs` shows all."
    )


def _first_reason(records: Sequence[Record]) -> str:
    return next((f"{record.status}, {record.reason}" for record in records), "nothing")
