"""How far a result is from its fp64 reference."""

import torch

from harness.record import Correctness
from kernels.op import Outputs, Tolerance


def compare(outputs: Outputs, references: Outputs, tolerance: Tolerance) -> Correctness:
    """The largest error over all outputs; a NaN, an infinity or a wrong shape is infinitely wrong.

    Where the reference is zero everywhere the error is taken absolutely.
    """
    if len(outputs) != len(references):
        return _infinitely_wrong(tolerance)
    relative_error = 0.0
    max_error = 0.0
    for output, reference in zip(outputs, references, strict=True):
        if output.shape != reference.shape:
            return _infinitely_wrong(tolerance)
        difference = output.detach().to(reference.device, torch.float64) - reference
        if not bool(torch.isfinite(difference).all()):
            return _infinitely_wrong(tolerance)
        norm = float(reference.norm()) or 1.0
        rms = norm / max(reference.numel(), 1) ** 0.5
        relative_error = max(relative_error, float(difference.norm()) / norm)
        max_error = max(max_error, float(difference.abs().max()) / rms)
    return Correctness(relative_error=relative_error, max_error=max_error, tolerance=tolerance)


def _infinitely_wrong(tolerance: Tolerance) -> Correctness:
    return Correctness(relative_error=float("inf"), max_error=float("inf"), tolerance=tolerance)
