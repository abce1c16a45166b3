"""Compiling before a run measures anything, with its progress shown."""

from collections.abc import Sequence

from rich.console import Console

from harness.cases import Case
from harness.device.open import is_accelerator
from harness.device.request import DeviceRequest
from harness.environment import num_usable_cores
from harness.worker.compile_ahead import MAX_PROCESSES, compile_ahead, compiling
from harness.worker.job import Job


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

    Raises:
        DeviceBusyError: when another run has every device.
    """
    todo = compiling([case for case in job.cases if case.id not in done])
    num_processes = num_compile_processes(asked, job.device, todo)
    if not num_processes:
        return
    with console.status("compiling ahead ...") as status:
        if not console.is_terminal:
            console.print(f"compiling {len(todo)} cases ahead", markup=False)
        told = compile_ahead(
            job,
            num_processes,
            devices=devices,
            done=done,
            on_progress=lambda begun, total: status.update(
                f"compiling ahead: {begun} of {total} cases begun"
            ),
            on_notice=lambda sentence: console.print(sentence, markup=False, soft_wrap=True),
        )
    console.print(told, markup=False)
