"""Copy: y[N] = x[N], the yardstick of memory bandwidth.

Shape letters: N elements.
Counted: no FLOPs; N elements read and N written. `docs/conventions.md` has what bytes mean.
Source: the Copy kernel of STREAM (McCalpin 1995, "Memory Bandwidth and Machine Balance in
Current High Performance Computers", https://www.cs.virginia.edu/stream/).
"""

from typing import Any

import torch

from kernels import dtypes
from kernels.compiled import eager_impls
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run
from kernels.stream import BLOCK, NUM_WARPS, bf16_aot, exact, grid, require_alike
from kernels.triton_support import tl, triton, triton_unsupported


@triton.jit
def _copy_kernel(x_ptr, y_ptr, N, BLOCK: tl.constexpr):
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < N
    tl.store(y_ptr + offsets, tl.load(x_ptr + offsets, mask=mask), mask=mask)


@torch.library.custom_op("chipscale::copy", mutates_args=())
def copy(x: torch.Tensor) -> torch.Tensor:
    """A new tensor equal to x."""
    require_alike("copy", x)
    y = torch.empty_like(x)
    _copy_kernel[grid(x)](x, y, x.numel(), BLOCK=BLOCK, num_warps=NUM_WARPS)
    return y


@copy.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def _backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
    del ctx
    dx: torch.Tensor = copy(dy.contiguous())
    return dx


copy.register_autograd(_backward)


def _eager(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """(y,)."""
    del problem
    return (inputs["x"].clone(),)


def cost(problem: Problem) -> Cost:
    """One read and one write of N elements."""
    num_bytes = problem["N"] * dtypes.size_bytes(problem.dtype)
    return Cost(flops=0, bytes_read=num_bytes, bytes_written=num_bytes)


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """x[N], standard normal."""
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device
    return {"x": torch.randn(problem["N"], generator=generator, device=device, dtype=dtype)}


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    del problem
    x = inputs["x"]
    return lambda: (copy(x),)


AOT = (bf16_aot("copy bf16", _copy_kernel, "x", "y"),)

OP = Op(
    name="copy",
    formula="y[N] = x[N]",
    source="STREAM Copy, https://www.cs.virginia.edu/stream/",
    axes=("N",),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD,),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=exact,
    impls=(*eager_impls(_eager, ("x",)), Impl("triton", _prepare_triton, triton_unsupported)),
)
