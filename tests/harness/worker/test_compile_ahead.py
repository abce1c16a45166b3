"""What is compiled ahead is found by the worker, and nothing is lost when it is not."""

import dataclasses
import os
from pathlib import Path

import pytest
from rich.console import Console

from harness.cases import Case
from harness.cli.compiling import compile_before, num_compile_processes
from harness.codec import to_json
from harness.device.request import DeviceRequest
from harness.worker.compile_ahead import (
    CONTEXT_BYTES,
    MEMORY_FACTOR,
    compile_ahead,
    compiling,
    num_fitting,
)
from harness.worker.job import Job
from kernels import registry
from kernels.op import problem
from tests.harness.fake_runs import CASES, fake_job

PROBLEM = problem("copy", "bf16", N=2**16)
MIXED = tuple(Case(problem=PROBLEM, impl=impl) for impl in ("torch", "compile", "triton"))


def job_on(name: str, cases: tuple[Case, ...]) -> Job:
    job = fake_job()
    return dataclasses.replace(job, device=DeviceRequest(name=name), cases=cases)


def test_eager_code_has_nothing_to_compile() -> None:
    assert {case.impl for case in compiling(MIXED)} == {"compile", "triton"}


def test_as_many_processes_as_hold_the_largest_case_at_once() -> None:
    job = job_on("cpu", MIXED)
    case_bytes = MEMORY_FACTOR * registry.cost(PROBLEM).num_bytes + CONTEXT_BYTES
    assert num_fitting(job, 8, 100 * case_bytes) == 8
    assert num_fitting(job, 8, 3 * case_bytes + 1) == 3
    assert num_fitting(job, 8, 1) == 1
    assert num_fitting(job, 8, None) == 8


def test_only_an_accelerator_compiles_ahead_unless_it_is_asked_for() -> None:
    fake, cpu = DeviceRequest(name="fake"), DeviceRequest(name="cpu")
    assert num_compile_processes(None, fake, MIXED) == 0
    assert num_compile_processes(4, fake, MIXED) == 0
    assert num_compile_processes(None, cpu, MIXED) == 0
    assert num_compile_processes(3, cpu, MIXED) == 3
    assert num_compile_processes(3, cpu, MIXED[:1]) == 0


@pytest.mark.slow
def test_what_was_compiled_ahead_is_in_the_cache_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "inductor"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", os.fspath(cache))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    path = tmp_path / "cases.json"
    path.write_text(to_json(job_on("cpu", MIXED)), encoding="utf-8")
    seen: list[tuple[int, int]] = []
    told = compile_ahead(
        path, 1, 200.0, on_progress=lambda begun, total: seen.append((begun, total))
    )
    assert told.startswith("compiled ahead: 2 of 2 cases in 1 processes")
    assert "did not end" not in told
    assert list(cache.rglob("*.so"))
    assert seen[-1][1] == 2


def test_what_does_not_end_in_time_is_left_to_the_worker(tmp_path: Path) -> None:
    path = tmp_path / "cases.json"
    path.write_text(to_json(job_on("cpu", MIXED)), encoding="utf-8")
    assert "2 did not end in time" in compile_ahead(path, 2, 0.0)


def test_a_device_that_is_not_there_compiles_nothing_and_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "cases.json"
    path.write_text(to_json(job_on("npu", MIXED)), encoding="utf-8")
    assert compile_ahead(path, 1, 100.0).startswith("compiled ahead: 0 of 2 cases")


def test_cases_with_a_record_are_not_compiled_again() -> None:
    console = Console(record=True, force_terminal=False, width=200)
    done = frozenset(case.id for case in CASES)
    compile_before(job_on("cpu", CASES), 2, console, done=done)
    assert console.export_text() == ""
