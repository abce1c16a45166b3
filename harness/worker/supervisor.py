"""Runs a job's cases in child processes and appends every record as it comes.

The only writer of a run's records. Needs nothing but the standard library, so that the same
supervision works on a bare host.
"""

import contextlib
import math
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from harness.cases import Case
from harness.codec import to_json
from harness.environment import Environment
from harness.errors import ConfigError, RecordError
from harness.judgement import with_later
from harness.proof import Proof
from harness.record import Record, Status
from harness.store.disk import remove_unfinished, storing, write_atomically
from harness.store.folder import CASES, CONFIG, ENVIRONMENT, PROOF, RECORDS, RUN, RunFolder
from harness.store.records import RecordWriter, damage_text, quarantine_of, repair
from harness.worker import process
from harness.worker.events import POISONED_EXIT_CODE, Stage
from harness.worker.giving_up import FailureStreaks
from harness.worker.heartbeat import Heartbeat
from harness.worker.job import Job, read_job
from harness.worker.life import Life
from harness.worker.lock import (
    DEVICE_WAIT_S,
    Lock,
    is_missing,
    lock_device,
    this_process,
)

MAX_FRUITLESS_STARTS = 3
"""A child that settles no case so often in a row will settle none the next time."""
HEARTBEAT = ".heartbeat"
LOCK = ".lock"
LOG = "worker.log"
"""Where the children's own output goes, in the run's folder."""


class Watcher:
    """Is told what happens; does nothing unless overridden."""

    def on_notice(self, sentence: str) -> None:
        """Something is out of the ordinary, and the run goes on."""

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
    device_wait_s: float = DEVICE_WAIT_S,
    stop: threading.Event | None = None,
) -> None:
    """Measure the cases of the job that the folder has no record of yet.

    Args:
        job: what to measure.
        folder: the run's folder; made if it is not there.
        watcher: is told of every event.
        within_s: begin no case after so many seconds; a second call goes on.
        device_wait_s: how long to wait for a device that another run measures on.
        stop: once it is set, the child is ended and KeyboardInterrupt raised, as by Ctrl-C, which
            reaches the main thread alone.

    Raises:
        ConfigError: when the device asked for is not there.
        DeviceBusyError: when another run measures on it, or it does not let go of a killed worker.
        RecordError: when the folder is another's, in use, or written by a newer chipscale, or when
            the worker cannot be started.
        StorageError: when the disk takes no more; every record made before is there.
    """
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _owned(folder, job.run.run_id, watcher):
        _refuse_other_cases(job, folder)
        for name in (CASES, CONFIG, RUN, ENVIRONMENT):
            remove_unfinished(folder / name)
        damaged = repair(folder / RECORDS)
        if damaged:
            watcher.on_notice(
                f"{damage_text(damaged)}; moved to {quarantine_of(folder / RECORDS).name}, and "
                "measured again."
            )
        write_atomically(folder / CASES, to_json(job) + "\n")
        if job.config_yaml:
            write_atomically(folder / CONFIG, job.config_yaml)
        write_atomically(folder / RUN, to_json(job.run) + "\n")
        with storing(folder / LOG):
            log = (folder / LOG).open("a", encoding="utf-8")
        with (
            log,
            contextlib.closing(RecordWriter(folder / RECORDS)) as records,
            contextlib.closing(
                _Supervisor(
                    job=job,
                    folder=folder,
                    watcher=watcher,
                    records=records,
                    log=log,
                    until_s=time.monotonic() + within_s,
                    device_wait_s=device_wait_s,
                    stop=stop or threading.Event(),
                )
            ) as supervisor,
        ):
            supervisor.run(RunFolder(folder).records())
        (folder / HEARTBEAT).unlink(missing_ok=True)


@contextlib.contextmanager
def _owned(folder: Path, run_id: str, watcher: Watcher) -> Iterator[None]:
    """The folder, with no other process at it: two writers would both measure what is missing."""
    with storing(folder / LOCK):
        lock = Lock(folder / LOCK)
    with contextlib.closing(lock):
        try:
            is_ours = lock.acquire(this_process(run_id))
        except OSError as error:
            if not is_missing(error):
                raise
            is_ours = True
            watcher.on_notice(
                f"{folder} is on a file system without locks: see that no second process measures "
                "into it."
            )
        if not is_ours:
            raise RecordError(
                f"{folder}: {lock.holder} is measuring into it. Wait for its end or stop it, then "
                "repeat the command."
            )
        yield


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


def _identity(environment: Environment) -> tuple[tuple[str, object], ...]:
    """What records of one run have in common, by name.

    Not what a device is read with, which an extension that fails may change, nor its memory, of
    which a host tells a little more or less after each start.
    """
    device = environment.device
    return (
        ("device", device.name),
        ("device UUID", device.uuid),
        ("driver", device.driver),
        ("runtime", device.runtime),
        ("versions", ", ".join(" ".join(each) for each in environment.versions)),
    )


def _refuse_other_environment(
    earlier: Environment, now: Environment, folder: Path, *, is_restart: bool
) -> None:
    """Records of one run come from one device and one set of versions.

    And from one commit where a later command goes on with them.
    """
    begun, found = dict(_identity(earlier)), dict(_identity(now))
    if not is_restart:
        begun["commit"], found["commit"] = earlier.commit, now.commit
    for what, before in begun.items():
        if before != found[what]:
            when = "its worker was started again" if is_restart else "it is to go on"
            raise RecordError(
                f"{folder}: the run was begun with {what} {before or 'unknown'}, and {when} with "
                f"{found[what] or 'unknown'}; their times do not belong in one run. Start a new "
                "one."
            )


class _Supervisor:
    def __init__(
        self,
        *,
        job: Job,
        folder: Path,
        watcher: Watcher,
        records: RecordWriter,
        log: TextIO,
        until_s: float,
        device_wait_s: float,
        stop: threading.Event,
    ) -> None:
        self._job = job
        self._folder = folder
        self._watcher = watcher
        self._records = records
        self._log = log
        self._until_s = until_s
        self._device_wait_s = device_wait_s
        self._stop = stop
        self._device_lock: Lock | None = None
        self._streaks = FailureStreaks()
        self._has_records = False
        self._has_claimed = False
        self._last_end = ""

    def close(self) -> None:
        """Let go of the device."""
        if self._device_lock is not None:
            self._device_lock.close()

    def run(self, earlier: tuple[Record, ...]) -> None:
        """Start children until every case has a record."""
        self._has_records = bool(earlier)
        for record in earlier:
            self._streaks.add(record)
        done = {record.case.id for record in earlier}
        todo = [index for index, case in enumerate(self._job.cases) if case.id not in done]
        num_fruitless = 0
        while todo and not self._is_late:
            todo = self._without_given_up(todo)
            settled = self._run_child(todo) if todo else set()
            todo = [index for index in todo if index not in settled]
            num_fruitless = 0 if settled else num_fruitless + 1
            if todo and num_fruitless == MAX_FRUITLESS_STARTS:
                raise RecordError(
                    f"Of {num_fruitless} workers in a row none settled a case; the last "
                    f"{self._last_end}. {self._folder / LOG} has its last words."
                )

    @property
    def _is_late(self) -> bool:
        """Whether no case may begin any more."""
        return time.monotonic() >= self._until_s

    def _without_given_up(self, todo: list[int]) -> list[int]:
        """What is still worth trying; the rest has its record then."""
        worth: list[int] = []
        for index in todo:
            case = self._job.cases[index]
            reason = self._streaks.reason_to_skip(case)
            if reason:
                self._keep(
                    Record(
                        run_id=self._job.run.run_id,
                        case=case,
                        status=Status.SKIPPED,
                        reason=reason,
                        started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
                    )
                )
            else:
                worth.append(index)
        return worth

    def _run_child(self, todo: list[int]) -> set[int]:
        """The cases that one child settled."""
        path = self._folder / HEARTBEAT
        path.unlink(missing_ok=True)
        with contextlib.closing(Heartbeat(path)) as heartbeat:
            child = process.start(self._folder / CASES, path, self._log)
            try:
                return self._follow(child, todo, heartbeat)
            finally:
                process.stop(child)

    def _follow(
        self, child: "subprocess.Popen[str]", todo: list[int], heartbeat: Heartbeat
    ) -> set[int]:
        """Take in what the child tells until it ends or has to be stopped; what it settled."""
        life = Life(self._job, todo, time.monotonic())
        is_overdue = False
        for event in process.events(child):
            if self._stop.is_set():
                raise KeyboardInterrupt
            life.look(heartbeat.read(), time.monotonic())
            if event is None:
                is_overdue = life.is_overdue
                if is_overdue:
                    break
            elif event.refusal is not None:
                raise ConfigError(event.refusal)
            elif event.environment is not None:
                self._claim(event.environment)
                process.send(child, str(todo) + "\n")
            elif event.proof is not None:
                self._keep_proof(event.proof)
            elif event.started_case is not None:
                life.begin(event.started_case)
                self._watcher.on_start(self._job.cases[event.started_case])
            elif event.stage is not None:
                life.reach(event.stage)
                self._watcher.on_stage(event.stage)
            elif event.record is not None:
                self._keep(event.record)
                life.settle(event.record)
                if not life.num_open and (self._is_late or self._gave_up(life.left)):
                    return life.settled
        if is_overdue:
            self._last_end = life.overdue_cause
            ending = life.timed_out()
        else:
            life.look(heartbeat.read(), time.monotonic())
            exit_code = process.ended(child) if life.left else 0
            self._last_end = process.cause_of_death(exit_code)
            is_told = exit_code == POISONED_EXIT_CODE or not life.left
            ending = None if is_told else life.crashed(self._last_end, LOG)
        if ending is not None:
            self._keep(ending)
            life.settle(ending)
        return life.settled

    def _gave_up(self, left: list[int]) -> bool:
        """Whether the child would go on with what is to be skipped."""
        return self._streaks.has_given_up and any(
            self._streaks.reason_to_skip(self._job.cases[index]) for index in left
        )

    def _claim(self, environment: Environment) -> None:
        """Make sure that the device is the run's, and that no other run measures on it."""
        folder = RunFolder(self._folder)
        if (self._folder / ENVIRONMENT).exists() and self._has_records:
            earlier = folder.environment
            _refuse_other_environment(
                earlier, environment, self._folder, is_restart=self._has_claimed
            )
            if earlier.commit != environment.commit:
                self._warn_of_commit(earlier, environment.commit)
        else:
            folder.write(ENVIRONMENT, environment)
        if not self._has_claimed:
            self._device_lock = lock_device(
                environment.device,
                self._job.device.index,
                this_process(self._job.run.run_id),
                self._device_wait_s,
                self._watcher.on_notice,
                self._stop,
            )
        self._has_claimed = True
        self._watcher.on_environment(environment)

    def _warn_of_commit(self, earlier: Environment, commit: str) -> None:
        """Keep it with the run that a later worker of it had another commit."""
        sentence = (
            f"The commit was {earlier.commit or 'unknown'} when the run began and "
            f"{commit or 'unknown'} when its worker was started again; if kernels or the harness "
            "changed between the two, measure again."
        )
        if sentence not in earlier.warnings:
            warned = replace(earlier, warnings=(*earlier.warnings, sentence))
            RunFolder(self._folder).write(ENVIRONMENT, warned)
            self._watcher.on_notice(sentence)

    def _keep_proof(self, proof: Proof) -> None:
        """The first of the run stays; what a later child finds otherwise is added to it."""
        folder = RunFolder(self._folder)
        earlier = folder.proof if self._has_records else None
        folder.write(PROOF, proof if earlier is None else with_later(earlier, proof))

    def _keep(self, record: Record) -> None:
        """Write the record and make sure that it is on disk before it is told of."""
        record = replace(record, ended_at=datetime.now(UTC).isoformat(timespec="milliseconds"))
        self._records.append(record)
        self._has_records = True
        self._streaks.add(record)
        self._watcher.on_record(record)
