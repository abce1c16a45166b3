"""What moving rows between tokens and experts shares: `moe_permute` and `moe_unpermute`."""

import torch

from kernels.op import Problem
from kernels.triton_support import require_contiguous

# 8 elements per thread: one 16-byte access of a row in a 16-bit type.
BLOCK_H = 1024
NUM_WARPS = 4


def check(
    op: str, per_token: dict[str, torch.Tensor], rows: dict[str, torch.Tensor],
    positions: torch.Tensor,
) -> None:  # fmt: skip
    """Raises ValueError unless [T,H] per token, [T*K,H] of rows and positions[T,K] int32 fit."""
    require_contiguous(op, positions=positions, **per_token, **rows)
    if positions.dtype != torch.int32 or positions.ndim != 2 or not positions.numel():
        raise ValueError(
            f"{op}: positions[T,K] of torch.int32 are expected, "
            f"not {tuple(positions.shape)} of {positions.dtype}."
        )
    T, R = positions.shape[0], positions.numel()
    H = next(iter((per_token | rows).values())).shape[-1]
    for tensors, count in ((per_token, T), (rows, R)):
        for name, tensor in tensors.items():
            if tensor.shape != (count, H):
                raise ValueError(
                    f"{op}: {name}[{count},{H}] is expected, not {tuple(tensor.shape)}."
                )


def draw_positions(problem: Problem, generator: torch.Generator) -> torch.Tensor:
    """positions[T,K] int32 of T tokens that choose K of E experts at random, sorted by expert."""
    T, K, E = problem["T"], problem["K"], problem["E"]
    if K > E:
        raise ValueError(f"{problem.op}: a token cannot choose K={K} of E={E} experts.")
    scores = torch.rand(T, E, generator=generator, device=generator.device)
    ids = scores.topk(K, dim=-1).indices
    return ids.flatten().argsort(stable=True).argsort().view(T, K).int()
