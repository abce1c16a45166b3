"""Tokens into the order of experts: rows[positions[t,k],H] = x[t,H].

Shape letters: T tokens, K experts of each, E experts, H hidden size; rows[T*K,H]. positions[T,K]
int32 are as `moe_route` gives them, each number from 0 to T K - 1 once. E only decides how
scattered the rows are.
Backward: dx[t] = sum over k of d_rows[positions[t,k]], in fp32 and in the order of k. x is not
needed.
Counted: forward no FLOPs, backward K - 1 adds per element of x, T H (K - 1). Bytes: forward x and
positions read, T K rows written; backward T K rows and positions read, dx written.
Source: Gale et al. 2022, "MegaBlocks", section 5.2, https://arxiv.org/abs/2211.15841.
"""

from typing import Any

import torch

from kernels import dtypes
from kernels.compiled import eager_impls, reference_from
from kernels.moe_rows import BLOCK_H, NUM_WARPS, check, draw_positions
from kernels.op import Cost, Impl, Inputs, Mode, Op, Problem, Run, Tolerance
from kernels.triton_support import AotKernel, cdiv, require_dtype, tl, triton, triton_unsupported


@triton.jit
def _forward_kernel(x_ptr, positions_ptr, rows_ptr, K, H, BLOCK_H: tl.constexpr):
    # A token's row is read once and written K times.
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    mask = columns < H
    x = tl.load(x_ptr + token * H + columns, mask=mask)
    for k in range(K):
        row = tl.load(positions_ptr + token * K + k).to(tl.int64)
        tl.store(rows_ptr + row * H + columns, x, mask=mask)


@triton.jit
def _backward_kernel(d_rows_ptr, positions_ptr, dx_ptr, K, H, BLOCK_H: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    mask = columns < H
    total = tl.zeros([BLOCK_H], dtype=tl.float32)
    for k in range(K):
        row = tl.load(positions_ptr + token * K + k).to(tl.int64)
        total += tl.load(d_rows_ptr + row * H + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(dx_ptr + token * H + columns, total.to(dx_ptr.dtype.element_ty), mask=mask)


@torch.library.custom_op("chipscale::moe_permute", mutates_args=())
def moe_permute(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """rows[T*K,H] from x[T,H] and positions[T,K] int32."""
    require_dtype("moe_permute", x.dtype)
    check("moe_permute", {"x": x}, {}, positions)
    (T, K), H = positions.shape, x.shape[1]
    rows = x.new_empty(T * K, H)
    _forward_kernel[(T, cdiv(H, BLOCK_H))](
        x, positions, rows, K, H, BLOCK_H=BLOCK_H, num_warps=NUM_WARPS
    )
    return rows


@moe_permute.register_fake
def _(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return x.new_empty(positions.numel(), x.shape[1])


@torch.library.custom_op("chipscale::moe_permute_backward", mutates_args=())
def moe_permute_backward(d_rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """dx[T,H] from d_rows[T*K,H] and positions[T,K] int32."""
    require_dtype("moe_permute", d_rows.dtype)
    check("moe_permute", {}, {"d_rows": d_rows}, positions)
    (T, K), H = positions.shape, d_rows.shape[1]
    dx = d_rows.new_empty(T, H)
    _backward_kernel[(T, cdiv(H, BLOCK_H))](
        d_rows, positions, dx, K, H, BLOCK_H=BLOCK_H, num_warps=NUM_WARPS
    )
    return dx


@moe_permute_backward.register_fake
def _(d_rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return d_rows.new_empty(positions.shape[0], d_rows.shape[1])


def _save(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor], output: torch.Tensor) -> None:
    del output
    ctx.save_for_backward(inputs[1])


def _backward(ctx: Any, d_rows: torch.Tensor) -> tuple[torch.Tensor, None]:
    return moe_permute_backward(d_rows.contiguous(), *ctx.saved_tensors), None


moe_permute.register_autograd(_backward, setup_context=_save)


def formula(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """rows[T*K,H] from x[T,H] and positions[T,K], differentiable."""
    T, K = positions.shape
    repeated = x[:, None].expand(T, K, x.shape[1]).reshape(T * K, -1)
    return torch.empty_like(repeated).index_copy(0, positions.flatten().long(), repeated)


def _eager(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    # Which token each row comes from, so that x is read and the rows are written once.
    T, K = positions.shape
    choices = torch.arange(T * K, device=x.device) // K
    token = torch.empty_like(choices).scatter_(0, positions.flatten().long(), choices)
    return x.index_select(0, token)


reference = reference_from(formula, ("x", "positions"), "d_rows")


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    T, K, H = problem["T"], problem["K"], problem["H"]
    size = dtypes.size_bytes(problem.dtype)
    few, many, index = T * H * size, T * K * H * size, 4 * T * K
    if problem.mode == Mode.FORWARD:
        return Cost(flops=0, bytes_read=few + index, bytes_written=many)
    return Cost(flops=T * H * (K - 1), bytes_read=many + index, bytes_written=few)


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """x[T,H] and for the backward mode d_rows[T*K,H], standard normal; random positions[T,K]."""
    T, K, H = problem["T"], problem["K"], problem["H"]
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device
    inputs = {
        "x": torch.randn(T, H, generator=generator, device=device, dtype=dtype),
        "positions": draw_positions(problem, generator),
    }
    if problem.mode == Mode.BACKWARD:
        inputs["d_rows"] = torch.randn(T * K, H, generator=generator, device=device, dtype=dtype)
    return inputs


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """Forward copies and is exact; backward rounds a sum of K rows in fp32."""
    if problem.mode == Mode.FORWARD:
        return (Tolerance(dtype=problem.dtype, relative_error=0.0, max_error=0.0, row_error=0.0),)
    error = dtypes.epsilon(problem.dtype) + dtypes.epsilon("fp32") * problem["K"] ** 0.5
    return (
        Tolerance(
            dtype=problem.dtype, relative_error=error, max_error=16 * error, row_error=3 * error
        ),
    )


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    x, positions = inputs["x"], inputs["positions"]
    if problem.mode == Mode.FORWARD:
        return lambda: (moe_permute(x, positions),)
    d_rows = inputs["d_rows"]
    return lambda: (moe_permute_backward(d_rows, positions),)


AOT = (
    AotKernel(
        label="moe_permute forward bf16",
        kernel=_forward_kernel,
        signature={
            "x_ptr": "*bf16:16",
            "positions_ptr": "*i32:16",
            "rows_ptr": "*bf16:16",
            "K": "i32",
            "H": "i32:16",
            "BLOCK_H": "constexpr",
        },
        constexprs={"BLOCK_H": BLOCK_H},
        num_warps=NUM_WARPS,
        num_stages=3,
    ),
    AotKernel(
        label="moe_permute backward bf16",
        kernel=_backward_kernel,
        signature={
            "d_rows_ptr": "*bf16:16",
            "positions_ptr": "*i32:16",
            "dx_ptr": "*bf16:16",
            "K": "i32",
            "H": "i32:16",
            "BLOCK_H": "constexpr",
        },
        constexprs={"BLOCK_H": BLOCK_H},
        num_warps=NUM_WARPS,
        num_stages=3,
    ),
)

OP = Op(
    name="moe_permute",
    formula="rows[positions[t,k],H] = x[t,H], T tokens to K of E experts",
    source="Gale et al. 2022, section 5.2, https://arxiv.org/abs/2211.15841",
    axes=("T", "K", "E", "H"),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD, Mode.BACKWARD),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        *eager_impls(_eager, ("x", "positions"), "d_rows"),
        Impl("triton", _prepare_triton, triton_unsupported),
    ),
)
