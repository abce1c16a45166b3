"""A Python function made ready to be timed, as a benchmark of another project names one."""

from collections.abc import Callable
from dataclasses import replace
from typing import cast

from harness.measure.subject import Subject
from harness.record import Correctness
from kernels.op import Outputs


def function_subject(
    function: Callable[[], object],
    *,
    setup: Callable[[], object] = lambda: None,
    find_fault: Callable[[object], str] = lambda result: "",
) -> Subject:
    """The function as the measuring loop takes it.

    Args:
        function: the timed work; may be called any number of times.
        setup: called before every run, outside the timed part.
        find_fault: what is wrong with a result, in a sentence; empty for a right one. Asked once
            before anything is timed, and then of what the last timed run returned.
    """

    def run() -> Outputs:
        # In a tuple, since None stands for no result at all.
        return cast(Outputs, (function(),))

    def restore(which: int) -> None:
        del which  # A function has one set of inputs.
        setup()

    def judged(outputs: Outputs) -> Correctness:
        return Correctness(outputs=(), reference="check", finding=find_fault(outputs[0]))

    def check() -> Correctness:
        setup()
        return judged(run())

    def recheck(which: int, outputs: Outputs) -> Correctness:
        del which
        found = judged(outputs)
        if found.is_right:
            return found
        finding = "It was right when it was checked, and the last timed run is wrong. "
        return replace(found, finding=finding + found.finding)

    return Subject(runs=(run,), restore=restore, check=check, recheck=recheck)
