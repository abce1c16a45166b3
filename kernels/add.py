"""Add: z[N] = x[N] + y[N], one of the four kernels of STREAM.

Shape letters: N elements.
Backward: dx = dy = dz, which moves nothing; it is no mode of its own.
Counted: 1 FLOP per element; 2 N elements read and N written.
Source: the Add kernel of STREAM (McCalpin 1995, "Memory Bandwidth and Machine Balance in
Current High Performance Computers", https://www.cs.virginia.edu/stream/).
"""

from typing import Any

import torch

from kernels import dtypes
from kernels.compiled import eager_impls, reference_from
from kernels.op import Cost, Impl, Inputs, Mode, Op, Problem, Run
from kernels.stream import (
    BLOCK,
    NUM_WARPS,
    bf16_aot,
    cost_of,
    grid,
    random_inputs,
    require_alike,
    rounded_once,
)
from kernels.triton_support import tl, triton, triton_unsupported


@triton.jit
def _add_kernel(x_ptr, y_ptr, z_ptr, N, BLOCK: tl.constexpr):
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < N
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    tl.store(z_ptr + offsets, (x + y).to(z_ptr.dtype.element_ty), mask=mask)


@torch.library.custom_op("chipscale::add", mutates_args=())
def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The sum of two tensors of one shape."""
    require_alike("add", x, y=y)
    z = torch.empty_like(x)
    _add_kernel[grid(x)](x, y, z, x.numel(), BLOCK=BLOCK, num_warps=NUM_WARPS)
    return z


@add.register_fake
def _(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    del y
    return torch.empty_like(x)


def _backward(ctx: Any, dz: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    del ctx
    return dz, dz


add.register_autograd(_backward)


def _formula(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x + y


reference = reference_from(_formula, ("x", "y"))


def cost(problem: Problem) -> Cost:
    """One addition per element; x and y read and z written."""
    return cost_of(problem, num_read=2, flops_per_element=1)


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """x[N] and y[N], standard normal."""
    return random_inputs(problem, generator, "x", "y")


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    del problem
    x, y = inputs["x"], inputs["y"]
    return lambda: (add(x, y),)


AOT = (bf16_aot("add bf16", _add_kernel, "x", "y", "z"),)

OP = Op(
    name="add",
    formula="z[N] = x[N] + y[N]",
    source="STREAM Add, https://www.cs.virginia.edu/stream/",
    axes=("N",),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD,),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=rounded_once,
    impls=(
        *eager_impls(_formula, ("x", "y")),
        Impl("triton", _prepare_triton, triton_unsupported),
    ),
)
