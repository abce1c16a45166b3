"""Whatever an implementation does, at whatever stage, costs its own case alone."""

import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cases import Case
from harness.codec import to_json
from harness.device.request import DeviceRequest, FakeOptions, Fault
from harness.errors import CASE_FAILED_EXIT_CODE, StorageError
from harness.record import Record, Status
from harness.store.folder import RECORDS, RunFolder
from harness.store.records import quarantine_of, read_quarantined
from harness.worker.job import Job
from kernels.op import problem
from tests.harness.conftest import resize
from tests.harness.fake_runs import fake_job
from tests.harness.worker.lives import Life

IMPLS = ("torch", "compile", "triton")
TIMEOUT_S = 2.0
"""Of a case that takes 10 ms, on a host that is busy with other tests."""


def job_of(num_sizes: int, ops: Sequence[str], faults: dict[str, Fault], **options: int) -> Job:
    cases = tuple(
        Case(problem=problem(op, "bf16", N=1024 * step), impl=impl)
        for step in range(1, num_sizes + 1)
        for op in ops
        for impl in IMPLS
    )
    job = fake_job(case_timeout_s=TIMEOUT_S)
    fake = FakeOptions(faults=tuple(faults.items()), **options)
    return replace(
        job,
        cases=cases,
        run=replace(job.run, num_cases=len(cases)),
        device=DeviceRequest(name="fake", fake=fake),
    )


def measure(warm: "subprocess.Popen[str]", job: Job, out: Path) -> tuple[int, tuple[Record, ...]]:
    """One life: its exit code, and the records there are then."""
    job_file = out.parent / "job.json"
    job_file.write_text(to_json(job), encoding="utf-8")
    exit_code = Life(warm, job_file, out).end()
    return exit_code, RunFolder(out).records()


@pytest.mark.parametrize(
    ("sound_runs", "stage"), [(None, "being prepared"), (10, "being timed")], ids=("first", "timed")
)
@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        (Fault.SEGFAULT, Status.CRASHED, "the worker was ended by SIGSEGV while the case was {}"),
        (Fault.CRASH, Status.CRASHED, "the worker was ended by SIGABRT while the case was {}"),
        (Fault.HANG, Status.TIMEOUT, "no end after 2 s (measure.case_timeout_s), {}: no sign"),
        (Fault.OUT_OF_MEMORY, Status.OUT_OF_MEMORY, "out of memory"),
        (Fault.ERROR, Status.ERROR, "RuntimeError: the fake chip failed"),
        (Fault.NAN, Status.INCORRECT, "nan"),
        (Fault.WRONG, Status.INCORRECT, "relative error 1"),
        (Fault.POISON, Status.ERROR, "the fake chip is poisoned"),
    ],
)
@pytest.mark.parametrize("faulty", ["torch", "triton"])
def test_a_fault_of_one_implementation_costs_none_that_is_measured_with_it(
    warm: "subprocess.Popen[str]",
    tmp_path: Path,
    fault: Fault,
    status: Status,
    words: str,
    sound_runs: int | None,
    stage: str,
    faulty: str,
) -> None:
    options = {} if sound_runs is None else {"sound_runs": sound_runs}
    job = job_of(1, ("copy", "scale"), {f"copy/{faulty}": fault}, **options)
    exit_code, records = measure(warm, job, tmp_path / "out")
    assert exit_code == CASE_FAILED_EXIT_CODE
    found = {record.case: record for record in records}
    assert len(records) == len(found) == len(job.cases)
    for case, record in found.items():
        is_faulty = case.problem.op == "copy" and case.impl == faulty
        assert record.status is (status if is_faulty else Status.OK), record.reason
        if is_faulty:
            assert words.format(stage) in record.reason


def test_the_rest_of_an_op_is_skipped_after_three_failures_and_not_tried_again(
    warm: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    job = job_of(6, ("copy", "scale"), {"copy/triton": Fault.SEGFAULT})
    _, records = measure(warm, job, tmp_path / "out")
    statuses = Counter(
        (record.case.problem.op, record.case.impl, record.status) for record in records
    )
    assert statuses == {
        ("copy", "triton", Status.CRASHED): 3,
        ("copy", "triton", Status.SKIPPED): 3,
        **{("copy", impl, Status.OK): 6 for impl in ("torch", "compile")},
        **{("scale", impl, Status.OK): 6 for impl in IMPLS},
    }
    skipped = next(record for record in records if record.status is Status.SKIPPED)
    assert "copy.bf16.forward[N=2048]/triton crashed" in skipped.reason
    assert measure(warm, job, tmp_path / "out")[1] == records


def test_errors_skip_the_rest_without_a_crash(
    warm: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    job = job_of(5, ("copy",), {"copy/compile": Fault.ERROR})
    _, records = measure(warm, job, tmp_path / "out")
    of_compile = [record.status for record in records if record.case.impl == "compile"]
    assert of_compile == [Status.ERROR] * 3 + [Status.SKIPPED] * 2
    assert Counter(record.status for record in records)[Status.OK] == 10
    assert len({record.case.id for record in records}) == len(records)


def test_a_damaged_line_is_quarantined_and_its_case_measured_again(
    warm: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    job = job_of(2, ("copy",), {})
    out = tmp_path / "out"
    _, records = measure(warm, job, out)
    lines = (out / RECORDS).read_bytes().splitlines(keepends=True)
    lines[2] = b"\0" * 100 + b"\n"
    (out / RECORDS).write_bytes(b"".join(lines))
    exit_code, again = measure(warm, job, out)
    assert exit_code == 0
    assert again[:5] == (*records[:2], *records[3:])
    assert [record.case for record in again[5:]] == [records[2].case]
    (line,) = read_quarantined(quarantine_of(out / RECORDS))
    assert line.line == 3


def test_a_full_disk_ends_the_run_and_with_room_the_same_command_goes_on(
    warm: "subprocess.Popen[str]", small_disk: Path, tmp_path: Path
) -> None:
    job = job_of(10, ("copy",), {})
    out = small_disk / "out"
    job_file = tmp_path / "job.json"
    job_file.write_text(to_json(job), encoding="utf-8")
    life = Life(warm, job_file, out)
    assert life.end() == StorageError.exit_code
    kept = (out / RECORDS).read_bytes()
    assert kept.count(b"\n") >= 2
    assert kept.endswith(b"}\n")
    assert not list(out.glob(".*.tmp"))
    resize(small_disk, "4m")
    assert Life(warm, job_file, out).end() == 0
    assert (out / RECORDS).read_bytes().startswith(kept)
    records = RunFolder(out).records()
    assert [record.case for record in records] == list(job.cases)
