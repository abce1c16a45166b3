"""A file of pytest-benchmark that `chip_benchmark` measured, kept as a run to be a base.

results/baselines/<name of the file>-<digest of it>/ has what a run's folder has of the same cases.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from harness.cases import Case, distinct
from harness.codec import from_data, to_json
from harness.device.request import DeviceRequest
from harness.errors import RecordError
from harness.measure.policy import MeasurePolicy
from harness.store.disk import write_atomically
from harness.store.folder import CASES, ENVIRONMENT, RECORDS, RUN, RunFolder, RunInfo
from harness.store.pytest_benchmark import BenchmarkFile, read_benchmark_file
from harness.worker.job import Job, read_job

BASELINES = "baselines"
"""The folder of such runs, inside the results folder."""
SUITE = "benchmarks"
"""What a gate of a file's cases is shown as; there is no file of that name in `configs/suite`."""
NEW_FILE = "`pytest benchmarks --benchmark-json=FILE` writes one that has them."


def run_of_file(path: Path, results_dir: Path) -> RunFolder:
    """The file's records as a run; a file that was kept before is not written again.

    Raises:
        RecordError: when it cannot be read, or has no record of a case with its rules.
    """
    file = read_benchmark_file(path)
    records = {record.case.id: record for record in file.records}
    if not records or file.environment is None:
        raise RecordError(
            f"{path}: it has no samples of a case that chip_benchmark measured, so there is "
            f"nothing to hold a case against. {NEW_FILE}"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    folder = RunFolder(results_dir / BASELINES / f"{path.stem}-{digest}")
    if (folder.path / RUN).exists():
        return folder
    job = _job(file, folder.path.name, tuple(one.case for one in records.values()))
    folder.path.mkdir(parents=True, exist_ok=True)
    lines = "".join(to_json(record) + "\n" for record in records.values())
    write_atomically(folder.path / RECORDS, lines)
    folder.write(ENVIRONMENT, file.environment)
    folder.write(CASES, job)
    folder.write(RUN, job.run)  # The last, since it says that there is a run.
    return folder


def _job(file: BenchmarkFile, run_id: str, cases: tuple[Case, ...]) -> Job:
    """Raises RecordError where the file does not say by which rules it was measured."""
    if file.policy is None or not file.device:
        raise RecordError(
            f"{file.path}: it does not say by which rules its cases were measured. {NEW_FILE}"
        )
    made_at = file.made_at or datetime.now(UTC).isoformat(timespec="seconds")
    return Job(
        run=RunInfo(
            run_id=run_id,
            suite=SUITE,
            model="",
            device=file.device,
            chip="",
            num_cases=len(cases),
            started_at=made_at,
            ended_at=made_at,
            command=f"pytest --benchmark-json={file.path.name}",
        ),
        device=DeviceRequest(name=file.device),
        policy=from_data(MeasurePolicy, file.policy, f"{file.path}: chipscale.policy"),
        cases=cases,
    )


def overrides_of(folder: RunFolder) -> tuple[str, ...]:
    """What makes `chipscale run` measure the cases of a run that was made of a file."""
    return suite_overrides(read_job(folder.path / CASES).cases)


def suite_overrides(cases: Sequence[Case]) -> tuple[str, ...]:
    """The overrides for those cases and no others."""
    wanted: dict[tuple[str, str], list[Case]] = {}
    for case in distinct(cases):
        wanted.setdefault((case.problem.id, case.cache), []).append(case)
    entries = [_entry(of_problem) for of_problem in wanted.values()]
    return (
        "suite=quick",
        f"suite.name={SUITE}",
        "suite.phases=[]",
        "suite.roofs=[]",
        f"suite.problems=[{','.join(entries)}]",
    )


def _entry(cases: Sequence[Case]) -> str:
    """One problem as an entry of `suite.problems`, in Hydra's words."""
    problem = cases[0].problem
    axes = ",".join(f"{name}:{size}" for name, size in problem.axes)
    said = {
        "op": problem.op,
        "dtype": problem.dtype,
        "mode": str(problem.mode),
        "variant": problem.variant,
        "cache": cases[0].cache,
    }
    words = [f"{name}:{json.dumps(text)}" for name, text in said.items() if text]
    impls = ",".join(case.impl for case in cases)
    return f"{{{','.join(words)},axes:{{{axes}}},impls:[{impls}]}}"
