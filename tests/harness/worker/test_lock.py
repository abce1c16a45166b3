"""A run's folder and a device have one owner at a time."""

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TextIO, TypeVar
from unittest.mock import Mock

import pytest

from harness.cases import Case
from harness.device.base import DeviceInfo
from harness.device.cpu import CpuDevice
from harness.device.request import DeviceRequest
from harness.environment import num_usable_cores, processor_name
from harness.errors import DeviceBusyError, RecordError
from harness.record import Status
from harness.store.folder import RunFolder
from harness.worker import life, process
from harness.worker.job import Job
from harness.worker.lock import LOCK_DIR_VARIABLE, Lock, device_lock, this_process
from harness.worker.supervisor import LOCK, supervise
from kernels.op import problem
from tests.harness.fake_runs import KeepingWatcher, fake_job

T = TypeVar("T")
CHIP = DeviceInfo(name="chip", torch_device_type="cuda", uuid="abc")


def cpu_job() -> Job:
    job = fake_job()
    case = Case(problem=problem("copy", "fp32", N=1024), impl="torch")
    policy = replace(job.policy, timeout_s=0.05, warmup_timeout_s=0.05)
    return replace(job, cases=(case,), device=DeviceRequest(name="cpu"), policy=policy)


@pytest.fixture(autouse=True)
def _locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOCK_DIR_VARIABLE, str(tmp_path / "locks"))


def test_a_lock_is_held_once_and_free_when_it_is_let_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with closing(Lock(path)) as first, closing(Lock(path)) as second:
        assert first.acquire(this_process("first"))
        assert not second.acquire(this_process("second"))
        assert second.holder.startswith("run first (process ")
    with closing(Lock(path)) as third:
        assert third.acquire(this_process("third"))


def test_a_killed_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
    holder = subprocess.Popen(
        [sys.executable, "-c", code + "print(1, flush=True); time.sleep(60)", str(path)],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    with closing(Lock(path)) as lock:
        assert not lock.acquire(this_process("run"))
        assert lock.holder == "another process"
        holder.kill()
        holder.wait()
        holder.stdout.close()
        assert lock.acquire(this_process("run"))


def test_devices_are_told_apart_by_uuid_or_else_by_index() -> None:
    nameless = replace(CHIP, uuid="")
    holder = this_process("run")
    with (
        closing(device_lock(CHIP, 0)) as one,
        closing(device_lock(CHIP, 1)) as same,
        closing(device_lock(nameless, 0)) as first,
        closing(device_lock(nameless, 1)) as second,
    ):
        assert one.acquire(holder)
        assert not same.acquire(holder)
        assert first.acquire(holder)
        assert second.acquire(holder)


def test_every_user_may_have_the_lock_of_a_device(tmp_path: Path) -> None:
    device_lock(CHIP, 0).close()
    (file,) = (tmp_path / "locks").iterdir()
    assert file.stat().st_mode & 0o777 == 0o666
    assert (tmp_path / "locks").stat().st_mode & 0o7777 == 0o1777


def test_no_folder_for_locks_is_told_with_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv(LOCK_DIR_VARIABLE, str(tmp_path / "file" / "locks"))
    with pytest.raises(DeviceBusyError, match=f"Set {LOCK_DIR_VARIABLE} to a folder"):
        device_lock(CHIP, 0)


def test_two_processes_do_not_measure_into_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with closing(Lock(out / LOCK)) as lock:
        assert lock.acquire(this_process("other"))
        with pytest.raises(RecordError, match=r"run other \(process .* is measuring into it"):
            supervise(fake_job(), out, KeepingWatcher())
    assert [found.name for found in out.iterdir()] == [LOCK]


def cpu_lock() -> Lock:
    device = CpuDevice(processor_name(), num_usable_cores())
    return device_lock(device.info, 0)


def test_a_device_that_another_run_measures_on_is_refused_after_the_wait(tmp_path: Path) -> None:
    watcher = KeepingWatcher()
    with closing(cpu_lock()) as lock:
        assert lock.acquire(this_process("other"))
        with pytest.raises(DeviceBusyError, match=r"is busy: run other .* within 0\.3 s"):
            supervise(cpu_job(), tmp_path / "out", watcher, device_wait_s=0.3)
    assert watcher.records == []


def test_a_run_goes_on_when_the_other_has_ended(tmp_path: Path) -> None:
    lock = cpu_lock()
    assert lock.acquire(this_process("other"))

    class Ending(KeepingWatcher):
        def on_notice(self, sentence: str) -> None:
            self.notice = sentence
            lock.close()

    watcher = Ending()
    supervise(cpu_job(), tmp_path / "out", watcher)
    assert "is busy: run other" in watcher.notice
    assert "Waiting up to 60 s" in watcher.notice
    (record,) = RunFolder(tmp_path / "out").records()
    assert record.status is Status.OK
    with closing(cpu_lock()) as free:
        assert free.acquire(this_process("next"))


def start_code(*codes: str) -> Callable[[Path, Path, TextIO], "subprocess.Popen[str]"]:
    """Workers that run these lines one after another, the last of them from then on."""
    left = list(codes)

    def start(job_file: Path, heartbeat_file: Path, log: TextIO) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", left.pop(0) if len(left) > 1 else left[0]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


class Noticing(KeepingWatcher):
    def __init__(self) -> None:
        super().__init__()
        self.notices: list[str] = []

    def on_notice(self, sentence: str) -> None:
        self.notices.append(sentence)


def refusing(folder: Path, number: int, call: Callable[..., T]) -> Callable[..., T]:
    """The system's call, which fails so for the files of that folder."""

    def refused(file: object, *arguments: object) -> T:
        path = Path(f"/proc/self/fd/{file}").readlink() if isinstance(file, int) else file
        if Path(str(path)).is_relative_to(folder):
            raise OSError(number, os.strerror(number), str(path))
        return call(file, *arguments)

    return refused


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("module", "name", "number"),
    [
        (fcntl, "flock", errno.ENOLCK),
        (fcntl, "flock", errno.ENOTSUP),
        (os, "mkdir", errno.EROFS),
    ],
    ids=["no locks", "not supported", "read-only"],
)
def test_where_a_device_cannot_be_locked_the_run_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, number: int
) -> None:
    folder = tmp_path / "locks"
    monkeypatch.setattr(module, name, refusing(folder, number, getattr(module, name)))
    watcher = Noticing()
    supervise(cpu_job(), tmp_path / "out", watcher)
    (record,) = RunFolder(tmp_path / "out").records()
    assert record.status is Status.OK
    (notice,) = watcher.notices
    assert notice.startswith(f"{folder} takes no locks ({os.strerror(number)}): see that no ")
    assert f"set {LOCK_DIR_VARIABLE} to a folder that takes them" in notice


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("pass", "ended with exit code 0"),
        ("import os; os.kill(os.getpid(), 11)", "was ended by SIGSEGV"),
        ("print('no event', flush=True); import time; time.sleep(60)", "said no more"),
    ],
)
def test_a_worker_that_never_settles_a_case_does_not_start_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, cause: str
) -> None:
    start = Mock(side_effect=start_code(code))
    monkeypatch.setattr(process, "start", start)
    monkeypatch.setattr(process, "EXIT_TIMEOUT_S", 0.5)
    with pytest.raises(RecordError, match=f"Of 3 workers in a row none .* the last {cause}"):
        supervise(fake_job(), tmp_path, KeepingWatcher())
    assert start.call_count == 3


def test_the_end_that_is_told_is_that_of_the_last_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = start_code("pass", "pass", "import time; time.sleep(60)")
    monkeypatch.setattr(process, "start", start)
    monkeypatch.setattr(life, "START_TIMEOUT_S", 0.5)
    told = r"the last had begun no case after 0\.5 s and was stopped"
    with pytest.raises(RecordError, match=told):
        supervise(fake_job(), tmp_path, KeepingWatcher())
