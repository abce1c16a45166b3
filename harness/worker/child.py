"""The process that measures: `python -m harness.worker.child JOB`, case numbers on its input.

A crash, a hang or a poisoned device context ends this process and costs one case; the supervisor
starts another. Imports nothing beyond torch, triton, numpy and the standard library.
"""

import gc
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from harness.cases import Case
from harness.codec import to_json
from harness.device.base import Device
from harness.device.near_cores import near_cores, stay_near
from harness.device.open import open_device
from harness.environment import num_usable_cores, processor_name, read_environment
from harness.errors import ChipscaleError
from harness.measure.footprint import NotEnoughMemory
from harness.measure.loop import DeviceLost, Entrant, Outcome, measure
from harness.measure.policy import MeasurePolicy
from harness.measure.proof import prove
from harness.measure.protocol import protocol_hash, protocol_parts
from harness.measure.subject import UnsupportedHere, Workbench
from harness.measure.workbench import open_workbench
from harness.record import FAILURES, Record, Status
from harness.worker.events import POISONED_EXIT_CODE, Event, Stage
from harness.worker.heartbeat import Heartbeat
from harness.worker.job import Job, read_job
from harness.worker.supervised import claim_output, die_with_supervisor
from kernels import registry, triton_support, tuning
from kernels.op import Problem
from kernels.tuning import Config, Launches

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
MAX_REASON_CHARACTERS = 500
"""Compilers print pages; the first lines say what went wrong."""


@dataclass(slots=True)
class _Ready:
    """A case that was found right and waits for its turns."""

    index: int
    record: Record
    entrant: Entrant


class CaseRunner:
    """Runs the cases of one problem after those of another, keeping the last workbench."""

    def __init__(
        self,
        job: Job,
        device: Device,
        tell: Callable[[Event], None],
        beat: Callable[[int], None],
        resolution_s: float = 0.0,
    ) -> None:
        self._job = job
        self._device = device
        self._tell = tell
        self._beat = beat
        self._resolution_s = resolution_s
        self._made_for: tuple[Problem, str] | None = None
        self._workbench: Workbench | None = None
        self._has_failed = False
        self._best_s: dict[tuple[str, ...], float] = {}

    def run(self, indices: Sequence[int]) -> Iterator[Record]:
        """The records of these cases of one problem and one state of the cache."""
        for record in self._records_of(indices):
            self._has_failed |= record.status in FAILURES
            yield record

    def _records_of(self, indices: Sequence[int]) -> Iterator[Record]:
        """The records of these cases of one problem and one state of the cache.

        All are checked before any is timed, and those that are right are timed together.
        """
        cases = self._job.cases
        # What a tuner forces holds for one case alone, so such a case comes alone.
        with tuning.forced(dict(cases[indices[0]].forced)):
            ready: list[_Ready] = []
            for index in indices:
                self._beat(index)
                self._tell(Event(started_case=index))
                checked = self._checked(index)
                if isinstance(checked, Record):
                    yield checked
                else:
                    ready.append(checked)
            if ready:
                self._tell(Event(stage=Stage.MEASURE))
                yield from self._timed(ready)

    def _checked(self, index: int) -> "_Ready | Record":
        """The case made ready and found right, or the record that says why it is not."""
        case = self._job.cases[index]
        record = Record(
            run_id=self._job.run.run_id,
            case=case,
            status=Status.OK,
            started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        try:
            op = registry.load(case.problem.op)
            parts = protocol_parts(op, case.problem, self._policy_of(case), self._device.timer.kind)
            record = replace(
                record,
                cost=op.cost(case.problem),
                protocol_hash=protocol_hash(parts),
                protocol_parts=parts,
            )
            _refuse_other_families(case, self._device.torch_device)
            with tuning.observed() as launches:
                return self._prepared(index, record, launches)
        except Exception as error:  # an implementation may raise anything; it becomes the reason
            return _failed(record, error)

    def _prepared(self, index: int, identity: Record, launches: Launches) -> "_Ready | Record":
        """Raises what the implementation raises."""
        case = self._job.cases[index]
        self._tell(Event(stage=Stage.PREPARE))
        came_s = time.perf_counter()
        workbench = self._workbench_of(case)
        started_s = time.perf_counter()
        subject = workbench.subject(case.impl)
        subject.restore(0)
        subject.runs[0]()
        self._device.synchronize()
        prepare_s = time.perf_counter() - started_s
        for kernel, _ in case.forced:
            if not launches.of(kernel):
                raise UnsupportedHere(f"This problem does not launch {kernel}.")
        self._tell(Event(stage=Stage.CHECK))
        began_s = time.perf_counter()
        correctness = subject.check()
        checked = replace(
            identity,
            correctness=correctness,
            launches=tuple(launches),
            inputs_s=started_s - came_s,
            check_s=time.perf_counter() - began_s,
        )
        if not correctness.is_right:
            return replace(checked, status=Status.INCORRECT, reason=correctness.explanation)
        return _Ready(
            index=index,
            record=checked,
            entrant=Entrant(
                subject=subject,
                prepare_s=prepare_s,
                best_s=self._best_s.get(_rivals(case)) if case.forced else None,
            ),
        )

    def _timed(self, ready: Sequence[_Ready]) -> Iterator[Record]:
        """The records of cases that take turns on the device."""
        self._device.release_memory()
        try:
            outcomes = measure(
                [one.entrant for one in ready],
                self._device,
                self._policy_of(ready[0].record.case),
                on_turn=lambda which: self._beat(ready[which].index),
            )
        except DeviceLost as lost:
            # The other ones' errors would be its doing; a fresh process measures them again.
            yield _failed(ready[lost.index].record, lost.error)
            return
        for one, outcome in zip(ready, outcomes, strict=True):
            self._beat(one.index)
            if outcome.measurement is None:
                assert outcome.error is not None, "an entrant is measured, or raised an error"
                yield _failed(one.record, outcome.error)
                continue
            try:
                yield self._rechecked(one, outcome)
            except Exception as error:  # as the comparison on a device that a run has broken
                yield _failed(one.record, error)

    def _rechecked(self, one: _Ready, outcome: Outcome) -> Record:
        """The record of a measured case, provided that its last timed run was right too."""
        measurement, outputs = outcome.measurement, outcome.last_outputs
        assert measurement is not None
        assert outputs is not None
        began_s = time.perf_counter()
        correctness = one.entrant.subject.recheck(outcome.last_set, outputs)
        rechecked_s = time.perf_counter() - began_s
        record = replace(one.record, check_s=one.record.check_s + rechecked_s)
        if not correctness.is_right:
            return replace(
                record,
                status=Status.INCORRECT,
                correctness=correctness,
                reason=correctness.explanation,
            )
        case = record.case
        if case.forced:
            median_s = statistics.median(measurement.steady_samples_s)
            rivals = _rivals(case)
            self._best_s[rivals] = min(median_s, self._best_s.get(rivals, median_s))
        # What the timer was seen to do counts where it is less than what it claims.
        resolution_s = max(measurement.timer_resolution_s, self._resolution_s)
        return replace(record, measurement=replace(measurement, timer_resolution_s=resolution_s))

    def _policy_of(self, case: Case) -> MeasurePolicy:
        return self._job.policy.with_cache(case.cache)

    def _workbench_of(self, case: Case) -> Workbench:
        wanted = (case.problem, case.cache)
        if self._workbench is None or self._made_for != wanted:
            # The old tensors go before the new ones come, so that the larger of two problems
            # decides whether the memory is enough, not their sum.
            self._workbench = None
            if self._has_failed:
                # An error's traceback may hold tensors in a cycle, which only the collector ends.
                gc.collect()
                self._has_failed = False
            self._device.release_memory()
            self._workbench = open_workbench(
                registry.load(case.problem.op), case.problem, self._device, self._policy_of(case)
            )
            self._made_for = wanted
        return self._workbench


def _refuse_other_families(case: Case, device: torch.device) -> None:
    """A configuration that a tuner tries is meant for some devices, and may not fit others."""
    families = triton_support.families(device)
    for tunable in registry.tunables(case.problem.op) if case.forced else ():
        tried = dict(case.forced).get(tunable.kernel)
        fitting: set[Config] = {
            config for family in families for config in tunable.configs.get(family, ())
        }
        if tried is not None and tried not in fitting:
            raise UnsupportedHere(f"This configuration is not one for {' or '.join(families)}.")


def _rivals(case: Case) -> tuple[str, ...]:
    """What the tries of one search have in common."""
    return (case.problem.id, case.cache, *(kernel for kernel, _ in case.forced))


def _failed(record: Record, error: Exception) -> Record:
    """The record of a case that raised that."""
    if isinstance(error, UnsupportedHere):
        status, reason = Status.UNSUPPORTED, str(error)
    elif isinstance(error, NotEnoughMemory):
        status, reason = Status.OUT_OF_MEMORY, str(error)
    else:
        reason = _first_words(error)
        is_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
            sign in reason.lower() for sign in _NO_MEMORY
        )
        status = Status.OUT_OF_MEMORY if is_memory else Status.ERROR
    return replace(record, status=status, reason=reason[:MAX_REASON_CHARACTERS])


def _first_words(error: BaseException) -> str:
    """The error's type and the first line it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _end_with_supervisor() -> None:
    """End this process when the supervisor is gone, even while a case hangs.

    The supervisor never writes again and holds the pipe as long as it lives.
    """
    sys.stdin.read()
    os._exit(1)


def _groups(job: Job, wanted: Sequence[int]) -> Iterator[list[int]]:
    """Neighbouring cases of one problem and state of the cache, which are measured together.

    A forced one is measured by itself.
    """
    group: list[int] = []
    for index in wanted:
        case = job.cases[index]
        if group:
            last = job.cases[group[-1]]
            is_other = (last.problem, last.cache) != (case.problem, case.cache)
            if is_other or last.forced or case.forced:
                yield group
                group = []
        group.append(index)
    if group:
        yield group


def main(job_file: str, heartbeat_file: str) -> int:
    """Measure the cases whose numbers come on the standard input, as one JSON list."""
    pipe = claim_output()

    def tell(event: Event) -> None:
        pipe.write(to_json(event) + "\n")
        pipe.flush()

    die_with_supervisor()
    job = read_job(Path(job_file))
    heartbeat = Heartbeat(Path(heartbeat_file))
    try:
        device = open_device(job.device, processor_name(), num_usable_cores())
    except ChipscaleError as error:
        tell(Event(refusal=str(error)))
        return error.exit_code
    near = stay_near(near_cores(device.torch_device))
    environment = read_environment(device.info, device.state())
    if near:
        pinned = (*environment.variables, ("cores near the device", near))
        environment = replace(environment, variables=pinned)
    tell(Event(environment=environment))
    # The answer may take a while: another run may have the device.
    line = sys.stdin.readline()
    if not line:
        return 1
    wanted = json.loads(line)
    threading.Thread(target=_end_with_supervisor, daemon=True).start()
    tuning.use(tuning.table_of(device.info.name, job.tuning))
    proof = prove(device, job.policy)
    tell(Event(proof=proof))
    device.release_memory()
    runner = CaseRunner(job, device, tell, heartbeat.beat, proof.resolution_s)
    for group in _groups(job, wanted):
        for record in runner.run(group):
            tell(Event(record=record))
            if record.status in (Status.ERROR, Status.OUT_OF_MEMORY) and not device.is_usable():
                return POISONED_EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
