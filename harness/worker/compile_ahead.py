"""Compiles what a job will run, in several processes at once, so that measuring never waits for it.

Each process is given one case after another, prepares it on the device and runs it once. What
Triton and Inductor compile stays in their caches on disk, where the worker that measures finds it.
Nothing is measured meanwhile: the devices are locked as for measuring.
"""

import contextlib
import math
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.cases import Case
from harness.codec import from_json, to_json
from harness.device.base import DeviceInfo
from harness.errors import DeviceBusyError, RecordError
from harness.worker import process
from harness.worker.compile_child import Answer
from harness.worker.job import Job
from harness.worker.life import START_TIMEOUT_S
from harness.worker.lock import DEVICE_WAIT_S, Lock, lock_device, this_process
from kernels import registry

EAGER = "torch"
"""The implementation that compiles nothing."""
MAX_PROCESSES = 8
"""On one device at once, however many are asked for. Each holds a context on the device and one
core; more gain little beside the longest case."""
MEMORY_FACTOR = 4
"""A case is taken to need so many times the bytes that its run moves: inputs, what is restored
from, outputs, and what the implementation holds in between."""
CONTEXT_BYTES = 2**30
"""What a process takes of a device's memory before it has a tensor; on an H100 about 0.5 GiB."""
_READ_BYTES = 2**16


def compiling(cases: Sequence[Case]) -> tuple[Case, ...]:
    """Those that have something to compile."""
    return tuple(case for case in cases if case.impl != EAGER)


def num_fitting(job: Job, num_processes: int, memory_bytes: int | None) -> int:
    """How many processes may hold the largest case on the device at once; at least one."""
    if memory_bytes is None:
        return num_processes
    largest_bytes = max((registry.cost(case.problem).num_bytes for case in job.cases), default=0)
    fitting = memory_bytes // (MEMORY_FACTOR * largest_bytes + CONTEXT_BYTES)
    return max(1, min(num_processes, fitting))


def compile_ahead(
    job: Job,
    num_processes: int,
    within_s: float = math.inf,
    *,
    devices: Sequence[int] = (),
    done: frozenset[str] = frozenset(),
    device_wait_s: float = DEVICE_WAIT_S,
    on_progress: Callable[[int, int], None] = lambda num_begun, num_cases: None,
    on_notice: Callable[[str], None] = lambda sentence: None,
) -> str:
    """What became of it, in a sentence; a case that cannot be compiled is told by its record.

    Args:
        job: only its cases that compile something are prepared.
        num_processes: at most so many at once, and at most `MAX_PROCESSES` on one device; fewer
            where the device's memory is too small.
        within_s: what is not compiled then is left to the worker that measures. A case that takes
            longer than the policy's `case_timeout_s` is left to it in any case.
        devices: the indices of the devices that share the work; none: that of the job.
        done: ids of the cases that have a record already.
        device_wait_s: how long to wait for devices that another run has.
        on_progress: is told how many cases were begun, of how many.
        on_notice: is told that a device is waited for.

    Raises:
        DeviceBusyError: when another run has every device, or a driver holds a killed process.
    """
    todo = compiling([case for case in job.cases if case.id not in done])
    if not todo or num_processes < 1:
        return "compiled ahead: nothing to compile"
    indices = tuple(devices) or (job.device.index,)
    limit = min(num_processes, len(todo), MAX_PROCESSES * len(indices))
    # A device without a process of its own is not opened.
    indices = indices[:limit]
    shares = [len(range(place, limit, len(indices))) for place in range(len(indices))]
    with tempfile.TemporaryDirectory() as folder:
        shared = [
            _Shared(
                job=replace(job, device=replace(job.device, index=index), cases=todo),
                job_file=Path(folder) / f"{index}.json",
                num_processes=share,
                num_spare=share,
            )
            for index, share in zip(indices, shares, strict=True)
        ]
        with contextlib.closing(_Compiling(todo, shared, within_s, on_progress)) as work:
            work.run(device_wait_s, on_notice)
    return work.told


@dataclass(slots=True, kw_only=True)
class _Shared:
    """A device, and how many processes share it."""

    job: Job
    job_file: Path
    num_processes: int
    num_spare: int
    """How many that were stopped or crashed may still be replaced."""
    lock: Lock | None = None
    is_ours: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class _Process:
    """A process that compiles, and what it is at."""

    child: "subprocess.Popen[str]"
    shared: _Shared
    since_s: float
    """When it was started, or was given its case."""
    device: DeviceInfo | None = None
    case: int | None = None
    unread: bytearray = field(default_factory=bytearray)

    @property
    def descriptor(self) -> int:
        assert self.child.stdout is not None
        return self.child.stdout.fileno()

    def answers(self) -> Iterator[Answer]:
        """What it has said since.

        Raises:
            EOFError: when it has closed its output.
            RecordError: when it is no answer.
        """
        with contextlib.suppress(BlockingIOError):
            while True:
                came = os.read(self.descriptor, _READ_BYTES)
                if not came:
                    raise EOFError
                self.unread += came
                while (end := self.unread.find(b"\n")) >= 0:
                    line = self.unread[:end].decode("utf-8", "replace")
                    del self.unread[: end + 1]
                    yield from_json(Answer, line, "compiling process")


class _Compiling:
    """Deals out the cases, and follows the processes until all are over."""

    def __init__(
        self,
        cases: Sequence[Case],
        shared: Sequence[_Shared],
        within_s: float,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._num_cases = len(cases)
        self._untaken = deque(range(len(cases)))
        self._shared = shared
        self._case_timeout_s = shared[0].job.policy.case_timeout_s
        self._started_s = time.monotonic()
        self._until_s = self._started_s + within_s
        self._on_progress = on_progress
        self._running: list[_Process] = []
        self._selector = selectors.DefaultSelector()
        self._children: list[subprocess.Popen[str]] = []
        self._num_used = 0
        self._num_compiled = 0
        self._num_failed = 0
        self._num_overdue = 0
        self._num_late: int | None = None
        self._num_busy = 0
        self._refusals: list[str] = []

    def run(self, device_wait_s: float, on_notice: Callable[[str], None]) -> None:
        """Give every case to a process.

        Raises:
            DeviceBusyError: when another run has every device.
        """
        wait_until_s: float | None = None
        busy: DeviceBusyError | None = None
        for shared in self._shared:
            shared.job_file.write_text(to_json(shared.job), encoding="utf-8")
            # One first: it says which device it is and what it holds, before the others come.
            self._start(shared)
        while self._running:
            if time.monotonic() >= self._until_s:
                self._num_late = sum(one.case is not None for one in self._running)
                return
            for one in self._heard():
                # All devices together are waited for as long as one.
                wait_s = device_wait_s
                if wait_until_s is None:
                    wait_until_s = time.monotonic() + wait_s
                else:
                    wait_s = max(0.0, wait_until_s - time.monotonic())
                try:
                    self._share(one, wait_s, on_notice)
                except DeviceBusyError as error:
                    busy = error
                    self._num_busy += 1
                    self._end(one)
            self._stop_overdue()
            self._deal()
            self._on_progress(self._num_cases - len(self._untaken), self._num_cases)
        if busy is not None and self._num_busy == len(self._shared):
            raise busy

    @property
    def told(self) -> str:
        """What became of it."""
        taken_s = time.monotonic() - self._started_s
        parts = [
            f"compiled ahead: {self._num_compiled} of {self._num_cases} cases in "
            f"{_counted(self._num_used, 'process', 'processes')}, {taken_s:.1f} s"
        ]
        if self._num_failed:
            parts.append(f"{self._num_failed} failed")
        if self._num_overdue:
            parts.append(f"{self._num_overdue} stopped after {self._case_timeout_s:g} s")
        if self._num_late is not None:
            parts.append(f"out of time with {self._num_late} under way")
        if self._refusals:
            which = _counted(len(self._refusals), "process", "processes")
            parts.append(f"{which} could not open the device ({self._refusals[0]})")
        if self._num_busy:
            which = _counted(self._num_busy, "device", "devices")
            parts.append(f"{which} left out, which another run has")
        return ", ".join(parts)

    def close(self) -> None:
        """End every process, then let go of the devices.

        Raises:
            DeviceBusyError: when a process does not end.
        """
        self._selector.close()
        try:
            for child in self._children:
                process.kill(child)
            for child in self._children:
                process.stop(child)
                assert child.stdout is not None
                child.stdout.close()
        finally:
            for shared in self._shared:
                if shared.lock is not None:
                    shared.lock.close()

    def _start(self, shared: _Shared) -> None:
        child = _start(shared.job_file, shared.job.device.name)
        one = _Process(child=child, shared=shared, since_s=time.monotonic())
        os.set_blocking(one.descriptor, False)
        self._selector.register(one.descriptor, selectors.EVENT_READ)
        self._children.append(child)
        self._running.append(one)

    def _end(self, one: _Process) -> None:
        """Stop it; it is waited for when all are over."""
        self._selector.unregister(one.descriptor)
        self._running.remove(one)
        process.kill(one.child)

    def _heard(self) -> Iterator[_Process]:
        """Take in what the processes have said; those that have just opened their device."""
        self._selector.select(process.POLL_S)
        for one in tuple(self._running):
            # Looked at before it is read, so that nothing said before the end is missed.
            has_ended = one.child.poll() is not None
            try:
                for answer in one.answers():
                    if answer.refusal is not None:
                        self._refusals.append(answer.refusal)
                    elif answer.device is not None:
                        one.device = answer.device
                        yield one
                    else:
                        one.case = None
                        self._num_compiled += bool(answer.is_compiled)
                        self._num_failed += not answer.is_compiled
                        has_ended |= answer.is_last
            except (EOFError, RecordError):
                has_ended = True
            if has_ended and one in self._running:
                # A case that ended its process fails again where it is measured.
                self._num_failed += one.case is not None
                self._end(one)
                self._replace(one)

    def _replace(self, one: _Process) -> None:
        """Start another where a case ended the process; one that came to nothing has none."""
        if one.device is not None and one.shared.num_spare and self._untaken:
            one.shared.num_spare -= 1
            self._start(one.shared)

    def _share(self, one: _Process, wait_s: float, on_notice: Callable[[str], None]) -> None:
        """Make sure that the device is ours, and start the processes that share it.

        Raises:
            DeviceBusyError: when another run has it.
        """
        device, shared = one.device, one.shared
        assert device is not None
        self._num_used += 1
        if shared.is_ours:
            return
        holder = this_process(shared.job.run.run_id)
        index = shared.job.device.index
        shared.lock = lock_device(device, index, holder, wait_s, on_notice)
        shared.is_ours = True
        # Asked of the whole memory: what others hold of it now, they may let go of.
        fitting = num_fitting(shared.job, shared.num_processes, device.memory_bytes)
        for _ in range(fitting - 1):
            self._start(shared)

    def _stop_overdue(self) -> None:
        now_s = time.monotonic()
        for one in tuple(self._running):
            if one.case is not None and now_s - one.since_s > self._case_timeout_s:
                self._num_overdue += 1
                self._end(one)
                self._replace(one)
            elif one.device is None and now_s - one.since_s > START_TIMEOUT_S:
                self._refusals.append(f"no end after {START_TIMEOUT_S:g} s")
                self._end(one)

    def _deal(self) -> None:
        """Give each idle process a case; without any left, it ends."""
        for one in tuple(self._running):
            if one.case is not None or (one.device is None and self._untaken):
                continue
            if not self._untaken:
                self._end(one)
                continue
            one.case, one.since_s = self._untaken.popleft(), time.monotonic()
            process.send(one.child, f"{one.case}\n")


def _start(job_file: Path, device: str) -> "subprocess.Popen[str]":
    # One thread of Inductor's own in each, since the processes already fill the cores.
    environment = process.child_environment() | {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    if device != "cpu":
        # On a processor the code is made for as many threads as will run it.
        environment["OMP_NUM_THREADS"] = "1"
    return subprocess.Popen(
        [sys.executable, "-m", "harness.worker.compile_child", str(job_file)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        # Its own session, so that it is ended together with the compilers it has started.
        start_new_session=True,
    )


def _counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"
