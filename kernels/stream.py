"""What the STREAM kernels share: flat tensors in blocks, their check, cost, inputs and rounding.

Source: McCalpin 1995, "Memory Bandwidth and Machine Balance in Current High Performance Computers",
https://www.cs.virginia.edu/stream/; the constant is that of its code, stream.c version 5.10.
"""

from typing import Any

import torch

from kernels import dtypes
from kernels.op import Cost, Problem, Tolerance
from kernels.triton_support import AotKernel, cdiv, require_contiguous, require_dtype

SCALAR = 3.0
"""The s of scale and triad; exact in every type."""

# 32 bytes per thread of 16-bit data: two 16-byte accesses in flight for each of 128 threads.
BLOCK = 2048
NUM_WARPS = 4


def require_alike(op: str, x: torch.Tensor, **others: torch.Tensor) -> None:
    """Raises ValueError for what the kernels cannot read, and for shapes that differ from x's."""
    require_contiguous(op, x=x, **others)
    require_dtype(op, x.dtype, **others)
    for name, tensor in others.items():
        if tensor.shape != x.shape:
            raise ValueError(
                f"{op}: {name} is expected with the shape of x, {tuple(x.shape)}, "
                f"not {tuple(tensor.shape)}."
            )


def grid(x: torch.Tensor) -> tuple[int]:
    """One program for each block of elements."""
    return (cdiv(x.numel(), BLOCK),)


def cost_of(problem: Problem, *, num_read: int, flops_per_element: int) -> Cost:
    """That many tensors of N elements read, and one written."""
    num_bytes = problem["N"] * dtypes.size_bytes(problem.dtype)
    return Cost(
        flops=flops_per_element * problem["N"],
        bytes_read=num_read * num_bytes,
        bytes_written=num_bytes,
    )


def random_inputs(
    problem: Problem, generator: torch.Generator, *names: str
) -> dict[str, torch.Tensor]:
    """Standard normal tensors of N elements by these names."""
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device
    return {
        name: torch.randn(problem["N"], generator=generator, device=device, dtype=dtype)
        for name in names
    }


def exact(problem: Problem) -> tuple[Tolerance, ...]:
    """What is moved is not rounded."""
    return (Tolerance(dtype=problem.dtype, relative_error=0.0, max_error=0.0, row_error=0.0),)


def rounded_once(problem: Problem) -> tuple[Tolerance, ...]:
    """A result rounded to its type, after a product that was rounded to fp32 at most.

    A rounding is off by half an epsilon of the value, so the norm of all is off by no more. The
    product rounds in units of itself, which in fp32 is as much again. The largest of 2^36 normal
    values is 7 times their root mean square.
    """
    error = dtypes.epsilon(problem.dtype)
    return (
        Tolerance(dtype=problem.dtype, relative_error=error, max_error=8 * error, row_error=error),
    )


def bf16_aot(label: str, kernel: Any, *tensors: str, **scalars: str) -> AotKernel:
    """A kernel of this family as it is launched on bf16 tensors whose size 16 divides."""
    return AotKernel(
        label=label,
        kernel=kernel,
        signature={f"{name}_ptr": "*bf16:16" for name in tensors}
        | {"N": "i64:16"}
        | scalars
        | {"BLOCK": "constexpr"},
        constexprs={"BLOCK": BLOCK},
        num_warps=NUM_WARPS,
        num_stages=1,
    )
