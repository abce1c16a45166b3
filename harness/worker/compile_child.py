"""A process that compiles: `python -m harness.worker.compile_child JOB`, one case's number a line.

It prepares each case on the device and runs it once, and answers with one JSON object per line.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from harness.cases import Case
from harness.codec import to_json
from harness.device.base import Device, DeviceInfo
from harness.device.open import open_device
from harness.environment import num_usable_cores, processor_name
from harness.measure.policy import MeasurePolicy
from harness.measure.subject import UnsupportedHere, Workbench
from harness.measure.workbench import open_workbench
from harness.worker.job import Job, read_job
from harness.worker.supervised import claim_output, die_with_supervisor
from kernels import registry, tuning
from kernels.op import Problem

_MAX_REFUSAL_CHARACTERS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One of the first three is set."""

    device: DeviceInfo | None = None
    """The process is up and has opened it; cases may come."""
    refusal: str | None = None
    """The device cannot be opened, and this is why; the process ends."""
    is_compiled: bool | None = None
    """The case that came last is over; False when it raised an error."""
    is_last: bool = False
    """The case has broken the device's context; the process ends."""


class Compiler:
    """Compiles one case after another, keeping the last problem's inputs."""

    def __init__(self, job: Job, device: Device) -> None:
        self._job = job
        self._device = device
        self._problem: Problem | None = None
        self._workbench: Workbench | None = None

    def compile(self, case: Case) -> Answer:
        """Run the case once. What it raises it raises again where it is measured and recorded."""
        try:
            self._run(case)
        except UnsupportedHere:
            pass
        except Exception:
            return Answer(is_compiled=False, is_last=not self._device.is_usable())
        return Answer(is_compiled=True)

    def _run(self, case: Case) -> None:
        impl = registry.load(case.problem.op).impl(case.impl)
        if impl.unsupported(case.problem, self._device.torch_device) is not None:
            return
        if self._workbench is None or case.problem != self._problem:
            self._workbench = None
            self._device.release_memory()
            self._workbench = _workbench(case, self._device, self._job.policy)
            self._problem = case.problem
        with tuning.forced(dict(case.forced)):
            self._workbench.subject(case.impl).runs[0]()
        self._device.synchronize()


def _workbench(case: Case, device: Device, policy: MeasurePolicy) -> Workbench:
    """With one set of inputs, since what is compiled for one serves all."""
    alone = replace(policy, num_input_sets=1)
    return open_workbench(registry.load(case.problem.op), case.problem, device, alone)


def main(job_file: str) -> int:
    """Compile the cases whose numbers come on the standard input, one a line, until it ends."""
    pipe = claim_output()

    def tell(answer: Answer) -> None:
        pipe.write(to_json(answer) + "\n")
        pipe.flush()

    die_with_supervisor()
    job = read_job(Path(job_file))
    try:
        device = open_device(job.device, processor_name(), num_usable_cores())
    except Exception as error:  # as a driver's, when the device's memory is taken
        tell(Answer(refusal=f"{type(error).__name__}: {error}"[:_MAX_REFUSAL_CHARACTERS]))
        return 2
    tuning.use(tuning.table_of(device.info.name, job.tuning))
    tell(Answer(device=device.info))
    compiler = Compiler(job, device)
    for line in sys.stdin:
        answer = compiler.compile(job.cases[int(line)])
        tell(answer)
        if answer.is_last:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
