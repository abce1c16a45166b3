"""The words every operation is described in: Problem, Cost, Tolerance, Impl, Op.

This file does not import torch at run time, so a command that only names problems stays quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Quoted, so that op files can import them while this file needs no torch.
Inputs = Mapping[str, "torch.Tensor"]
Outputs = tuple["torch.Tensor", ...]
Run = Callable[[], Outputs]


class Mode(StrEnum):
    """Which part of a training or serving step a problem is."""

    FORWARD = "forward"
    BACKWARD = "backward"
    """All gradients of the op at once, the forward pass not included."""
    DGRAD = "dgrad"
    """The gradient with respect to the activations of a matrix product."""
    WGRAD = "wgrad"
    """The gradient with respect to the weights of a matrix product."""
    TRAINING = "training"
    """Of a block: forward, backward and the optimizer's update of every weight."""
    PREFILL = "prefill"
    """Of a block: forward over whole prompts; what the cache keeps of them is a result."""
    DECODE = "decode"
    """Of a block: forward for the newest token of each sequence, with a cache of the others."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An op at concrete sizes; hashable, and the key of every table.

    Two chips did equal work only if their problems are equal.
    """

    op: str
    axes: tuple[tuple[str, int], ...]
    """Axis name and size, in the order the op declares them."""
    dtype: str
    """Type of the operands, one of `kernels.dtypes.NAMES`."""
    mode: Mode = Mode.FORWARD
    variant: str = ""
    """A choice among `Op.variants` that is no size, as `zipf` for how tokens go to experts."""

    def __getitem__(self, axis: str) -> int:
        for name, size in self.axes:
            if name == axis:
                return size
        raise KeyError(f"{self.op} has no axis {axis!r}; it has {[name for name, _ in self.axes]}")

    @property
    def shape(self) -> str:
        """The sizes for people: `M=512 N=768 K=4096`."""
        return " ".join(f"{name}={size}" for name, size in self.axes)

    @property
    def id(self) -> str:
        """A stable, unique name: `gemm.bf16.forward[M=512,N=768,K=4096]`."""
        return f"{self.group}[{self.shape.replace(' ', ',')}]"

    @property
    def title(self) -> str:
        """What is computed, for people: `gemm forward`, `grouped_gemm forward zipf`."""
        return f"{self.op} {self.mode} {self.variant}".rstrip()

    @property
    def group(self) -> str:
        """The problem without its sizes: `gemm.bf16.forward`, `grouped_gemm.bf16.forward.zipf`."""
        variant = f".{self.variant}" if self.variant else ""
        return f"{self.op}.{self.dtype}.{self.mode}{variant}"


def problem(
    op: str, dtype: str, mode: Mode = Mode.FORWARD, variant: str = "", /, **axes: int
) -> Problem:
    """A Problem from keyword sizes, in the order they are written."""
    return Problem(op=op, axes=tuple(axes.items()), dtype=dtype, mode=mode, variant=variant)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The least work a problem needs, whoever computes it.

    A multiply-add is 2 FLOPs; each input is read once and each output written once.
    """

    flops: int
    bytes_read: int
    bytes_written: int

    @property
    def num_bytes(self) -> int:
        """Bytes read plus bytes written."""
        return self.bytes_read + self.bytes_written


ROW_FLOOR = 0.25
"""Rows smaller than this share of the typical row are held to that size.

A row whose terms cancel keeps the rounding of the terms, so its own size says nothing of its error.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """What one output of a right result is, and how far it may be from the fp64 reference.

    All bounds must hold: the first sees a systematic error, the second a single wrong element, the
    third a wrong row among others that are larger.
    """

    dtype: str
    """Type of the output, one of `kernels.dtypes.NAMES` or `int32` and `int64` for indices."""
    relative_error: float
    """Bound on ||out - ref||_2 / ||ref||_2."""
    max_error: float
    """Bound on max |out - ref| / rms(ref)."""
    row_error: float
    """Bound on ||out_row - ref_row||_2 / ||ref_row||_2 of every row, which is the last axis.

    A row below `ROW_FLOOR` times the root mean square of all rows' norms is divided by that.
    """


@dataclass(frozen=True, slots=True)
class Impl:
    """A named way to compute an op."""

    name: str
    """`torch` (eager), `compile` (torch.compile) or `triton`."""
    prepare: Callable[[Problem, Inputs], Run]
    """Does everything that is not timed and returns the callable that is.

    The callable may be called many times; it returns the op's outputs, in the order and types
    of the reference's, and leaves its inputs as they were, except those in `Op.mutates`.
    """
    unsupported: Callable[[Problem, torch.device], str | None] = lambda problem, device: None
    """Why this implementation cannot run the problem on the device, or None if it can."""
    packs: tuple[str, ...] = ()
    """Inputs that `prepare` keeps in another form, as weights packed once for many runs.

    Where their values change, the implementation is prepared again. What the forward pass leaves
    for a backward one needs no mention.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """Everything about one operation that does not depend on a chip."""

    name: str
    formula: str
    """One line, in the letters of `axes`."""
    source: str
    """Where the operation and its cost are defined."""
    axes: tuple[str, ...]
    dtypes: tuple[str, ...]
    modes: tuple[Mode, ...]
    make_inputs: Callable[[Problem, torch.Generator], dict[str, torch.Tensor]]
    """Fresh random inputs on the generator's device; never zeros."""
    reference: Callable[[Problem, Inputs], Outputs]
    """The same mathematics in plain torch, right for inputs of any floating type, fp64 included."""
    cost: Callable[[Problem], Cost]
    tolerance: Callable[[Problem], tuple[Tolerance, ...]]
    """One for each output of the reference, in its order."""
    impls: tuple[Impl, ...]
    variants: tuple[str, ...] = ("",)
    """What `Problem.variant` may be; an op without a choice has the empty one."""
    mutates: tuple[str, ...] = ()
    """Inputs that a run overwrites, as an optimizer does; restored between runs, untimed."""
    fixed: tuple[str, ...] = ()
    """Floating inputs that are no data but decide how data is used: tables of angles, scales of
    codes, what experts are chosen by, what is divided by. They stay as they are drawn whatever
    values are asked for, and are alike in all sets of inputs, as integers are."""
    only_normal: str = ""
    """Why data of zeros, in whole or in part, makes no sense; empty where it does."""
    is_block: bool = False
    """It is composed of other ops and has no kernel of its own, as a transformer layer."""

    def impl(self, name: str) -> Impl:
        """The implementation of that name; raises KeyError."""
        for impl in self.impls:
            if impl.name == name:
                return impl
        there = [impl.name for impl in self.impls]
        raise KeyError(f"{self.name} has no implementation {name!r}; it has {there}")
