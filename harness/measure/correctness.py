"""How far a result is from its fp64 reference."""

import torch

from harness.record import Correctness, OutputError
from kernels import dtypes
from kernels.op import ROW_FLOOR, Outputs, Tolerance

FP64_DEVICES = ("cpu", "cuda")
"""Types of devices that are known to compute in fp64; for others the host does."""

CHUNK = {"cpu": 2**17, "cuda": 2**22}
"""Elements that are compared at a time. On a processor, 1 MiB in fp64 stays in its caches through
the passes of a comparison; on a GPU, 32 MiB fill it and need little memory beside the outputs."""


def compare(
    outputs: Outputs, references: Outputs, tolerances: tuple[Tolerance, ...]
) -> Correctness:
    """Every output held to its tolerance; wrong in number, shape or type is infinitely wrong.

    So is a NaN or an infinity. Where a reference is zero everywhere, errors are taken absolutely.
    """
    assert len(references) == len(tolerances), "an op has a tolerance for each of its outputs"
    if len(outputs) != len(references):
        mismatch = f"{len(outputs)} came back, and {len(references)} are expected"
        return Correctness(outputs=tuple(_mismatched(one, mismatch) for one in tolerances))
    return Correctness(
        outputs=tuple(
            _compare_output(output, reference, tolerance)
            for output, reference, tolerance in zip(outputs, references, tolerances, strict=True)
        )
    )


def imagined(tolerances: tuple[Tolerance, ...], error: float | None = None) -> Correctness:
    """Half of every error that is allowed, or that error, for a chip that computes nothing."""
    return Correctness(
        outputs=tuple(
            OutputError(
                relative_error=one.relative_error / 2 if error is None else error,
                max_error=one.max_error / 2 if error is None else error,
                row_error=one.row_error / 2 if error is None else error,
                tolerance=one,
            )
            for one in tolerances
        ),
        reference="none: the fake chip computes nothing",
    )


def _compare_output(
    output: torch.Tensor, reference: torch.Tensor, tolerance: Tolerance
) -> OutputError:
    if output.shape != reference.shape:
        shapes = f"{tuple(output.shape)}, and {tuple(reference.shape)} is expected"
        return _mismatched(tolerance, f"its shape is {shapes}")
    if output.dtype != dtypes.torch_dtype(tolerance.dtype):
        types = f"{output.dtype}, and {dtypes.torch_dtype(tolerance.dtype)} is expected"
        return _mismatched(tolerance, f"its type is {types}")
    output = output.detach()
    if output.device.type not in FP64_DEVICES:
        output = output.cpu()
    squares, reference_squares, largest, num_lost = _sums(output, reference)
    if num_lost:
        return _mismatched(
            tolerance, f"{num_lost} of {output.numel()} elements are NaN or infinite"
        )
    norm = float(reference_squares.sum().sqrt()) or 1.0
    floor = ROW_FLOOR * norm / max(len(squares), 1) ** 0.5
    row_errors = squares.sqrt() / reference_squares.sqrt().clamp(min=floor)
    return OutputError(
        relative_error=float(squares.sum().sqrt()) / norm,
        max_error=largest * max(output.numel(), 1) ** 0.5 / norm,
        row_error=float(row_errors.max()) if len(row_errors) else 0.0,
        tolerance=tolerance,
    )


def _sums(
    output: torch.Tensor, reference: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, float, int]:
    """Of each row the sum of squared differences and of the reference's squares, both in fp64.

    And the largest difference, and how many differences are not finite. One pass, on the device of
    the output, in chunks that need little memory.
    """
    width = output.shape[-1] if output.ndim else 1
    device, chunk = output.device, CHUNK[output.device.type]
    output, reference = output.reshape(-1, width), reference.reshape(-1, width)
    num_rows = output.shape[0] if width else 0
    squares = torch.zeros(num_rows, dtype=torch.float64, device=device)
    reference_squares = torch.zeros_like(squares)
    largest = torch.zeros((), dtype=torch.float64, device=device)
    num_lost = torch.zeros((), dtype=torch.int64, device=device)
    at_once = max(1, chunk // max(width, 1))
    for first in range(0, num_rows, at_once):
        rows = slice(first, first + at_once)
        for start in range(0, width, chunk):
            columns = slice(start, start + chunk)
            # References of indices are integers.
            exact = reference[rows, columns].to(device).to(torch.float64)
            difference = output[rows, columns].to(torch.float64).sub_(exact)
            reference_squares[rows] += exact.square().sum(dim=-1)
            largest = torch.maximum(largest, difference.abs().max())
            summed = difference.square_().sum(dim=-1)
            squares[rows] += summed
            if not bool(summed.isfinite().all()):
                num_lost += (~difference.isfinite()).sum()
    return squares, reference_squares, float(largest), int(num_lost)


def _mismatched(tolerance: Tolerance, mismatch: str) -> OutputError:
    infinite = float("inf")
    return OutputError(
        relative_error=infinite,
        max_error=infinite,
        row_error=infinite,
        tolerance=tolerance,
        mismatch=mismatch,
    )
