"""Softmax: y[T,V] = exp(x) / sum(exp(x) over V).

Shape letters: T tokens, V vocabulary, or whatever else a row is a distribution over.
The greatest x of a row is subtracted first, which changes nothing but keeps exp within its range.
Backward, from dy and the y that the forward pass returned:
    dx = y * (dy - sum(dy * y over V)).
Counted: forward 5 FLOPs per element (maximum, subtract, exp, add, multiply), backward 4 (multiply,
add, subtract, multiply). Per-token scalars are not counted. Bytes: x read, y written; backward dy
and y read, dx written, and y is as large as x.
Source: Milakov and Gimelshein 2018, "Online normalizer calculation for softmax", algorithm 3,
https://arxiv.org/abs/1805.02867.
"""

from typing import Any

import torch

from kernels import dtypes
from kernels.compiled import eager_impls, reference_from
from kernels.op import Cost, Impl, Inputs, Mode, Op, Problem, Run, Tolerance
from kernels.triton_support import (
    AotKernel,
    next_power_of_2,
    require_contiguous,
    require_dtype,
    tl,
    triton,
    triton_unsupported,
)

# 16 elements per thread, two 16-byte loads in a 16-bit type, between two reductions over the block.
# A row is read twice; the second time it is still in a cache, with 256 KiB for V = 128256 in bf16.
_MAX_BLOCK_V = 4096
_NUM_WARPS = 8


# The peak starts at the least fp32 and not at -inf: a masked block, all of it -inf, would otherwise
# subtract -inf from -inf and lose the row.
@triton.jit
def _forward_kernel(x_ptr, y_ptr, V, BLOCK_V: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * V
    y_ptr += row * V
    columns = tl.arange(0, BLOCK_V)
    peak = -3.4028234663852886e38
    total = 0.0
    for first in range(0, V, BLOCK_V):
        mask = columns < V - first
        x = tl.load(x_ptr + first + columns, mask=mask, other=-float("inf")).to(tl.float32)
        new_peak = tl.maximum(peak, tl.max(x, axis=0))
        total = total * tl.exp(peak - new_peak) + tl.sum(tl.exp(x - new_peak), axis=0)
        peak = new_peak
    scale = 1.0 / total
    for first in range(0, V, BLOCK_V):
        mask = columns < V - first
        x = tl.load(x_ptr + first + columns, mask=mask, other=-float("inf")).to(tl.float32)
        y = tl.exp(x - peak) * scale
        tl.store(y_ptr + first + columns, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _backward_kernel(dy_ptr, y_ptr, dx_ptr, V, BLOCK_V: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    dy_ptr += row * V
    y_ptr += row * V
    dx_ptr += row * V
    columns = tl.arange(0, BLOCK_V)
    products = tl.zeros([BLOCK_V], dtype=tl.float32)
    for first in range(0, V, BLOCK_V):
        mask = columns < V - first
        dy = tl.load(dy_ptr + first + columns, mask=mask, other=0.0).to(tl.float32)
        y = tl.load(y_ptr + first + columns, mask=mask, other=0.0).to(tl.float32)
        products += dy * y
    # The mean of dy under the distribution that y is.
    mean = tl.sum(products, axis=0)
    for first in range(0, V, BLOCK_V):
        mask = columns < V - first
        dy = tl.load(dy_ptr + first + columns, mask=mask, other=0.0).to(tl.float32)
        y = tl.load(y_ptr + first + columns, mask=mask, other=0.0).to(tl.float32)
        dx = y * (dy - mean)
        tl.store(dx_ptr + first + columns, dx.to(dx_ptr.dtype.element_ty), mask=mask)


def _block_v(V: int) -> int:
    return min(next_power_of_2(V), _MAX_BLOCK_V)


@torch.library.custom_op("chipscale::softmax", mutates_args=())
def softmax(x: torch.Tensor) -> torch.Tensor:
    """y[T,V] from x[T,V]."""
    require_contiguous("softmax", x=x)
    require_dtype("softmax", x.dtype)
    if x.ndim != 2:
        raise ValueError(f"softmax: x[T,V] is expected, not {tuple(x.shape)}.")
    T, V = x.shape
    y = torch.empty_like(x)
    _forward_kernel[(T,)](x, y, V, BLOCK_V=_block_v(V), num_warps=_NUM_WARPS)
    return y


@softmax.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("chipscale::softmax_backward", mutates_args=())
def softmax_backward(dy: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """dx[T,V] from dy[T,V] and y[T,V] of the forward pass."""
    require_contiguous("softmax", dy=dy, y=y)
    require_dtype("softmax", y.dtype, dy=dy)
    if y.ndim != 2 or dy.shape != y.shape:
        raise ValueError(
            f"softmax: dy[T,V] and y[T,V] are expected, not {tuple(dy.shape)} and {tuple(y.shape)}."
        )
    T, V = y.shape
    dx = torch.empty_like(y)
    _backward_kernel[(T,)](dy, y, dx, V, BLOCK_V=_block_v(V), num_warps=_NUM_WARPS)
    return dx


@softmax_backward.register_fake
def _(dy: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    del dy
    return torch.empty_like(y)


def _save(
    ctx: Any,
    inputs: tuple[torch.Tensor],
    output: torch.Tensor,
) -> None:
    del inputs
    ctx.save_for_backward(output)


def _backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
    (y,) = ctx.saved_tensors
    dx: torch.Tensor = softmax_backward(dy.contiguous(), y)
    return dx


softmax.register_autograd(_backward, setup_context=_save)


def _eager(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.softmax(x, dim=-1)


def _formula(x: torch.Tensor) -> torch.Tensor:
    exponentials = torch.exp(x - x.amax(dim=-1, keepdim=True).detach())
    return exponentials / exponentials.sum(dim=-1, keepdim=True)


reference = reference_from(_formula, ("x",), "dy")


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    num_elements = problem["T"] * problem["V"]
    num_bytes = num_elements * dtypes.size_bytes(problem.dtype)
    if problem.mode == Mode.FORWARD:
        return Cost(flops=5 * num_elements, bytes_read=num_bytes, bytes_written=num_bytes)
    return Cost(flops=4 * num_elements, bytes_read=2 * num_bytes, bytes_written=num_bytes)


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """x[T,V], and for the backward mode dy[T,V]; standard normal."""
    names = ("x", "dy") if problem.mode == Mode.BACKWARD else ("x",)
    dtype = dtypes.torch_dtype(problem.dtype)
    shape = (problem["T"], problem["V"])
    device = generator.device
    return {
        name: torch.randn(shape, generator=generator, device=device, dtype=dtype) for name in names
    }


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """Each output rounded once, and dx from a y that is rounded too.

    The sum over V grows in fp32, and the argument of the exponential adds a few roundings. Values
    under the least normal number are rounded to its multiples of epsilon; those of a row have a
    root mean square of 1/V or more, since they sum to 1. It tells in fp16 alone: 6e-8 against 8e-6
    for V = 128256. With standard normal x, a value reaches 200 times the root mean square in a
    large tensor.
    """
    V = problem["V"]
    epsilon = dtypes.epsilon(problem.dtype)
    least = epsilon * torch.finfo(dtypes.torch_dtype(problem.dtype)).smallest_normal
    growth = dtypes.epsilon("fp32") * (4 + V**0.5)
    error = epsilon + least / 2 * V + growth
    return (
        Tolerance(
            dtype=problem.dtype,
            relative_error=2 * error,
            max_error=256 * error,
            row_error=3 * error,
        ),
    )


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    x = inputs["x"]
    if problem.mode == Mode.FORWARD:
        return lambda: (softmax(x),)
    dy = inputs["dy"]
    y = softmax(x)
    return lambda: (softmax_backward(dy, y),)


AOT = (
    AotKernel(
        label="softmax forward bf16",
        kernel=_forward_kernel,
        signature={
            "x_ptr": "*bf16:16",
            "y_ptr": "*bf16:16",
            "V": "i32:16",
            "BLOCK_V": "constexpr",
        },
        constexprs={"BLOCK_V": _MAX_BLOCK_V},
        num_warps=_NUM_WARPS,
        num_stages=3,
    ),
    AotKernel(
        label="softmax backward bf16",
        kernel=_backward_kernel,
        signature={
            "dy_ptr": "*bf16:16",
            "y_ptr": "*bf16:16",
            "dx_ptr": "*bf16:16",
            "V": "i32:16",
            "BLOCK_V": "constexpr",
        },
        constexprs={"BLOCK_V": _MAX_BLOCK_V},
        num_warps=_NUM_WARPS,
        num_stages=3,
    ),
)

OP = Op(
    name="softmax",
    formula="y[T,V] = exp(x[T,V]) / sum(exp(x) over V)",
    source="Milakov and Gimelshein 2018, algorithm 3, https://arxiv.org/abs/1805.02867",
    axes=("T", "V"),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD, Mode.BACKWARD),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        *eager_impls(_eager, ("x",), "dy"),
        Impl("triton", _prepare_triton, triton_unsupported),
    ),
)
