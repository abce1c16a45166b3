"""The process that measures: `python -m harness.worker.child JOB`, case numbers on its input.

A crash, a hang or a poisoned device context ends this process and costs one case; the supervisor
starts another. Imports nothing beyond torch, triton, numpy and the standard library.
"""

import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import torch

from harness.cases import Case
from harness.codec import to_json
from harness.device.base import Device
from harness.device.open import open_device
from harness.environment import num_usable_cores, processor_name, read_environment
from harness.errors import ChipscaleError
from harness.measure.loop import measure
from harness.measure.protocol import protocol_hash
from harness.measure.subject import UnsupportedHere, Workbench, open_workbench
from harness.record import Record, Status
from harness.worker.events import Event, Stage
from harness.worker.job import Job, read_job
from kernels import registry, triton_support, tuning
from kernels.op import Problem
from kernels.tuning import Config, Launches

POISONED_EXIT_CODE = 75
"""The device context is unusable after this case; a fresh process goes on (EX_TEMPFAIL)."""
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
MAX_REASON_CHARACTERS = 500
"""Compilers print pages; the first lines say what went wrong."""


class CaseRunner:
    """Runs cases one after the other, keeping the workbench of the last problem."""

    def __init__(self, job: Job, device: Device, tell: Callable[[Event], None]) -> None:
        self._job = job
        self._device = device
        self._tell = tell
        self._problem: Problem | None = None
        self._workbench: Workbench | None = None
        self._best_s: dict[tuple[str, ...], float] = {}

    def run(self, case: Case) -> Record:
        """The record of the case, whatever becomes of it."""
        record = Record(
            run_id=self._job.run.run_id,
            case=case,
            status=Status.OK,
            started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        try:
            op = registry.load(case.problem.op)
            record = replace(
                record,
                cost=op.cost(case.problem),
                protocol_hash=protocol_hash(
                    op, case.problem, self._job.policy, self._device.timer.kind
                ),
            )
            _refuse_other_families(case, self._device.torch_device)
            with tuning.forced(dict(case.forced)), tuning.observed() as launches:
                measured = self._measured(case, record, launches)
            return replace(measured, launches=tuple(launches))
        except UnsupportedHere as reason:
            return _failed(record, Status.UNSUPPORTED, str(reason))
        except (torch.OutOfMemoryError, MemoryError) as error:
            return _failed(record, Status.OUT_OF_MEMORY, _first_words(error))
        except Exception as error:  # an implementation may raise anything; it becomes the reason
            words = _first_words(error)
            is_memory = any(sign in words.lower() for sign in _NO_MEMORY)
            return _failed(record, Status.OUT_OF_MEMORY if is_memory else Status.ERROR, words)

    def _measured(self, case: Case, identity: Record, launches: Launches) -> Record:
        """Check, then time; raises what the implementation raises."""
        self._tell(Event(stage=Stage.PREPARE))
        workbench = self._workbench_of(case.problem)
        started_s = time.perf_counter()
        subject = workbench.subject(case.impl)
        subject.restore()
        subject.run()
        self._device.synchronize()
        prepare_s = time.perf_counter() - started_s
        for kernel, _ in case.forced:
            if not launches.of(kernel):
                raise UnsupportedHere(f"This problem does not launch {kernel}.")
        self._tell(Event(stage=Stage.CHECK))
        correctness = subject.check()
        checked = replace(identity, correctness=correctness)
        if not correctness.is_right:
            return replace(checked, status=Status.INCORRECT, reason=correctness.explanation)
        self._tell(Event(stage=Stage.MEASURE))
        self._device.release_memory()
        rivals = (case.problem.id, *(kernel for kernel, _ in case.forced))
        measurement = measure(
            subject,
            self._device,
            self._job.policy,
            prepare_s=prepare_s,
            best_s=self._best_s.get(rivals) if case.forced else None,
        )
        if case.forced:
            median_s = statistics.median(measurement.samples_s)
            self._best_s[rivals] = min(median_s, self._best_s.get(rivals, median_s))
        return replace(checked, measurement=measurement)

    def _workbench_of(self, problem: Problem) -> Workbench:
        if self._workbench is None or self._problem != problem:
            # The old tensors go before the new ones come, so that the larger of two problems
            # decides whether the memory is enough, not their sum.
            self._workbench = None
            self._device.release_memory()
            self._workbench = open_workbench(
                registry.load(problem.op), problem, self._device, self._job.policy.seed
            )
            self._problem = problem
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


def _failed(record: Record, status: Status, reason: str) -> Record:
    return replace(record, status=status, reason=reason[:MAX_REASON_CHARACTERS])


def _first_words(error: BaseException) -> str:
    """The error's type and the first line it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _claim_output() -> TextIO:
    """The pipe to the supervisor, with the ordinary output turned to the log.

    What a library or a kernel prints must not end up between two events.
    """
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return pipe


def _end_with_supervisor() -> None:
    """End this process when the supervisor is gone, even while a case hangs.

    The supervisor never writes again and holds the pipe as long as it lives.
    """
    sys.stdin.read()
    os._exit(1)


def main(job_file: str) -> int:
    """Measure the cases whose numbers come on the standard input, as one JSON list."""
    pipe = _claim_output()

    def tell(event: Event) -> None:
        pipe.write(to_json(event) + "\n")
        pipe.flush()

    job = read_job(Path(job_file))
    wanted = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_supervisor, daemon=True).start()
    try:
        device = open_device(job.device, processor_name(), num_usable_cores())
    except ChipscaleError as error:
        tell(Event(refusal=str(error)))
        return error.exit_code
    tell(Event(environment=read_environment(device.info)))
    tuning.use(tuning.table_of(device.info.name, job.tuning))
    runner = CaseRunner(job, device, tell)
    for index in wanted:
        tell(Event(started_case=index))
        record = runner.run(job.cases[index])
        tell(Event(record=record))
        if record.status in (Status.ERROR, Status.OUT_OF_MEMORY) and not device.is_usable():
            return POISONED_EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
