"""How far a result is from its fp64 reference."""

import torch

from harness.record import Correctness, OutputError
from kernels import dtypes
from kernels.op import ROW_FLOOR, Outputs, Tolerance


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
    # Moved first: the device of the output need not know fp64.
    reference = reference.to(torch.float64)  # Those of indices are integers.
    difference = output.detach().to(reference.device).to(torch.float64) - reference
    num_lost = difference.numel() - int(torch.isfinite(difference).sum())
    if num_lost:
        return _mismatched(
            tolerance, f"{num_lost} of {difference.numel()} elements are NaN or infinite"
        )
    norm = float(reference.norm()) or 1.0
    rows = _row_norms(reference)
    floor = ROW_FLOOR * norm / max(rows.numel(), 1) ** 0.5
    row_errors = _row_norms(difference) / rows.clamp(min=floor)
    return OutputError(
        relative_error=float(difference.norm()) / norm,
        max_error=float(difference.abs().max()) * max(reference.numel(), 1) ** 0.5 / norm,
        row_error=float(row_errors.max()),
        tolerance=tolerance,
    )


def _row_norms(values: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(values, dim=-1) if values.ndim else values.abs()


def _mismatched(tolerance: Tolerance, mismatch: str) -> OutputError:
    infinite = float("inf")
    return OutputError(
        relative_error=infinite,
        max_error=infinite,
        row_error=infinite,
        tolerance=tolerance,
        mismatch=mismatch,
    )
