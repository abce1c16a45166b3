"""Triad: z[N] = x[N] + s * y[N], the kernel that STREAM is quoted by, with its s = 3.

Shape letters: N elements.
Backward: dx = dz, which moves nothing, and dy = s * dz, which is `scale`; it is no mode of its own.
Counted: 2 FLOPs per element; 2 N elements read and N written.
Source: the Triad kernel of STREAM (McCalpin 1995, "Memory Bandwidth and Machine Balance in
Current High Performance Computers", https://www.cs.virginia.edu/stream/).
"""

from typing import Any

import torch

from kernels import dtypes
from kernels.compiled import eager_impls, reference_from
from kernels.op import Cost, Impl, Inputs, Mode, Op, Problem, Run
from kernels.scale import scale
from kernels.stream import (
    BLOCK,
    NUM_WARPS,
    SCALAR,
    bf16_aot,
    cost_of,
    grid,
    random_inputs,
    require_alike,
    rounded_once,
)
from kernels.triton_support import tl, triton, triton_unsupported


@triton.jit
def _triad_kernel(x_ptr, y_ptr, z_ptr, N, s, BLOCK: tl.constexpr):
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < N
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    tl.store(z_ptr + offsets, (x + s * y).to(z_ptr.dtype.element_ty), mask=mask)


@torch.library.custom_op("chipscale::triad", mutates_args=())
def triad(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The sum of x and three times y, of one shape."""
    require_alike("triad", x, y=y)
    z = torch.empty_like(x)
    _triad_kernel[grid(x)](x, y, z, x.numel(), SCALAR, BLOCK=BLOCK, num_warps=NUM_WARPS)
    return z


@triad.register_fake
def _(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    del y
    return torch.empty_like(x)


def _backward(ctx: Any, dz: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    del ctx
    dy: torch.Tensor = scale(dz.contiguous())
    return dz, dy


triad.register_autograd(_backward)


# One pass over memory; `x + 3 * y` would be two.
def _eager(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.add(x, y, alpha=SCALAR)


def _formula(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x + SCALAR * y


reference = reference_from(_formula, ("x", "y"))


def cost(problem: Problem) -> Cost:
    """One multiply-add per element; x and y read and z written."""
    return cost_of(problem, num_read=2, flops_per_element=2)


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """x[N] and y[N], standard normal."""
    return random_inputs(problem, generator, "x", "y")


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    del problem
    x, y = inputs["x"], inputs["y"]
    return lambda: (triad(x, y),)


AOT = (bf16_aot("triad bf16", _triad_kernel, "x", "y", "z", s="fp32"),)

OP = Op(
    name="triad",
    formula="z[N] = x[N] + 3 * y[N]",
    source="STREAM Triad, https://www.cs.virginia.edu/stream/",
    axes=("N",),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD,),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=rounded_once,
    impls=(
        *eager_impls(_eager, ("x", "y")),
        Impl("triton", _prepare_triton, triton_unsupported),
    ),
)
