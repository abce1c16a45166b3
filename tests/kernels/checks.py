"""What the tests of ops share: the device, odd sizes, and agreement with the fp64 reference."""

from collections.abc import Mapping

import pytest
import torch

from kernels.op import Inputs, Mode, Op, Outputs, Problem, Tolerance, problem

DEVICE = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")

needs_gpu = (
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE.type == "cpu", reason="there is no accelerator here"),
)
"""Marks of a test that the interpreter cannot stand in for."""

SIZES: Mapping[str, Mapping[str, int]] = {
    "adamw": {"N": 2503},
    "attention": {"B": 2, "Q": 37, "S": 53, "H": 6, "G": 2, "D": 24, "E": 17},
    "copy": {"N": 5003},
    "cross_entropy": {"T": 5, "V": 5003},
    "gemm": {"M": 37, "N": 133, "K": 151},
    "rms_norm": {"T": 5, "H": 123},
    "swiglu": {"T": 5, "F": 1031},
}
"""Sizes that no tile divides, more than one tile in at least one axis."""


def odd_problem(op: Op, dtype: str, mode: Mode) -> Problem:
    """The op at its odd sizes; an op without an entry gets primes."""
    sizes = SIZES.get(op.name) or dict(zip(op.axes, (5, 123, 37, 71), strict=False))
    return problem(op.name, dtype, mode, **{axis: sizes[axis] for axis in op.axes})


def inputs_of(op: Op, case: Problem, seed: int = 0) -> dict[str, torch.Tensor]:
    return op.make_inputs(case, torch.Generator(DEVICE).manual_seed(seed))


def expected(op: Op, case: Problem, inputs: Inputs) -> Outputs:
    """The reference on fp64 copies of the inputs."""
    exact = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in inputs.items()
    }
    return op.reference(case, exact)


def assert_within(outputs: Outputs, references: Outputs, tolerance: Tolerance) -> None:
    for index, (output, reference) in enumerate(zip(outputs, references, strict=True)):
        assert output.shape == reference.shape
        assert output.isfinite().all(), f"output {index} is not finite"
        error = output.double() - reference
        relative = (error.norm() / reference.norm()).item()
        largest = (error.abs().max() / reference.square().mean().sqrt()).item()
        assert relative <= tolerance.relative_error, f"output {index}: {relative:.2e} in norm"
        assert largest <= tolerance.max_error, f"output {index}: {largest:.2e} at one element"


def run_triton(op: Op, case: Problem, seed: int = 0) -> None:
    """Runs the Triton implementation and holds it to the fp64 reference."""
    impl = op.impl("triton")
    assert impl.unsupported(case, DEVICE) is None
    inputs = inputs_of(op, case, seed)
    references = expected(op, case, inputs)
    assert_within(impl.prepare(case, inputs)(), references, op.tolerance(case))
