"""RMS norm: y[T,H] = x * rsqrt(mean(x^2 over H) + eps) * w[H].

Shape letters: T tokens, H hidden size.
Backward, with r = rsqrt(mean(x^2) + eps), n = x * r and g = dy * w:
    dx = r * (g - n * mean(g * n)),  dw = sum over T of dy * n.
r is computed again in the backward pass: x is read there anyway, so nothing is saved by keeping it.
Counted: forward 4 FLOPs per element (square, add, two multiplies); backward 11 (square, add, n, g,
g * n, add, its multiply with n, subtract, multiply by r, dy * n, add). Per-token scalars are not
counted. Bytes: x and w read, y written; backward dy, x and w read, dx and dw written.
Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", equation 4,
https://arxiv.org/abs/1910.07467; eps as in Llama 3, https://arxiv.org/abs/2407.21783.
"""

from typing import Any

import torch

from kernels import dtypes
from kernels.compiled import eager_impls, reference_from
from kernels.op import Cost, Impl, Inputs, Mode, Op, Problem, Run, Tolerance
from kernels.row_norm import (
    backward_aot,
    forward_aot,
    launch_backward,
    num_warps,
    row_unsupported,
)
from kernels.triton_support import (
    next_power_of_2,
    require_contiguous,
    require_dtype,
    tl,
    triton,
)

EPS = 1e-5


# w is loaded last: beside the widest row there is no room for it.
@triton.jit
def normalise_row(x, w_ptr, columns, mask, H, eps):
    """The y of one row in fp32; x is zero past its end, where the mask is false."""
    r = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / H + eps)
    w = tl.load(w_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    return x * r * w


@triton.jit
def _forward_kernel(x_ptr, w_ptr, y_ptr, H, eps, BLOCK_H: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_H)
    mask = columns < H
    x = tl.load(x_ptr + row * H + columns, mask=mask, other=0.0).to(tl.float32)
    y = normalise_row(x, w_ptr, columns, mask, H, eps)
    tl.store(y_ptr + row * H + columns, y.to(y_ptr.dtype.element_ty), mask=mask)


def _check(x: torch.Tensor, w: torch.Tensor, **others: torch.Tensor) -> None:
    require_contiguous("rms_norm", x=x, w=w, **others)
    require_dtype("rms_norm", x.dtype, w=w, **others)
    if x.ndim != 2 or w.shape != x.shape[1:]:
        raise ValueError(
            f"rms_norm: x[T,H] and w[H] are expected, not {tuple(x.shape)} and {tuple(w.shape)}."
        )


@torch.library.custom_op("chipscale::rms_norm", mutates_args=())
def rms_norm(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """y[T,H] from x[T,H] and w[H]."""
    _check(x, w)
    T, H = x.shape
    y = torch.empty_like(x)
    block_h = next_power_of_2(H)
    _forward_kernel[(T,)](x, w, y, H, EPS, BLOCK_H=block_h, num_warps=num_warps(block_h))
    return y


@rms_norm.register_fake
def _(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    del w
    return torch.empty_like(x)


@torch.library.custom_op("chipscale::rms_norm_backward", mutates_args=())
def rms_norm_backward(
    dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(dx[T,H], dw[H]); dw is summed in fp32 in a fixed order."""
    _check(x, w, dy=dy)
    dx, (dw,) = launch_backward(dy, None, x, w, EPS, is_centred=False)
    return dx, dw


@rms_norm_backward.register_fake
def _(dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    del dy
    return torch.empty_like(x), torch.empty_like(w)


def _save(
    ctx: Any,
    inputs: tuple[torch.Tensor, torch.Tensor],
    output: torch.Tensor,
) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    dx, dw = rms_norm_backward(dy.contiguous(), *ctx.saved_tensors)
    return dx, dw


rms_norm.register_autograd(_backward, setup_context=_save)


def _eager(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.rms_norm(x, w.shape, w, EPS)


def _formula(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + EPS) * w


reference = reference_from(_formula, ("x", "w"), "dy")


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    num_elements = problem["T"] * problem["H"]
    size = dtypes.size_bytes(problem.dtype)
    weight_bytes = problem["H"] * size
    if problem.mode == Mode.FORWARD:
        return Cost(
            flops=4 * num_elements,
            bytes_read=num_elements * size + weight_bytes,
            bytes_written=num_elements * size,
        )
    return Cost(
        flops=11 * num_elements,
        bytes_read=2 * num_elements * size + weight_bytes,
        bytes_written=num_elements * size + weight_bytes,
    )


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """x[T,H] and w[H], and for the backward mode dy[T,H]; standard normal."""
    T, H = problem["T"], problem["H"]
    shapes = {"x": (T, H), "w": (H,)}
    if problem.mode == Mode.BACKWARD:
        shapes["dy"] = (T, H)
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device
    return {
        name: torch.randn(shape, generator=generator, device=device, dtype=dtype)
        for name, shape in shapes.items()
    }


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """Each output rounded, and in eager code n rounded before it is multiplied by w.

    Sums over H for y and dx, and over T for dw, grow in fp32.
    """

    def bounds(length: int) -> Tolerance:
        growth = dtypes.epsilon("fp32") * length**0.5
        error = dtypes.epsilon(problem.dtype) + growth
        return Tolerance(
            dtype=problem.dtype, relative_error=2 * error, max_error=16 * error, row_error=3 * error
        )

    if problem.mode == Mode.FORWARD:
        return (bounds(problem["H"]),)
    return bounds(problem["H"]), bounds(problem["T"])


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    x, w = inputs["x"], inputs["w"]
    if problem.mode == Mode.FORWARD:
        return lambda: (rms_norm(x, w),)
    dy = inputs["dy"]
    return lambda: rms_norm_backward(dy, x, w)


AOT = (
    *forward_aot("rms_norm", _forward_kernel, ("x_ptr", "w_ptr", "y_ptr")),
    *backward_aot("rms_norm", has_dh=False, is_centred=False),
)

OP = Op(
    name="rms_norm",
    formula="y[T,H] = x[T,H] * rsqrt(mean(x^2 over H) + eps) * w[H]",
    source="Zhang and Sennrich 2019, equation 4, https://arxiv.org/abs/1910.07467",
    axes=("T", "H"),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD, Mode.BACKWARD),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        *eager_impls(_eager, ("x", "w"), "dy"),
        Impl("triton", _prepare_triton, row_unsupported),
    ),
)
