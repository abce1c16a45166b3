"""What is compiled ahead is found by the worker, and nothing is lost when it is not."""

import dataclasses
import os
import select
import subprocess
import sys
import time
from contextlib import closing
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from harness.cases import Case
from harness.cli.compiling import compile_before, num_compile_processes
from harness.codec import from_json, to_json
from harness.device.base import Device
from harness.device.cpu import CpuDevice
from harness.device.fake import FakeDevice
from harness.device.request import DeviceRequest, FakeOptions, Fault
from harness.environment import num_usable_cores, processor_name
from harness.errors import DeviceBusyError
from harness.worker import compile_ahead as ahead
from harness.worker import compile_child, process
from harness.worker import lock as lock_module
from harness.worker.__main__ import main as worker_main
from harness.worker.compile_ahead import (
    CONTEXT_BYTES,
    MEMORY_FACTOR,
    compile_ahead,
    compiling,
    num_fitting,
)
from harness.worker.job import Job
from harness.worker.lock import LOCK_DIR_VARIABLE, Lock, device_lock, this_process
from harness.worker.process import child_environment
from kernels import registry
from kernels.op import problem
from tests.harness.fake_runs import CASES, fake_job
from tests.harness.worker.lives import children_of, is_alive

PROBLEM = problem("copy", "bf16", N=2**16)
MIXED = tuple(Case(problem=PROBLEM, impl=impl) for impl in ("torch", "compile", "triton"))


FEW = tuple(case for case in compiling(CASES) if case.problem.op in ("rms_norm", "swiglu"))
HANGING_AFTER_S = 6.0
"""A child has imported torch and is in its first case by then."""


@pytest.fixture(autouse=True)
def _locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOCK_DIR_VARIABLE, str(tmp_path / "locks"))


def cpu_lock() -> Lock:
    return device_lock(CpuDevice(processor_name(), num_usable_cores()).info, 0)


def count_starts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    started: list[str] = []
    start = ahead._start

    def counted(job_file: Path, device: str) -> "subprocess.Popen[str]":
        started.append(device)
        return start(job_file, device)

    monkeypatch.setattr(ahead, "_start", counted)
    return started


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
    seen: list[tuple[int, int]] = []
    told = compile_ahead(
        job_on("cpu", MIXED), 1, 200.0, on_progress=lambda begun, total: seen.append((begun, total))
    )
    assert told.startswith("compiled ahead: 2 of 2 cases in 1 process, ")
    assert told.endswith(" s")
    assert list(cache.rglob("*.so"))
    assert seen[-1] == (2, 2)


def test_what_does_not_end_in_time_is_left_to_the_worker() -> None:
    assert "out of time with 0 under way" in compile_ahead(job_on("cpu", MIXED), 2, 0.0)


def test_a_device_that_is_not_there_compiles_nothing_and_is_no_error() -> None:
    told = compile_ahead(job_on("npu", MIXED), 2, 100.0)
    assert told.startswith("compiled ahead: 0 of 2 cases in 0 processes")
    assert "1 process could not open the device (ConfigError: device.name: 'npu'" in told


@pytest.mark.slow
def test_a_case_that_hangs_is_stopped_and_the_others_are_compiled() -> None:
    job = dataclasses.replace(fake_job({"rms_norm": Fault.HANG}, case_timeout_s=5.0), cases=FEW)
    told = compile_ahead(job, 1)
    assert told.startswith("compiled ahead: 1 of 2 cases in 2 processes")
    assert "1 stopped after 5 s" in told


def test_cases_that_fail_are_counted_and_a_broken_device_is_opened_anew() -> None:
    faults = {"rms_norm": Fault.ERROR, "copy": Fault.POISON, "swiglu": Fault.SEGFAULT}
    job = dataclasses.replace(fake_job(faults), cases=compiling(CASES))
    told = compile_ahead(job, 2)
    assert "1 of 4 cases" in told
    assert "3 failed" in told


def test_a_job_whose_cases_all_hang_holds_up_measuring_no_longer_than_its_processes_last() -> None:
    cases = tuple(
        Case(problem=problem("copy", "bf16", N=1024 * step), impl="triton") for step in range(1, 9)
    )
    job = dataclasses.replace(fake_job({"copy": Fault.HANG}, case_timeout_s=0.1), cases=cases)
    told = compile_ahead(job, 1)
    assert told.startswith("compiled ahead: 0 of 8 cases in 2 processes")
    assert "2 stopped after 0.1 s" in told


def test_no_more_processes_open_a_device_than_its_memory_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = count_starts(monkeypatch)
    fake = FakeOptions(memory_bytes=3 * CONTEXT_BYTES)
    request = DeviceRequest(name="fake", fake=fake)
    job = dataclasses.replace(fake_job(), device=request, cases=compiling(CASES))
    assert "4 of 4 cases" in compile_ahead(job, 4)
    assert len(started) == 2


def test_no_more_processes_than_the_most_are_started_however_many_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ahead, "MAX_PROCESSES", 2)
    started = count_starts(monkeypatch)
    compile_ahead(dataclasses.replace(fake_job(), cases=CASES), 128)
    assert len(started) == 2


def test_a_device_that_another_run_has_is_not_compiled_on() -> None:
    notices: list[str] = []
    with closing(cpu_lock()) as lock:
        assert lock.acquire(this_process("other"))
        with pytest.raises(DeviceBusyError, match=r"is busy: run other .* within 0\.3 s"):
            compile_ahead(job_on("cpu", MIXED), 2, device_wait_s=0.3, on_notice=notices.append)
    assert len(notices) == 1


def test_a_device_is_locked_while_it_is_compiled_on_and_free_afterwards() -> None:
    seen: list[bool] = []

    def look(num_begun: int, num_cases: int) -> None:
        if num_begun:
            with closing(cpu_lock()) as lock:
                seen.append(lock.acquire(this_process("other")))

    compile_ahead(job_on("cpu", MIXED[2:]), 1, 100.0, on_progress=look)
    assert seen
    assert not seen[0]
    with closing(cpu_lock()) as lock:
        assert lock.acquire(this_process("next"))


def test_one_busy_device_of_several_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # Fake chips have no lock, so that they are locked here like any device.
    monkeypatch.setattr(lock_module, "is_lockable", lambda device: True)
    options = FakeOptions(count=2)
    request = DeviceRequest(name="fake", fake=options)
    job = dataclasses.replace(fake_job(), device=request, cases=FEW)
    info = FakeDevice(options, 1).info
    start = ahead._start

    def opened(job_file: Path, device: str) -> "subprocess.Popen[str]":
        # Device 0 starts when device 1 is open, and cannot be through before it is waited for.
        child = start(job_file, device)
        if job_file.name == "1.json":
            assert select.select([child.stdout], [], [], 60)[0]
        return child

    monkeypatch.setattr(ahead, "_start", opened)
    with closing(device_lock(info, 1)) as lock:
        assert lock.acquire(this_process("other"))
        told = compile_ahead(job, 2, devices=(1, 0), device_wait_s=0.2)
    assert told.startswith("compiled ahead: 2 of 2 cases")
    assert told.endswith("1 device left out, which another run has")


def test_a_driver_that_cannot_open_the_device_is_told_whatever_it_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cases.json"
    path.write_text(to_json(fake_job()), encoding="utf-8")
    said = StringIO()

    def fail(*_: object) -> Device:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(compile_child, "claim_output", lambda: said)
    monkeypatch.setattr(compile_child, "die_with_supervisor", lambda: None)
    monkeypatch.setattr(compile_child, "open_device", fail)
    assert compile_child.main(str(path)) == 2
    answer = from_json(compile_child.Answer, said.getvalue(), "answer")
    assert answer.refusal == "RuntimeError: CUDA error: out of memory"


def test_a_process_that_a_driver_holds_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[subprocess.Popen[str]] = []
    start, kill = ahead._start, process.kill

    def kept(job_file: Path, device: str) -> "subprocess.Popen[str]":
        started.append(start(job_file, device))
        return started[-1]

    monkeypatch.setattr(ahead, "_start", kept)
    monkeypatch.setattr(process, "kill", lambda child: None)
    monkeypatch.setattr(process, "STOP_TIMEOUT_S", 0.1)
    job = dataclasses.replace(fake_job({"rms_norm": Fault.HANG}, case_timeout_s=0.1), cases=FEW[:1])
    try:
        with pytest.raises(DeviceBusyError, match=r"was killed 0\.1 s ago and has not ended"):
            compile_ahead(job, 1)
    finally:
        for child in started:
            kill(child)
            child.wait()
            assert child.stdout is not None
            child.stdout.close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the signal of a parent's death is Linux's")
def test_a_killed_command_leaves_no_process_that_compiles(tmp_path: Path) -> None:
    plan = tmp_path / "cases.json"
    plan.write_text(to_json(fake_job({"copy": Fault.HANG})), encoding="utf-8")
    command = [sys.executable, "-m", "harness.worker", str(plan), str(tmp_path / "out")]
    with subprocess.Popen(
        [*command, "--compile-first", "1"], env=child_environment(), stdout=subprocess.DEVNULL
    ) as parent:
        until_s = time.monotonic() + 60
        while not children_of(parent.pid) and time.monotonic() < until_s:
            time.sleep(0.05)
        (child,) = children_of(parent.pid)
        time.sleep(HANGING_AFTER_S)
        parent.kill()
    until_s = time.monotonic() + 10
    while is_alive(child) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert not is_alive(child)


def test_a_bare_host_does_not_compile_what_has_a_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "cases.json"
    plan.write_text(to_json(fake_job()), encoding="utf-8")
    arguments = [str(plan), str(tmp_path / "out")]
    assert worker_main(arguments) == 0
    capsys.readouterr()
    assert worker_main([*arguments, "--compile-first", "2"]) == 0
    assert "compiled ahead: nothing to compile" in capsys.readouterr().out


def test_cases_with_a_record_are_not_compiled_again() -> None:
    console = Console(record=True, force_terminal=False, width=200)
    done = frozenset(case.id for case in CASES)
    compile_before(job_on("cpu", CASES), 2, console, done=done)
    assert console.export_text() == ""
