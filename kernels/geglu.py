"""GEGLU: y[T,F] = gelu(gate) * up, with gate_up[T,2F] holding gate and then up in each row.

Shape letters: T tokens, F hidden size of the feed-forward layer.
gelu is the tanh form, 0.5 * gate * (1 + tanh(u)), u = sqrt(2/pi) * (gate + 0.044715 * gate^3).
0.5 * (1 + tanh(u)) is sigmoid(2u), so gelu = gate * s, s = sigmoid(gate * (a + c * gate^2)), with
a = 2 * sqrt(2/pi) and c = 0.044715 * a.
Backward:
    d_gate = dy * up * (s + gate * s * (1 - s) * (a + 3c * gate^2)),  d_up = dy * gate * s.
Counted: in that form every addition, multiplication, division and exponential is 1 FLOP, a change
of sign none. Forward 9 per element of y (argument of s 4, s 3: exp, add, divide, two multiplies),
backward 17 (argument 4, s 3, gate * s 1, d_up 1, a + 3c * gate^2 2, d_gate 6).
Bytes: gate_up read and y written; backward dy and gate_up read, d_gate_up written.
Source: Shazeer 2020, "GLU Variants Improve Transformer", section 2,
https://arxiv.org/abs/2002.05202; the tanh form and its 0.044715 from Hendrycks and Gimpel 2016,
"Gaussian Error Linear Units", section 2, https://arxiv.org/abs/1606.08415.
"""

import math
from typing import Any

import torch

from kernels import dtypes
from kernels.compiled import eager_impls, reference_from
from kernels.gated import BLOCK_F, NUM_WARPS, require_gate_up, tiles
from kernels.op import Cost, Impl, Inputs, Mode, Op, Problem, Run, Tolerance
from kernels.triton_support import AotKernel, tl, triton, triton_unsupported

CUBIC = 0.044715

# Of the argument of s, as the head of this file names them.
_A = 2.0 * math.sqrt(2.0 / math.pi)
_C = CUBIC * _A


@triton.jit
def _forward_kernel(gate_up_ptr, y_ptr, F, A: tl.constexpr, C: tl.constexpr, BLOCK_F: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    mask = columns < F
    gate_ptrs = gate_up_ptr + row * 2 * F + columns
    gate = tl.load(gate_ptrs, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_ptrs + F, mask=mask, other=0.0).to(tl.float32)
    y = gate * tl.sigmoid(gate * (A + C * gate * gate)) * up
    tl.store(y_ptr + row * F + columns, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _backward_kernel(
    dy_ptr, gate_up_ptr, d_gate_up_ptr, F, A: tl.constexpr, C: tl.constexpr, BLOCK_F: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    mask = columns < F
    gate_offsets = row * 2 * F + columns
    gate = tl.load(gate_up_ptr + gate_offsets, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + gate_offsets + F, mask=mask, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + row * F + columns, mask=mask, other=0.0).to(tl.float32)
    square = gate * gate
    s = tl.sigmoid(gate * (A + C * square))
    gelu = gate * s
    d_up = dy * gelu
    d_gate = dy * up * (s + gelu * (1.0 - s) * (A + 3.0 * C * square))
    dtype = d_gate_up_ptr.dtype.element_ty
    tl.store(d_gate_up_ptr + gate_offsets, d_gate.to(dtype), mask=mask)
    tl.store(d_gate_up_ptr + gate_offsets + F, d_up.to(dtype), mask=mask)


@torch.library.custom_op("chipscale::geglu", mutates_args=())
def geglu(gate_up: torch.Tensor) -> torch.Tensor:
    """y[T,F] from gate_up[T,2F]."""
    require_gate_up("geglu", gate_up)
    T, width = gate_up.shape
    y = gate_up.new_empty(T, width // 2)
    _forward_kernel[tiles(gate_up)](
        gate_up, y, width // 2, A=_A, C=_C, BLOCK_F=BLOCK_F, num_warps=NUM_WARPS
    )
    return y


@geglu.register_fake
def _(gate_up: torch.Tensor) -> torch.Tensor:
    return gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)


@torch.library.custom_op("chipscale::geglu_backward", mutates_args=())
def geglu_backward(dy: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:
    """d_gate_up[T,2F] from dy[T,F] and gate_up[T,2F]."""
    require_gate_up("geglu", gate_up, dy=dy)
    d_gate_up = torch.empty_like(gate_up)
    _backward_kernel[tiles(gate_up)](
        dy, gate_up, d_gate_up, gate_up.shape[1] // 2,
        A=_A, C=_C, BLOCK_F=BLOCK_F, num_warps=NUM_WARPS,
    )  # fmt: skip
    return d_gate_up


@geglu_backward.register_fake
def _(dy: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:
    del dy
    return torch.empty_like(gate_up)


def _save(
    ctx: Any,
    inputs: tuple[torch.Tensor],
    output: torch.Tensor,
) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
    (gate_up,) = ctx.saved_tensors
    d_gate_up: torch.Tensor = geglu_backward(dy.contiguous(), gate_up)
    return d_gate_up


geglu.register_autograd(_backward, setup_context=_save)


def _eager(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.gelu(gate, approximate="tanh") * up


def _formula(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    u = math.sqrt(2.0 / math.pi) * (gate + CUBIC * gate**3)
    return 0.5 * gate * (1.0 + torch.tanh(u)) * up


reference = reference_from(_formula, ("gate_up",), "dy")


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    num_elements = problem["T"] * problem["F"]
    num_bytes = num_elements * dtypes.size_bytes(problem.dtype)
    if problem.mode == Mode.FORWARD:
        return Cost(flops=9 * num_elements, bytes_read=2 * num_bytes, bytes_written=num_bytes)
    return Cost(flops=17 * num_elements, bytes_read=3 * num_bytes, bytes_written=2 * num_bytes)


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """gate_up[T,2F], and for the backward mode dy[T,F]; standard normal."""
    shapes = {"gate_up": (problem["T"], 2 * problem["F"])}
    if problem.mode == Mode.BACKWARD:
        shapes["dy"] = (problem["T"], problem["F"])
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device
    return {
        name: torch.randn(shape, generator=generator, device=device, dtype=dtype)
        for name, shape in shapes.items()
    }


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """Each output rounded once, and in eager code each intermediate product too.

    The argument of the exponential and its approximation add a few roundings in fp32. A product of
    two standard normals reaches 30 times its root mean square in a large tensor.
    """
    error = dtypes.epsilon(problem.dtype) + 2 * dtypes.epsilon("fp32")
    return (
        Tolerance(
            dtype=problem.dtype, relative_error=2 * error, max_error=48 * error, row_error=3 * error
        ),
    )


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    gate_up = inputs["gate_up"]
    if problem.mode == Mode.FORWARD:
        return lambda: (geglu(gate_up),)
    dy = inputs["dy"]
    return lambda: (geglu_backward(dy, gate_up),)


AOT = (
    AotKernel(
        label="geglu forward bf16",
        kernel=_forward_kernel,
        signature={
            "gate_up_ptr": "*bf16:16",
            "y_ptr": "*bf16:16",
            "F": "i32:16",
            "A": "constexpr",
            "C": "constexpr",
            "BLOCK_F": "constexpr",
        },
        constexprs={"A": _A, "C": _C, "BLOCK_F": BLOCK_F},
        num_warps=NUM_WARPS,
        num_stages=3,
    ),
    AotKernel(
        label="geglu backward bf16",
        kernel=_backward_kernel,
        signature={
            "dy_ptr": "*bf16:16",
            "gate_up_ptr": "*bf16:16",
            "d_gate_up_ptr": "*bf16:16",
            "F": "i32:16",
            "A": "constexpr",
            "C": "constexpr",
            "BLOCK_F": "constexpr",
        },
        constexprs={"A": _A, "C": _C, "BLOCK_F": BLOCK_F},
        num_warps=NUM_WARPS,
        num_stages=3,
    ),
)

OP = Op(
    name="geglu",
    formula="y[T,F] = gelu_tanh(gate[T,F]) * up[T,F], gate_up[T,2F]",
    source="Shazeer 2020, section 2, https://arxiv.org/abs/2002.05202",
    axes=("T", "F"),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD, Mode.BACKWARD),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        *eager_impls(_eager, ("gate_up",), "dy"),
        Impl("triton", _prepare_triton, triton_unsupported),
    ),
)
