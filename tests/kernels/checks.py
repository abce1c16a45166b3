"""What the tests of ops share: the device, odd sizes, and agreement with the fp64 reference."""

from collections.abc import Callable, Mapping

import pytest
import torch

from harness.measure.correctness import compare
from kernels.op import Inputs, Mode, Op, Outputs, Problem, Tolerance, problem

DEVICE = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")

needs_gpu = (
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE.type == "cpu", reason="there is no accelerator here"),
)
"""Marks of a test that the interpreter cannot stand in for."""

SIZES: Mapping[str, Mapping[str, int]] = {
    "adamw": {"N": 2503},
    "add": {"N": 5003},
    "add_layer_norm": {"T": 5, "H": 123},
    "add_rms_norm": {"T": 5, "H": 123},
    "attention": {"B": 2, "Q": 37, "S": 53, "H": 6, "G": 2, "D": 24, "E": 17},
    "copy": {"N": 5003},
    "cross_entropy": {"T": 5, "V": 5003},
    "dense_layer": {"B": 2, "S": 19, "H": 40, "A": 4, "G": 2, "D": 24, "F": 48},
    "embedding": {"T": 41, "V": 19, "H": 1031},
    "geglu": {"T": 5, "F": 1031},
    "gelu": {"N": 5003},
    "gemm": {"M": 37, "N": 133, "K": 151},
    "grad_norm": {"N": 9001},
    "layer_norm": {"T": 5, "H": 123},
    "rms_norm": {"T": 5, "H": 123},
    "rope": {"T": 5, "H": 19, "D": 70},
    "scale": {"N": 5003},
    "softmax": {"T": 5, "V": 5003},
    "swiglu": {"T": 5, "F": 1031},
    "triad": {"N": 5003},
}
"""Sizes that no tile divides, more than one tile in at least one axis."""


GROWING: Mapping[str, Mapping[str, int]] = {
    "attention": {"H": 60, "G": 1, "Q": 8, "S": 64},
    "dense_layer": {"A": 60, "G": 1},
}
"""Sizes to grow each axis from by up to five times, where not all can be 4: head counts stay
multiples of each other, and queries fewer than keys."""

STILL: Mapping[str, Mapping[str, frozenset[str]]] = {
    # Key/value heads are shared: more of them move more bytes and multiply nothing more.
    "attention": {"G": frozenset({"flops"})},
    # T rows are looked up, however many the table has; its gradient has them all.
    "embedding": {"V": frozenset({"flops", "bytes forward"})},
}
"""What of a cost does not grow with an axis, in every mode or in the one named."""


def _sum_of_residual(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # The backward pass reads x + r, which the forward pass has written, and neither of the two.
    return {"r": inputs["r"][:0]} if "dh" in inputs else {}


PARTLY_READ: Mapping[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "add_layer_norm": _sum_of_residual,
    "add_rms_norm": _sum_of_residual,
    "embedding": lambda inputs: {"table": inputs["table"][inputs["ids"]]},
}
"""What is read of an input that is not read whole."""

SHARED_GRADIENTS: Mapping[str, Mapping[str, str]] = {
    "add_layer_norm": {"r": "x"},
    "add_rms_norm": {"r": "x"},
}
"""Operands whose gradient is that of another, and which the backward mode therefore leaves out."""


def odd_problem(op: Op, dtype: str, mode: Mode, variant: str = "") -> Problem:
    """The op at its odd sizes, in its first variant unless told another."""
    assert op.name in SIZES, (
        f"add odd sizes of {op.name!r} to SIZES in tests/kernels/checks.py, one for each of "
        f"{', '.join(op.axes)}"
    )
    sizes = {axis: SIZES[op.name][axis] for axis in op.axes}
    return problem(op.name, dtype, mode, variant or op.variants[0], **sizes)


def exact_dtype(op: Op) -> str:
    """The type of the op that the interpreter multiplies right, the most exact one."""
    return next(name for name in ("fp32", "fp16", *op.dtypes) if name in op.dtypes)


def inputs_of(op: Op, case: Problem, seed: int = 0) -> dict[str, torch.Tensor]:
    return op.make_inputs(case, torch.Generator(DEVICE).manual_seed(seed))


def expected(op: Op, case: Problem, inputs: Inputs) -> Outputs:
    """The reference on fp64 copies of the inputs."""
    exact = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in inputs.items()
    }
    return op.reference(case, exact)


def assert_within(outputs: Outputs, references: Outputs, tolerances: tuple[Tolerance, ...]) -> None:
    """What a case is held to before it is timed."""
    correctness = compare(outputs, references, tolerances)
    assert correctness.is_right, correctness.explanation


def run_triton(op: Op, case: Problem, seed: int = 0) -> None:
    """Runs the Triton implementation and holds it to the fp64 reference."""
    impl = op.impl("triton")
    assert impl.unsupported(case, DEVICE) is None
    inputs = inputs_of(op, case, seed)
    references = expected(op, case, inputs)
    assert_within(impl.prepare(case, inputs)(), references, op.tolerance(case))
