"""A case made ready: what to run, what to restore, how to check it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from harness.errors import ChipscaleError
from harness.measure.policy import MeasurePolicy, Values
from harness.record import Correctness
from kernels.op import Cost, Op, Outputs


class UnsupportedHere(ChipscaleError):  # noqa: N818 - it is a state, told as one
    """The implementation cannot run on this device; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One implementation of one problem, ready to be checked and timed."""

    runs: tuple[Callable[[], Outputs], ...]
    """The timed work, once for each set of inputs; each may be called any number of times."""
    restore: Callable[[int], None]
    """Puts back what runs on that set of inputs overwrote; called before every run of it, outside
    the timed part."""
    check: Callable[[], Correctness]
    """Runs on the first set of inputs and compares with the fp64 reference."""
    keep: Callable[[Outputs], Outputs] = lambda outputs: outputs
    """The outputs of a run, with copies of those that are overwritten inputs, for `recheck`."""
    recheck: Callable[[int, Outputs], Correctness]
    """Compares with the fp64 reference what a timed run on that set of inputs returned, and then
    a run on values that the implementation has not seen."""


class Workbench(Protocol):
    """Everything the implementations of one problem share: inputs and references."""

    cost: Cost

    def subject(self, impl: str) -> Subject:
        """The implementation made ready; raises UnsupportedHere."""


def refuse_values(op: Op, policy: MeasurePolicy) -> None:
    """Raises UnsupportedHere where inputs that hold such values make no sense for the op."""
    if op.only_normal and policy.inputs is not Values.NORMAL:
        raise UnsupportedHere(
            f"{op.name} is not measured with inputs={policy.inputs}: {op.only_normal}"
        )
