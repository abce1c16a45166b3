"""What the gated activations share: tiles over gate_up[T,2F], gate first, and what is refused."""

import torch

from kernels.triton_support import cdiv, require_contiguous, require_dtype

# 8 elements per thread: one 16-byte access each of gate and up in a 16-bit type.
BLOCK_F = 1024
NUM_WARPS = 4


def require_gate_up(op: str, gate_up: torch.Tensor, **others: torch.Tensor) -> None:
    """Raises ValueError for what the kernels cannot read."""
    require_contiguous(op, gate_up=gate_up, **others)
    require_dtype(op, gate_up.dtype, **others)
    if gate_up.ndim != 2 or gate_up.shape[1] % 2:
        raise ValueError(f"{op}: gate_up[T,2F] is expected, not {tuple(gate_up.shape)}.")


def tiles(gate_up: torch.Tensor) -> tuple[int, int]:
    """The grid: one program for each row and block of F."""
    T, width = gate_up.shape
    return T, cdiv(width // 2, BLOCK_F)
