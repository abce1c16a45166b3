"""Compiling before a run measures anything, with its progress shown."""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from harness.cases import Case
from harness.codec import to_json
from harness.device.open import is_accelerator
from harness.device.request import DeviceRequest
from harness.environment import num_usable_cores
from harness.worker.compile_ahead import compile_ahead, compiling
from harness.worker.job import Job

MAX_PROCESSES = 8
"""Each holds a context on the device and one core; more gain little beside the longest case."""


def num_compile_processes(asked: int | None, request: DeviceRequest, cases: Sequence[Case]) -> int:
    """How many processes compile ahead; 0 for none.

    Nothing is compiled for a fake chip. On a processor it takes as long as what it saves (see
    `docs/measurement.md`), so there it is done only when asked for.
    """
    if request.name == "fake" or not compiling(cases):
        return 0
    if asked is not None:
        return asked
    return min(num_usable_cores(), MAX_PROCESSES) if is_accelerator(request) else 0


def compile_before(
    job: Job,
    asked: int | None,
    console: Console,
    devices: Sequence[int] = (),
    done: frozenset[str] = frozenset(),
) -> None:
    """Compile what the job will run, unless there is nothing to; what fails is told by its record.

    Args:
        job: what will be measured.
        asked: `compile_processes` of the configuration; None for auto.
        console: where progress and the time it took are shown.
        devices: the devices that will measure it; none: that of the job.
        done: ids of the cases that have a record already.
    """
    todo = compiling([case for case in job.cases if case.id not in done])
    num_processes = num_compile_processes(asked, job.device, todo)
    if not num_processes:
        return
    with tempfile.TemporaryDirectory() as folder, console.status("compiling ahead ...") as status:
        path = Path(folder) / "cases.json"
        path.write_text(to_json(replace(job, cases=todo)), encoding="utf-8")
        if not console.is_terminal:
            console.print(f"compiling {len(todo)} cases ahead", markup=False)
        told = compile_ahead(
            path,
            num_processes,
            math.inf,
            devices,
            lambda begun, total: status.update(f"compiling ahead: {begun} of {total} cases begun"),
        )
    console.print(told, markup=False)
