"""Compiles what a job will run, in several processes at once, so that measuring never waits for it.

Each process prepares its share of the cases on the device and runs each once. What Triton and
Inductor compile stays in their caches on disk, where the worker that measures finds it.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from harness.cases import Case
from harness.device.base import Device
from harness.device.open import open_device
from harness.environment import num_usable_cores, processor_name
from harness.errors import ConfigError
from harness.measure.policy import MeasurePolicy
from harness.measure.subject import UnsupportedHere, open_workbench
from harness.worker.job import read_job
from kernels import registry, tuning


def compile_ahead(job_file: Path, num_processes: int, within_s: float) -> str:
    """What became of it, in a sentence; a case that cannot be compiled is told by its record."""
    job = read_job(job_file)
    started_s = time.monotonic()
    # One thread of Inductor's own in each, since the processes already fill the cores.
    environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "harness.worker.compile_ahead"),
                *(str(job_file), str(index), str(num_processes)),
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for index in range(num_processes)
    ]
    num_late = 0
    for child in children:
        left_s = max(0.0, within_s - (time.monotonic() - started_s))
        try:
            child.wait(min(left_s, job.policy.case_timeout_s * len(job.cases)))
        except subprocess.TimeoutExpired:
            num_late += 1
            child.kill()
            child.wait()
    late = f"; {num_late} did not end in time" if num_late else ""
    return (
        f"compiled ahead: {len(job.cases)} cases in {num_processes} processes, "
        f"{time.monotonic() - started_s:.1f} s{late}"
    )


def main(job_file: str, first: str, step: str) -> int:
    """Prepare every `step`-th case from `first` on and run it once."""
    job = read_job(Path(job_file))
    try:
        device = open_device(job.device, processor_name(), num_usable_cores())
    except ConfigError:
        return 2  # The worker tells of it.
    tuning.use(tuning.table_of(device.info.name, job.tuning))
    for case in job.cases[int(first) :: int(step)]:
        try:
            _run_once(case, device, job.policy)
        except UnsupportedHere:
            continue
        except Exception as error:  # The case fails again where it is measured, and is recorded.
            print(f"{case.id}: {error}", file=sys.stderr)
        device.release_memory()
    return 0


def _run_once(case: Case, device: Device, policy: MeasurePolicy) -> None:
    workbench = open_workbench(registry.load(case.problem.op), case.problem, device, policy)
    with tuning.forced(dict(case.forced)):
        workbench.subject(case.impl).runs[0]()
    device.synchronize()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
