"""Compiles what a job will run, in several processes at once, so that measuring never waits for it.

Each process takes one case after another that none has taken, prepares it on the device and runs it
once. What Triton and Inductor compile stays in their caches on disk, where the worker that measures
finds it. Nothing is measured meanwhile.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from harness.cases import Case
from harness.codec import to_json
from harness.device.base import Device
from harness.device.open import open_device
from harness.environment import num_usable_cores, processor_name
from harness.errors import ConfigError
from harness.measure.policy import MeasurePolicy
from harness.measure.subject import UnsupportedHere, Workbench
from harness.measure.workbench import open_workbench
from harness.worker.job import Job, read_job
from harness.worker.process import child_environment
from kernels import registry, tuning
from kernels.op import Problem

EAGER = "torch"
"""The implementation that compiles nothing."""
MEMORY_FACTOR = 4
"""A case is taken to need so many times the bytes that its run moves: inputs, what is restored
from, outputs, and what the implementation holds in between."""
CONTEXT_BYTES = 2**30
"""What a process takes of a device's memory before it has a tensor; on an H100 about 0.5 GiB."""
_POLL_S = 0.2


def compiling(cases: Sequence[Case]) -> tuple[Case, ...]:
    """Those that have something to compile."""
    return tuple(case for case in cases if case.impl != EAGER)


def compile_ahead(
    job_file: Path,
    num_processes: int,
    within_s: float,
    devices: Sequence[int] = (),
    on_progress: Callable[[int, int], None] = lambda num_begun, num_cases: None,
) -> str:
    """What became of it, in a sentence; a case that cannot be compiled is told by its record.

    Args:
        job_file: the job; only its cases that compile something are prepared.
        num_processes: at most so many at once; fewer where the device's memory is too small.
        within_s: what is not compiled then is left to the worker that measures.
        devices: the indices of the devices that share the work; none: that of the job.
        on_progress: is told how many cases were begun, of how many.
    """
    job = read_job(job_file)
    job = replace(job, cases=compiling(job.cases))
    started_s = time.monotonic()
    until_s = started_s + min(within_s, job.policy.case_timeout_s * max(len(job.cases), 1))
    num_processes = min(num_processes, len(job.cases))
    num_begun, num_late = 0, 0
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as started:
        taken = Path(folder) / "taken"
        taken.mkdir()
        children = []
        indices = devices or (job.device.index,)
        # Each device's processes are numbered by themselves, since they share its memory.
        for place in range(num_processes):
            index, number = indices[place % len(indices)], place // len(indices)
            sharing = len(range(place % len(indices), num_processes, len(indices)))
            of_device = replace(job, device=replace(job.device, index=index))
            path = Path(folder) / f"{place}.json"
            path.write_text(to_json(of_device), encoding="utf-8")
            child = _start(path, taken, number, sharing, job.device.name)
            started.callback(_stop, child)
            children.append(child)
        while any(child.poll() is None for child in children):
            if time.monotonic() > until_s:
                num_late = sum(child.poll() is None for child in children)
                break
            time.sleep(_POLL_S)
            num_begun = len(list(taken.iterdir()))
            on_progress(num_begun, len(job.cases))
        num_begun = len(list(taken.iterdir()))
    late = f"; {num_late} did not end in time" if num_late else ""
    return (
        f"compiled ahead: {num_begun} of {len(job.cases)} cases in {num_processes} processes, "
        f"{time.monotonic() - started_s:.1f} s{late}"
    )


def _start(
    job_file: Path, taken: Path, number: int, sharing: int, device: str
) -> "subprocess.Popen[bytes]":
    # One thread of Inductor's own in each, since the processes already fill the cores.
    environment = child_environment() | {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    if device != "cpu":
        # On a processor the code is made for as many threads as will run it.
        environment["OMP_NUM_THREADS"] = "1"
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "harness.worker.compile_ahead"),
            *(str(job_file), str(taken), str(number), str(sharing)),
        ],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Its own session, so that it is ended together with the compilers it has started.
        start_new_session=True,
    )


def _stop(child: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def num_fitting(job: Job, num_processes: int, memory_bytes: int | None) -> int:
    """How many processes may hold the largest case on the device at once; at least one."""
    if memory_bytes is None:
        return num_processes
    largest_bytes = max((registry.cost(case.problem).num_bytes for case in job.cases), default=0)
    fitting = memory_bytes // (MEMORY_FACTOR * largest_bytes + CONTEXT_BYTES)
    return max(1, min(num_processes, fitting))


def _untaken(cases: Sequence[Case], taken: Path) -> Iterator[Case]:
    """One case after another that no process has taken; a file for each says which are."""
    for place, case in enumerate(cases):
        try:
            os.close(os.open(taken / str(place), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            continue
        yield case


def main(job_file: str, taken: str, number: str, num_processes: str) -> int:
    """Prepare and run once what the other processes have not taken."""
    job = read_job(Path(job_file))
    try:
        device = open_device(job.device, processor_name(), num_usable_cores())
    except ConfigError:
        return 2  # The worker tells of it.
    # Asked of the whole memory, which all processes see alike, whichever comes first.
    if int(number) >= num_fitting(job, int(num_processes), device.info.memory_bytes):
        return 0
    tuning.use(tuning.table_of(device.info.name, job.tuning))
    problem: Problem | None = None
    workbench: Workbench | None = None
    for case in _untaken(job.cases, Path(taken)):
        try:
            impl = registry.load(case.problem.op).impl(case.impl)
            if impl.unsupported(case.problem, device.torch_device) is not None:
                continue
            if workbench is None or case.problem != problem:
                workbench = None
                device.release_memory()
                workbench = _workbench(case, device, job.policy)
                problem = case.problem
            with tuning.forced(dict(case.forced)):
                workbench.subject(case.impl).runs[0]()
            device.synchronize()
        except UnsupportedHere:
            continue
        except Exception as error:  # The case fails again where it is measured, and is recorded.
            print(f"{case.id}: {error}", file=sys.stderr)
            if not device.is_usable():
                return 1
    return 0


def _workbench(case: Case, device: Device, policy: MeasurePolicy) -> Workbench:
    """With one set of inputs, since what is compiled for one serves all."""
    alone = replace(policy, num_input_sets=1)
    return open_workbench(registry.load(case.problem.op), case.problem, device, alone)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
