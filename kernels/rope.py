"""Rotary position embedding: y[T,H,D] is x with each pair (i, i + D/2) of a head turned.

Shape letters: T tokens, H heads, D head dim, even. cos[T,D/2] and sin[T,D/2] are fp32 tables of the
angles position[t] * BASE^(-2 i / D), whatever the type of x is. With first and second the halves of
a head, the rotate-half form of Llama:
    y_first = first * cos - second * sin,  y_second = second * cos + first * sin.
Backward is the transpose, which turns by the angle's negative, and does not need x:
    dx_first = dy_first * cos + dy_second * sin,  dx_second = dy_second * cos - dy_first * sin.
The tables have no gradient.
Counted: 6 FLOPs per pair (4 multiplies, an add, a subtract), 3 per element, both ways; filling the
tables is no part of the op. Bytes: x, cos and sin read, y written; backward dy, cos and sin read,
dx written.
Source: Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", equation
34, https://arxiv.org/abs/2104.09864; halves in place of neighbours as in `apply_rotary_pos_emb` of
https://github.com/huggingface/transformers/blob/main/src/transformers/models/llama/modeling_llama.py.
"""

from typing import Any

import torch

from kernels import dtypes
from kernels.compiled import Eager, compile_unsupported, prepare_compiled, prepare_eager
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run, Tolerance
from kernels.triton_support import (
    AotKernel,
    cdiv,
    next_power_of_2,
    require_contiguous,
    require_dtype,
    tl,
    triton,
    triton_unsupported,
)

BASE = 500_000.0
"""Base of the angles' frequencies: Llama 3, section 3.2, https://arxiv.org/abs/2407.21783."""

_NUM_POSITIONS = 131072
"""Positions are drawn below this, the 128K tokens of context of the same source, section 3.4.2."""

# Pairs of one program, 8 per thread: one 16-byte access of each half in a 16-bit type. The heads of
# a tile share one row of the tables: 16 of them where D = 128.
_TILE = 1024
_NUM_WARPS = 4


@triton.jit
def _rotate_kernel(
    x_ptr, cos_ptr, sin_ptr, y_ptr, H, HALF,
    IS_BACKWARD: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    columns = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    angles = token * HALF + columns
    cos = tl.load(cos_ptr + angles, mask=columns < HALF, other=0.0)[None, :]
    sin = tl.load(sin_ptr + angles, mask=columns < HALF, other=0.0)[None, :]
    if IS_BACKWARD:
        sin = -sin
    mask = (heads < H)[:, None] & (columns < HALF)[None, :]
    offsets = (token * H + heads[:, None]) * (2 * HALF) + columns[None, :]
    first = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(x_ptr + offsets + HALF, mask=mask, other=0.0).to(tl.float32)
    dtype = y_ptr.dtype.element_ty
    tl.store(y_ptr + offsets, (first * cos - second * sin).to(dtype), mask=mask)
    tl.store(y_ptr + offsets + HALF, (second * cos + first * sin).to(dtype), mask=mask)


def _launch(
    name: str, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, is_backward: bool
) -> torch.Tensor:
    require_contiguous("rope", **{name: x}, cos=cos, sin=sin)
    require_dtype("rope", x.dtype)
    require_dtype("rope", torch.float32, cos=cos, sin=sin)
    if x.ndim != 3 or x.shape[2] % 2:
        raise ValueError(f"rope: {name}[T,H,D] with D even is expected, not {tuple(x.shape)}.")
    T, H, D = x.shape
    half = D // 2
    if cos.shape != (T, half) or sin.shape != (T, half):
        raise ValueError(
            f"rope: cos[{T},{half}] and sin[{T},{half}] are expected for {name}[{T},{H},{D}], "
            f"not {tuple(cos.shape)} and {tuple(sin.shape)}."
        )
    y = torch.empty_like(x)
    block_d = min(next_power_of_2(half), _TILE)
    block_h = min(next_power_of_2(H), _TILE // block_d)
    _rotate_kernel[(T, cdiv(H, block_h), cdiv(half, block_d))](
        x, cos, sin, y, H, half,
        IS_BACKWARD=is_backward, BLOCK_H=block_h, BLOCK_D=block_d, num_warps=_NUM_WARPS,
    )  # fmt: skip
    return y


@torch.library.custom_op("chipscale::rope", mutates_args=())
def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """y[T,H,D] from x[T,H,D], cos[T,D/2] and sin[T,D/2]; only x has a gradient."""
    return _launch("x", x, cos, sin, is_backward=False)


@rope.register_fake
def _(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    del cos, sin
    return torch.empty_like(x)


@torch.library.custom_op("chipscale::rope_backward", mutates_args=())
def rope_backward(dy: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """dx[T,H,D] from dy[T,H,D] and the tables of the forward pass."""
    return _launch("dy", dy, cos, sin, is_backward=True)


@rope_backward.register_fake
def _(dy: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    del cos, sin
    return torch.empty_like(dy)


def _save(
    ctx: Any,
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    output: torch.Tensor,
) -> None:
    del output
    _, cos, sin = inputs
    ctx.save_for_backward(cos, sin)


def _backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, None, None]:
    return rope_backward(dy.contiguous(), *ctx.saved_tensors), None, None


rope.register_autograd(_backward, setup_context=_save)


def eager(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """y[T,H,D] in plain torch."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.to(x.dtype)


def _formula(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    # Equation 34, with the neighbours of a pair half a head apart.
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    cos, sin = cos.repeat(1, 2)[:, None], sin.repeat(1, 2)[:, None]
    return (x * cos + turned * sin).to(x.dtype)


def _of_x(function: Eager, inputs: Inputs) -> Eager:
    """The function of x alone: gradients are taken of every operand, and the tables have none."""
    cos, sin = inputs["cos"], inputs["sin"]

    def of_x(x: torch.Tensor) -> torch.Tensor:
        return function(x, cos, sin)

    return of_x


def _gradient(problem: Problem, inputs: Inputs) -> torch.Tensor | None:
    return inputs["dy"] if problem.mode == Mode.BACKWARD else None


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """(y,) or (dx,)."""
    start = _gradient(problem, inputs)
    return prepare_eager(_of_x(_formula, inputs), (inputs["x"],), start)()


def cost(problem: Problem) -> Cost:
    """As the head of this file counts; the same both ways."""
    num_elements = problem["T"] * problem["H"] * problem["D"]
    num_bytes = num_elements * dtypes.size_bytes(problem.dtype)
    # Two tables of D/2 fp32 angles for each token.
    tables_bytes = problem["T"] * problem["D"] * dtypes.size_bytes("fp32")
    return Cost(
        flops=3 * num_elements, bytes_read=num_bytes + tables_bytes, bytes_written=num_bytes
    )


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """x[T,H,D], cos[T,D/2] and sin[T,D/2], and for the backward mode dy[T,H,D].

    x and dy are standard normal. Each token's position is drawn by itself, as in a batch of many
    sequences; the work depends on none of them.
    """
    T, D = problem["T"], problem["D"]
    shape = (T, problem["H"], D)
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device
    positions = torch.randint(_NUM_POSITIONS, (T,), generator=generator, device=device)
    # On the host in fp64, which not every device has: in fp32 large angles are off by up to 2^-7.
    exponents = torch.arange(D // 2, dtype=torch.float64) * (-2 / D)
    angles = positions.cpu().double()[:, None] * BASE**exponents
    inputs = {
        "x": torch.randn(shape, generator=generator, device=device, dtype=dtype),
        "cos": angles.cos().float().to(device),
        "sin": angles.sin().float().to(device),
    }
    if problem.mode == Mode.BACKWARD:
        inputs["dy"] = torch.randn(shape, generator=generator, device=device, dtype=dtype)
    return inputs


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """One rounding to the type of x, and in fp32 one of each product and of their sum.

    A standard normal reaches 7 times its root mean square in a large tensor.
    """
    error = dtypes.epsilon(problem.dtype) + 2 * dtypes.epsilon("fp32")
    return (
        Tolerance(
            dtype=problem.dtype, relative_error=2 * error, max_error=16 * error, row_error=3 * error
        ),
    )


def _prepare_torch(problem: Problem, inputs: Inputs) -> Run:
    return prepare_eager(_of_x(eager, inputs), (inputs["x"],), _gradient(problem, inputs))


def _prepare_compile(problem: Problem, inputs: Inputs) -> Run:
    return prepare_compiled(_of_x(eager, inputs), (inputs["x"],), _gradient(problem, inputs))


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    x, cos, sin = inputs["x"], inputs["cos"], inputs["sin"]
    if problem.mode == Mode.FORWARD:
        return lambda: (rope(x, cos, sin),)
    dy = inputs["dy"]
    return lambda: (rope_backward(dy, cos, sin),)


def _aot(mode: Mode, D: int) -> AotKernel:
    block_d = D // 2
    return AotKernel(
        label=f"rope {mode} bf16 {D}",
        kernel=_rotate_kernel,
        signature={
            "x_ptr": "*bf16:16",
            "cos_ptr": "*fp32:16",
            "sin_ptr": "*fp32:16",
            "y_ptr": "*bf16:16",
            "H": "i32:16",
            "HALF": "i32:16",
            "IS_BACKWARD": "constexpr",
            "BLOCK_H": "constexpr",
            "BLOCK_D": "constexpr",
        },
        constexprs={
            "IS_BACKWARD": mode == Mode.BACKWARD,
            "BLOCK_H": _TILE // block_d,
            "BLOCK_D": block_d,
        },
        num_warps=_NUM_WARPS,
        num_stages=3,
    )


# Heads of 128, and the 64 that DeepSeek-V3 turns of each, https://arxiv.org/abs/2412.19437.
AOT = tuple(_aot(mode, D) for mode in (Mode.FORWARD, Mode.BACKWARD) for D in (64, 128))

OP = Op(
    name="rope",
    formula="y[T,H,D] = x[T,H,D] * cos[T,D/2] + rotate_half(x) * sin[T,D/2]",
    source="Su et al. 2021, equation 34, https://arxiv.org/abs/2104.09864",
    axes=("T", "H", "D"),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD, Mode.BACKWARD),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        Impl("torch", _prepare_torch),
        Impl("compile", _prepare_compile, compile_unsupported),
        Impl("triton", _prepare_triton, triton_unsupported),
    ),
    fixed=("cos", "sin"),
)
