"""Add and layer norm: h[T,H] = x + r, y[T,H] = (h - mean(h)) / sqrt(var(h) + eps) * w[H] + b[H].

Shape letters: T tokens, H hidden size; mean and var are over H, and var is divided by H. r is the
residual stream and h what it becomes; both y and h are results, and y is computed from h as it is
stored, in the type of the problem.
Backward, from dy and dh, with q = 1 / sqrt(var + eps), n = (h - mean) * q and g = dy * w:
    dx = dr = dh + q * (g - mean(g) - n * mean(g * n)),
    dw = sum over T of dy * n,  db = sum over T of dy.
It starts from the h that the forward pass gave, and dx is given once, for x and for r.
Counted: forward 8 FLOPs per element (the sum, and the 7 of layer_norm), backward 17 (the 16 of
layer_norm, and the sum with dh). Per-token scalars are not counted. Bytes: x, r, w and b read, y
and h written; backward dy, dh, h and w read, dx, dw and db written. The inputs of the backward mode
are x and r, from which h is made untimed.
Source: Ba, Kiros and Hinton 2016, "Layer Normalization", equation 3, with gain and bias as in
equation 4, https://arxiv.org/abs/1607.06450; the sum before the norm is that of the pre-norm
transformer of Xiong et al. 2020, figure 1, https://arxiv.org/abs/2002.04745; eps as in GPT-2,
https://github.com/openai/gpt-2/blob/master/src/model.py.
"""

from typing import Any

import torch

from kernels import dtypes
from kernels.layer_norm import EPS, normalise_row
from kernels.op import Cost, Impl, Inputs, Mode, Op, Problem, Run, Tolerance
from kernels.residual_norm import (
    require_rows,
    residual_impls,
    residual_inputs,
    residual_reference,
    residual_tolerance,
)
from kernels.row_norm import (
    backward_aot,
    forward_aot,
    launch_backward,
    num_warps,
    row_unsupported,
)
from kernels.triton_support import next_power_of_2, tl, triton

_PARAMETERS = ("w", "b")


@triton.jit
def _forward_kernel(x_ptr, r_ptr, w_ptr, b_ptr, y_ptr, h_ptr, H, eps, BLOCK_H: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * H
    columns = tl.arange(0, BLOCK_H)
    mask = columns < H
    x = tl.load(x_ptr + start + columns, mask=mask, other=0.0).to(tl.float32)
    r = tl.load(r_ptr + start + columns, mask=mask, other=0.0).to(tl.float32)
    h = (x + r).to(h_ptr.dtype.element_ty)
    tl.store(h_ptr + start + columns, h, mask=mask)
    y = normalise_row(h.to(tl.float32), w_ptr, b_ptr, columns, mask, H, eps)
    tl.store(y_ptr + start + columns, y.to(y_ptr.dtype.element_ty), mask=mask)


@torch.library.custom_op("chipscale::add_layer_norm", mutates_args=())
def add_layer_norm(
    x: torch.Tensor, r: torch.Tensor, w: torch.Tensor, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(y[T,H], h[T,H]) from x[T,H], the residual r[T,H], w[H] and b[H]."""
    require_rows("add_layer_norm", x, w, r=r, b=b)
    T, H = x.shape
    y, h = torch.empty_like(x), torch.empty_like(x)
    block_h = next_power_of_2(H)
    _forward_kernel[(T,)](x, r, w, b, y, h, H, EPS, BLOCK_H=block_h, num_warps=num_warps(block_h))
    return y, h


@add_layer_norm.register_fake
def _(
    x: torch.Tensor, r: torch.Tensor, w: torch.Tensor, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    del r, w, b
    return torch.empty_like(x), torch.empty_like(x)


@torch.library.custom_op("chipscale::add_layer_norm_backward", mutates_args=())
def add_layer_norm_backward(
    dy: torch.Tensor, dh: torch.Tensor, h: torch.Tensor, w: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dx[T,H], dw[H], db[H]) from dy[T,H], dh[T,H], h[T,H] and w[H].

    dw and db are summed in fp32 in a fixed order.
    """
    require_rows("add_layer_norm", h, w, dy=dy, dh=dh)
    dx, (dw, db) = launch_backward(dy, dh, h, w, EPS, is_centred=True)
    return dx, dw, db


@add_layer_norm_backward.register_fake
def _(
    dy: torch.Tensor, dh: torch.Tensor, h: torch.Tensor, w: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    del dy, dh
    return torch.empty_like(h), torch.empty_like(w), torch.empty_like(w)


def _save(
    ctx: Any,
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    output: tuple[torch.Tensor, torch.Tensor],
) -> None:
    _, _, w, _ = inputs
    _, h = output
    ctx.save_for_backward(h, w)


def _backward(
    ctx: Any, dy: torch.Tensor, dh: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    dx, dw, db = add_layer_norm_backward(dy.contiguous(), dh.contiguous(), *ctx.saved_tensors)
    return dx, dx, dw, db


add_layer_norm.register_autograd(_backward, setup_context=_save)


def _eager(h: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.layer_norm(h, w.shape, w, b, EPS)


def _formula(h: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    centred = h - h.mean(dim=-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + EPS) * w + b


reference = residual_reference(_formula, _PARAMETERS)


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    num_elements = problem["T"] * problem["H"]
    size = dtypes.size_bytes(problem.dtype)
    row_bytes, weight_bytes = num_elements * size, problem["H"] * size
    if problem.mode == Mode.FORWARD:
        return Cost(
            flops=8 * num_elements,
            bytes_read=2 * row_bytes + 2 * weight_bytes,
            bytes_written=2 * row_bytes,
        )
    return Cost(
        flops=17 * num_elements,
        bytes_read=3 * row_bytes + weight_bytes,
        bytes_written=row_bytes + 2 * weight_bytes,
    )


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """x, r, w and b, and for the backward mode dy and dh; standard normal."""
    return residual_inputs(problem, generator, _PARAMETERS)


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """Of (y, h), or of (dx, dw, db)."""
    return residual_tolerance(problem, len(_PARAMETERS))


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    x, r, w, b = inputs["x"], inputs["r"], inputs["w"], inputs["b"]
    if problem.mode == Mode.FORWARD:
        return lambda: add_layer_norm(x, r, w, b)
    dy, dh, h = inputs["dy"], inputs["dh"], x + r
    return lambda: add_layer_norm_backward(dy, dh, h, w)


AOT = (
    *forward_aot(
        "add_layer_norm", _forward_kernel, ("x_ptr", "r_ptr", "w_ptr", "b_ptr", "y_ptr", "h_ptr")
    ),
    *backward_aot("add_layer_norm", has_dh=True, is_centred=True),
)

OP = Op(
    name="add_layer_norm",
    formula="h[T,H] = x[T,H] + r[T,H], y[T,H] = (h - mean(h)) / sqrt(var(h) + eps) * w[H] + b[H]",
    source="Ba et al. 2016, equations 3 and 4, https://arxiv.org/abs/1607.06450",
    axes=("T", "H"),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD, Mode.BACKWARD),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        *residual_impls(_eager, _PARAMETERS),
        Impl("triton", _prepare_triton, row_unsupported),
    ),
)
