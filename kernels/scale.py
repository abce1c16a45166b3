"""Scale: y[N] = s * x[N], one of the four kernels of STREAM, with its s = 3.

Shape letters: N elements.
Backward: dx = s * dy, which is scale again; it is no mode of its own.
Counted: 1 FLOP per element; N elements read and N written.
Source: the Scale kernel of STREAM (McCalpin 1995, "Memory Bandwidth and Machine Balance in
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
def _scale_kernel(x_ptr, y_ptr, N, s, BLOCK: tl.constexpr):
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < N
    y = s * tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


@torch.library.custom_op("chipscale::scale", mutates_args=())
def scale(x: torch.Tensor) -> torch.Tensor:
    """Three times x, of any shape."""
    require_alike("scale", x)
    y = torch.empty_like(x)
    _scale_kernel[grid(x)](x, y, x.numel(), SCALAR, BLOCK=BLOCK, num_warps=NUM_WARPS)
    return y


@scale.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def _backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
    del ctx
    dx: torch.Tensor = scale(dy.contiguous())
    return dx


scale.register_autograd(_backward)


def _formula(x: torch.Tensor) -> torch.Tensor:
    return x * SCALAR


reference = reference_from(_formula, ("x",))


def cost(problem: Problem) -> Cost:
    """One multiplication per element; x read and y written."""
    return cost_of(problem, num_read=1, flops_per_element=1)


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """x[N], standard normal."""
    return random_inputs(problem, generator, "x")


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    del problem
    x = inputs["x"]
    return lambda: (scale(x),)


AOT = (bf16_aot("scale bf16", _scale_kernel, "x", "y", s="fp32"),)

OP = Op(
    name="scale",
    formula="y[N] = 3 * x[N]",
    source="STREAM Scale, https://www.cs.virginia.edu/stream/",
    axes=("N",),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD,),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=rounded_once,
    impls=(*eager_impls(_formula, ("x",)), Impl("triton", _prepare_triton, triton_unsupported)),
)
