"""Runs a job's cases in child processes and appends every record as it comes.

The only writer of a run's records. Needs nothing but the standard library, so that the same
supervision works on a bare host.
"""

import contextlib
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from harness.cases import Case
from harness.codec import from_json, to_json
from harness.environment import Environment
from harness.errors import ConfigError, RecordError
from harness.judgement import with_later
from harness.proof import Proof
from harness.record import Record, Status
from harness.store.folder import (
    CASES,
    CONFIG,
    ENVIRONMENT,
    PROOF,
    RECORDS,
    RUN,
    RunFolder,
    write_atomically,
)
from harness.worker.events import POISONED_EXIT_CODE, Event, Stage
from harness.worker.heartbeat import NO_CASE, Heartbeat
from harness.worker.job import Job, read_job

START_TIMEOUT_S = 300.0
"""A cold import of torch from a network file system has been seen to take minutes."""
MAX_FRUITLESS_STARTS = 3
"""A child that dies this often in a row before its first case will not live the next time."""
HEARTBEAT = ".heartbeat"
LOG = "worker.log"
"""Where the children's own output goes, in the run's folder."""
_POLL_S = 0.2


class Watcher:
    """Is told what happens; does nothing unless overridden."""

    def on_environment(self, environment: Environment) -> None:
        """The worker is up."""

    def on_start(self, case: Case) -> None:
        """A case begins."""

    def on_stage(self, stage: Stage) -> None:
        """The case that began last has reached that stage."""

    def on_record(self, record: Record) -> None:
        """A case is over and its record is on disk."""


def supervise(
    job: Job,
    folder: Path,
    watcher: Watcher,
    within_s: float = math.inf,
    stop: threading.Event | None = None,
) -> None:
    """Measure the cases of the job that the folder has no record of yet.

    Args:
        job: what to measure.
        folder: the run's folder; made if it is not there.
        watcher: is told of every event.
        within_s: begin no case after so many seconds; a second call goes on.
        stop: once it is set, the child is ended and KeyboardInterrupt raised, as by Ctrl-C, which
            reaches the main thread alone.

    Raises:
        ConfigError: when the device asked for is not there.
        RecordError: when the worker cannot be started, or old records cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_other_cases(job, folder)
    cut_incomplete_line(folder / RECORDS)
    write_atomically(folder / CASES, to_json(job) + "\n")
    if job.config_yaml:
        write_atomically(folder / CONFIG, job.config_yaml)
    write_atomically(folder / RUN, to_json(job.run) + "\n")
    done = {record.case.id for record in RunFolder(folder).records()}
    todo = [index for index, case in enumerate(job.cases) if case.id not in done]
    with (
        (folder / RECORDS).open("a", encoding="utf-8") as records,
        (folder / LOG).open("a", encoding="utf-8") as log,
    ):
        until_s = time.monotonic() + within_s
        _Supervisor(job, folder, watcher, records, log, until_s, stop or threading.Event()).run(
            todo
        )


def _refuse_other_cases(job: Job, folder: Path) -> None:
    """A folder is of one run: records of other cases, or taken otherwise, must not join it."""
    if not (folder / CASES).exists():
        return
    earlier = read_job(folder / CASES)
    for part in ("cases", "policy", "device"):
        if getattr(earlier, part) != getattr(job, part):
            raise RecordError(
                f"{folder}: the run there has other {part} than the one asked for. Repeat the "
                "command that it was started with, or choose another folder."
            )


def _refuse_other_environment(earlier: Environment, now: Environment) -> None:
    """Records of one run come from one device and one set of versions."""
    for what, before, after in (
        ("device", earlier.device, now.device),
        ("versions", earlier.versions, now.versions),
        ("commit", earlier.commit, now.commit),
    ):
        if before != after:
            raise RecordError(
                f"resume: the run was begun with {what} {before}, and now it is {after}; their "
                "times do not belong in one run. Start a new one."
            )


def cut_incomplete_line(path: Path) -> None:
    """Remove a last line that a crash cut short: it is not a record, and the next would join it."""
    if not path.exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        with path.open("rb+") as file:
            file.truncate(data.rfind(b"\n") + 1)


class _Supervisor:
    def __init__(
        self,
        job: Job,
        folder: Path,
        watcher: Watcher,
        records: TextIO,
        log: TextIO,
        until_s: float,
        stop: threading.Event,
    ) -> None:
        self._job = job
        self._folder = folder
        self._watcher = watcher
        self._records = records
        self._log = log
        self._until_s = until_s
        self._stop = stop

    def run(self, todo: list[int]) -> None:
        """Start children until every case has a record."""
        fruitless = 0
        while todo and time.monotonic() < self._until_s:
            finished = self._run_child(todo)
            fruitless = 0 if finished else fruitless + 1
            todo = [index for index in todo if index not in finished]
            if fruitless == MAX_FRUITLESS_STARTS:
                raise RecordError(
                    f"The worker died {fruitless} times before its first case; "
                    f"{self._folder / LOG} has its last words."
                )

    def _run_child(self, todo: list[int]) -> set[int]:
        """The cases that one child settled."""
        (self._folder / HEARTBEAT).unlink(missing_ok=True)
        heartbeat = Heartbeat(self._folder / HEARTBEAT)
        child = subprocess.Popen(
            [
                *(sys.executable, "-m", "harness.worker.child"),
                *(str(self._folder / CASES), str(self._folder / HEARTBEAT)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=child_environment(),
            # Its own session: Ctrl-C reaches the supervisor alone, which then stops the child.
            start_new_session=True,
        )
        try:
            return self._follow(child, todo, heartbeat)
        finally:
            _stop(child)
            heartbeat.close()

    def _follow(
        self, child: "subprocess.Popen[str]", todo: list[int], heartbeat: Heartbeat
    ) -> set[int]:
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(str(todo) + "\n")
            child.stdin.flush()
        index_of = {self._job.cases[index].id: index for index in todo}
        running: Case | None = None
        started_at = ""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        finished: set[int] = set()

        def in_flight() -> int:
            """The case that the child was at; several may have begun and have no record yet."""
            beaten = heartbeat.read().case
            assert running is not None
            is_open = beaten != NO_CASE and beaten not in finished
            return beaten if is_open else index_of[running.id]

        for event in _events(child):
            if self._stop.is_set():
                raise KeyboardInterrupt
            if event is None:
                if time.monotonic() > deadline_s:
                    if running is None:
                        return finished
                    index = in_flight()
                    self._append(self._timed_out(self._job.cases[index], started_at))
                    return finished | {index}
            elif event.refusal is not None:
                raise ConfigError(event.refusal)
            elif event.environment is not None:
                self._keep_environment(event.environment)
                self._watcher.on_environment(event.environment)
            elif event.proof is not None:
                self._keep_proof(event.proof)
            elif event.started_case is not None:
                running = self._job.cases[event.started_case]
                started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
                deadline_s = time.monotonic() + self._job.policy.case_timeout_s
                self._watcher.on_start(running)
            elif event.stage is not None:
                self._watcher.on_stage(event.stage)
            elif event.record is not None:
                self._append(event.record)
                finished.add(index_of[event.record.case.id])
                deadline_s = time.monotonic() + self._job.policy.case_timeout_s
                if time.monotonic() >= self._until_s:
                    return finished
        if running is not None and len(finished) < len(todo):
            exit_code = child.wait()
            if exit_code != POISONED_EXIT_CODE:
                index = in_flight()
                if index not in finished:
                    self._append(self._crashed(self._job.cases[index], started_at, exit_code))
                    finished.add(index)
        return finished

    def _keep_environment(self, environment: Environment) -> None:
        """Written once; a later child, or a resumed run, must have the same."""
        path = self._folder / ENVIRONMENT
        if path.exists() and RunFolder(self._folder).records():
            _refuse_other_environment(RunFolder(self._folder).environment, environment)
            return
        write_atomically(path, to_json(environment) + "\n")

    def _keep_proof(self, proof: Proof) -> None:
        """The first of the run stays; what a later child finds otherwise is added to it."""
        folder = RunFolder(self._folder)
        earlier = folder.proof if folder.has_records else None
        folder.write(PROOF, proof if earlier is None else with_later(earlier, proof))

    def _append(self, record: Record) -> None:
        """Write the record and make sure that it is on disk before it is told of."""
        record = replace(record, ended_at=datetime.now(UTC).isoformat(timespec="milliseconds"))
        self._records.write(to_json(record) + "\n")
        self._records.flush()
        os.fsync(self._records.fileno())
        self._watcher.on_record(record)

    def _timed_out(self, case: Case, started_at: str) -> Record:
        limit_s = self._job.policy.case_timeout_s
        return Record(
            run_id=self._job.run.run_id,
            case=case,
            status=Status.TIMEOUT,
            reason=f"no end after {limit_s:g} s (measure.case_timeout_s); its worker was stopped",
            started_at=started_at,
        )

    def _crashed(self, case: Case, started_at: str, exit_code: int) -> Record:
        return Record(
            run_id=self._job.run.run_id,
            case=case,
            status=Status.CRASHED,
            reason=f"the worker {_cause_of_death(exit_code)}; {LOG} has its last words",
            started_at=started_at,
        )


KEEP_HOST_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
"""Makes glibc keep freed memory, as the allocators of accelerators do. Otherwise each large output
on a CPU is fetched from the system page by page: a copy of 128 MiB ran at 4 GB/s, of 4 MiB at 20.

Source: mallopt(3).
"""


def child_environment() -> dict[str, str]:
    """This environment, with the package importable however the parent found it."""
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **KEEP_HOST_MEMORY,
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
    }


def _events(child: "subprocess.Popen[str]") -> Iterator[Event | None]:
    """The child's events as they come, and None whenever a moment passes without one."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=_POLL_S)
        except queue.Empty:
            yield None
            continue
        if line is None or not line.endswith("\n"):
            return
        yield from_json(Event, line, "worker event")


def _stop(child: "subprocess.Popen[str]") -> None:
    """End the child and whatever it has started; nothing happens to one that has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError, ValueError):
                pipe.close()


def _cause_of_death(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    hint = ", often sent by the host when memory runs out" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"
