"""GELU: y[N] = 0.5 * x * (1 + tanh(u)), u = sqrt(2/pi) * (x + 0.044715 * x^3).

Shape letters: N elements. The tensors may have any shape.
0.5 * (1 + tanh(u)) is sigmoid(2u), so y = x * s, s = sigmoid(x * (a + c * x^2)), with
a = 2 * sqrt(2/pi) and c = 0.044715 * a.
Backward: dx = dy * (s + y * (1 - s) * (a + 3c * x^2)).
Counted: in that form, every addition, multiplication, division and exponential is 1 FLOP, a change
of sign none. Forward 8 per element (argument of s 4, s 3: exp, add, divide, one multiply), backward
15 (argument 4, s 3, y 1, a + 3c * x^2 2, dx 5). Bytes: x read and y written; backward dy and x
read, dx written.
Source: Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", section 2,
https://arxiv.org/abs/1606.08415; the tanh form is that of GPT-2 and GPT-3,
https://github.com/openai/gpt-2/blob/master/src/model.py.
"""

import math
from typing import Any

import torch

from kernels import dtypes
from kernels.compiled import eager_impls, reference_from
from kernels.geglu import CUBIC
from kernels.op import Cost, Impl, Inputs, Mode, Op, Problem, Run, Tolerance
from kernels.stream import BLOCK, NUM_WARPS, bf16_aot, cost_of, grid, random_inputs, require_alike
from kernels.triton_support import tl, triton, triton_unsupported

# Of the argument of s, as the head of this file names them.
_A = 2.0 * math.sqrt(2.0 / math.pi)
_C = CUBIC * _A


@triton.jit
def _forward_kernel(x_ptr, y_ptr, N, a, c, BLOCK: tl.constexpr):
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < N
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    y = x * tl.sigmoid(x * (a + c * x * x))
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _backward_kernel(dy_ptr, x_ptr, dx_ptr, N, a, c, BLOCK: tl.constexpr):
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < N
    dy = tl.load(dy_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    square = x * x
    s = tl.sigmoid(x * (a + c * square))
    dx = dy * (s + x * s * (1.0 - s) * (a + 3.0 * c * square))
    tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=mask)


@torch.library.custom_op("chipscale::gelu", mutates_args=())
def gelu(x: torch.Tensor) -> torch.Tensor:
    """y, of the shape of x."""
    require_alike("gelu", x)
    y = torch.empty_like(x)
    _forward_kernel[grid(x)](x, y, x.numel(), _A, _C, BLOCK=BLOCK, num_warps=NUM_WARPS)
    return y


@gelu.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("chipscale::gelu_backward", mutates_args=())
def gelu_backward(dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The gradient dx from dy and x, all of one shape."""
    require_alike("gelu", x, dy=dy)
    dx = torch.empty_like(x)
    _backward_kernel[grid(x)](dy, x, dx, x.numel(), _A, _C, BLOCK=BLOCK, num_warps=NUM_WARPS)
    return dx


@gelu_backward.register_fake
def _(dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    del dy
    return torch.empty_like(x)


def _save(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
    (x,) = ctx.saved_tensors
    dx: torch.Tensor = gelu_backward(dy.contiguous(), x)
    return dx


gelu.register_autograd(_backward, setup_context=_save)


def _eager(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.gelu(x, approximate="tanh")


def _formula(x: torch.Tensor) -> torch.Tensor:
    u = math.sqrt(2.0 / math.pi) * (x + CUBIC * x**3)
    return 0.5 * x * (1.0 + torch.tanh(u))


reference = reference_from(_formula, ("x",), "dy")


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    if problem.mode == Mode.FORWARD:
        return cost_of(problem, num_read=1, flops_per_element=8)
    return cost_of(problem, num_read=2, flops_per_element=15)


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """x[N], and for the backward mode dy[N]; standard normal."""
    names = ("x",) if problem.mode == Mode.FORWARD else ("x", "dy")
    return random_inputs(problem, generator, *names)


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """Each output rounded once; an approximate exponential adds a few roundings in fp32.

    Half of all x are negative and leave little, so the largest of many is 12 times the root mean
    square; and where s underflows to the type's least step, y keeps an error of that step alone.
    """
    error = dtypes.epsilon(problem.dtype) + 4 * dtypes.epsilon("fp32")
    return (
        Tolerance(dtype=problem.dtype, relative_error=error, max_error=24 * error, row_error=error),
    )


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    x = inputs["x"]
    if problem.mode == Mode.FORWARD:
        return lambda: (gelu(x),)
    dy = inputs["dy"]
    return lambda: (gelu_backward(dy, x),)


AOT = (
    bf16_aot("gelu forward bf16", _forward_kernel, "x", "y", a="fp32", c="fp32"),
    bf16_aot("gelu backward bf16", _backward_kernel, "dy", "x", "dx", a="fp32", c="fp32"),
)

OP = Op(
    name="gelu",
    formula="y[N] = 0.5 * x[N] * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x^3)))",
    source="Hendrycks and Gimpel 2016, section 2, https://arxiv.org/abs/1606.08415",
    axes=("N",),
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
