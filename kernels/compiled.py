"""The implementations `torch` and `compile`: eager code as it is, and through torch.compile."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Protocol, TypeVar, cast

import torch
import torch._functorch.config as functorch_config

from kernels import triton_support
from kernels.op import Impl, Inputs, Mode, Outputs, Problem, Run

Eager = Callable[..., torch.Tensor]
Function = TypeVar("Function", bound=Callable[..., object])


def gradients(function: Eager, tensors: tuple[torch.Tensor, ...], gradient: torch.Tensor) -> Run:
    """Runs the function once and returns the callable that runs its backward pass only.

    The callable gives the gradients of the floating tensors, in their order.
    """
    operands = [
        tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor
        for tensor in tensors
    ]
    leaves = [tensor for tensor in operands if tensor.requires_grad]
    output = function(*operands)
    return lambda: torch.autograd.grad(output, leaves, gradient, retain_graph=True)


def forward(function: Eager, tensors: tuple[torch.Tensor, ...]) -> Run:
    """The callable that runs the function, as a tuple of one output."""
    return lambda: (function(*tensors),)


_known: list[tuple[FunctionType, Callable[..., object]]] | None = None
"""What was compiled since `compiled_once` was entered; None outside of it."""


@contextmanager
def compiled_once() -> Iterator[None]:
    """Within it a function is compiled once, however often it is prepared.

    For several sets of inputs of one problem, whose shapes are the same.
    """
    global _known
    before, _known = _known, []
    try:
        yield
    finally:
        _known = before


def compiled(function: Function) -> Function:
    """The function through torch.compile, specialised to the shapes it is first called with.

    Dynamo keeps its specialisations on the code object and gives up after eight, so each call
    here compiles a copy: any number of problems can be prepared, in any order.
    """
    assert isinstance(function, FunctionType)
    for known, found in _known or ():
        if _is_same(known, function):
            return cast(Function, found)
    copy = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    result = cast(Function, torch.compile(copy, dynamic=False, fullgraph=True))
    if _known is not None:
        _known.append((function, result))
    return result


def _is_same(one: FunctionType, other: FunctionType) -> bool:
    """Whether the two compute the same, closed-over values included."""
    cells, others = (
        [cell.cell_contents for cell in function.__closure__ or ()] for function in (one, other)
    )
    return (
        one.__code__ is other.__code__
        and one.__defaults__ == other.__defaults__
        and all(
            first is second or (isinstance(first, _PLAIN) and first == second)
            for first, second in zip(cells, others, strict=True)
        )
    )


_PLAIN = (int, float, str, Problem)
"""Types whose equal values are the same to a function; tensors are not among them."""


def prepare_eager(
    function: Eager, tensors: tuple[torch.Tensor, ...], gradient: torch.Tensor | None = None
) -> Run:
    """The forward run, or the backward run where there is a gradient to start from."""
    if gradient is None:
        return forward(function, tensors)
    return gradients(function, tensors, gradient)


def prepare_compiled(
    function: Eager, tensors: tuple[torch.Tensor, ...], gradient: torch.Tensor | None = None
) -> Run:
    """As `prepare_eager`, compiled; compilation is over when it returns."""
    # A donated buffer is reused by the backward pass, which could then run only once.
    with functorch_config.patch(donated_buffer=False):
        run = prepare_eager(compiled(function), tensors, gradient)
        run()
    return run


def eager_impls(
    function: Eager, operands: tuple[str, ...], gradient: str = ""
) -> tuple[Impl, Impl]:
    """`torch` and `compile` for an op with one eager function.

    Args:
        function: Forward pass on the operands.
        operands: Names of the inputs it takes, in order.
        gradient: Name of the input that is the gradient of its output, for the backward mode.
    """

    def pick(problem: Problem, inputs: Inputs) -> torch.Tensor | None:
        return inputs[gradient] if problem.mode == Mode.BACKWARD else None

    def prepare_torch(problem: Problem, inputs: Inputs) -> Run:
        tensors = tuple(inputs[name] for name in operands)
        return prepare_eager(function, tensors, pick(problem, inputs))

    def prepare_compile(problem: Problem, inputs: Inputs) -> Run:
        tensors = tuple(inputs[name] for name in operands)
        return prepare_compiled(function, tensors, pick(problem, inputs))

    return Impl("torch", prepare_torch), Impl("compile", prepare_compile, compile_unsupported)


def eager_outputs_impls(
    make: Callable[[Problem], Callable[..., Outputs]],
    operands: tuple[str, ...],
    compile_unsupported: Callable[[Problem, torch.device], str | None],
) -> tuple[Impl, Impl]:
    """`torch` and `compile` for a forward op whose eager code follows from the problem.

    Args:
        make: Gives the function for a problem, which takes the operands and returns all outputs.
        operands: Names of the inputs it takes, in order.
        compile_unsupported: As `Impl.unsupported`, of `compile`.
    """

    def prepare_torch(problem: Problem, inputs: Inputs) -> Run:
        function, tensors = make(problem), tuple(inputs[name] for name in operands)
        return lambda: function(*tensors)

    def prepare_compile(problem: Problem, inputs: Inputs) -> Run:
        function, tensors = compiled(make(problem)), tuple(inputs[name] for name in operands)
        function(*tensors)
        return lambda: function(*tensors)

    return Impl("torch", prepare_torch), Impl("compile", prepare_compile, compile_unsupported)


class Preparer(Protocol):
    """`prepare_eager` or `prepare_compiled`."""

    def __call__(
        self,
        function: Eager,
        tensors: tuple[torch.Tensor, ...],
        gradient: torch.Tensor | None = None,
    ) -> Run:
        """The callable that is timed."""


def product_impls(prepare: Callable[[Problem, Inputs, Preparer], Run]) -> tuple[Impl, Impl]:
    """`torch` and `compile` for an op that multiplies, where fp32 means fp32 and never tf32.

    Args:
        prepare: Chooses function and operands, and has them made ready by what it is given.
    """

    def by(preparer: Preparer) -> Callable[[Problem, Inputs], Run]:
        def prepared(problem: Problem, inputs: Inputs) -> Run:
            # A library in the same process may have allowed tf32.
            torch.set_float32_matmul_precision("highest")
            return prepare(problem, inputs, preparer)

        return prepared

    return (
        Impl("torch", by(prepare_eager)),
        Impl("compile", by(prepare_compiled), compile_unsupported),
    )


def reference_from(
    function: Eager, operands: tuple[str, ...], gradient: str = ""
) -> Callable[[Problem, Inputs], Outputs]:
    """An op's reference from its formula: the formula itself, or autograd through it."""

    def reference(problem: Problem, inputs: Inputs) -> Outputs:
        tensors = tuple(inputs[name] for name in operands)
        start = inputs[gradient] if problem.mode == Mode.BACKWARD else None
        return prepare_eager(function, tensors, start)()

    return reference


def compile_unsupported(problem: Problem, device: torch.device) -> str | None:
    """Why torch.compile cannot run on the device, or None if it can."""
    del problem
    if device.type == "cpu":
        # The compilers that Inductor itself looks for.
        compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(compiler) is None:
            return (
                f"torch.compile needs a C++ compiler on the CPU and finds no {compiler!r}; "
                "install one or set CXX."
            )
        return None
    if triton_support.INTERPRETED:
        return "torch.compile launches compiled Triton kernels, and TRITON_INTERPRET is set."
    return triton_support.unsupported(device)
