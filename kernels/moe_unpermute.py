"""Rows of experts back to tokens: y[t,H] = sum over k of weights[t,k] rows[positions[t,k],H].

Shape letters: T tokens, K experts of each, E experts, H hidden size; rows[T*K,H]; weights[T,K] in
fp32 and positions[T,K] int32 are as `moe_route` gives them, each position once. E only decides how
scattered the rows are. Sums are in fp32, in the order of k.
Backward: d_rows[positions[t,k]] = weights[t,k] dy[t], and d_weights[t,k] in fp32, the product of
dy[t] and rows[positions[t,k]].
Counted: forward 2 T K H FLOPs, backward 3 T K H: a multiplication for d_rows and a multiply-add for
d_weights. Bytes: rows, weights and positions read, y written; backward dy as well, d_rows and
d_weights written.
Source: Shazeer et al. 2017, equation 1, https://arxiv.org/abs/1701.06538; Gale et al. 2022,
"MegaBlocks", section 5.2, https://arxiv.org/abs/2211.15841.
"""

from typing import Any

import torch

from kernels import dtypes
from kernels.compiled import eager_impls, reference_from
from kernels.moe_rows import BLOCK_H, NUM_WARPS, check, draw_positions
from kernels.op import Cost, Impl, Inputs, Mode, Op, Problem, Run, Tolerance
from kernels.triton_support import (
    AotKernel,
    cdiv,
    require_contiguous,
    require_dtype,
    tl,
    triton,
    triton_unsupported,
)


@triton.jit
def _forward_kernel(
    rows_ptr, weights_ptr, positions_ptr, y_ptr, K, H, BLOCK_H: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    mask = columns < H
    total = tl.zeros([BLOCK_H], dtype=tl.float32)
    for k in range(K):
        row = tl.load(positions_ptr + token * K + k).to(tl.int64)
        weight = tl.load(weights_ptr + token * K + k)
        total += weight * tl.load(rows_ptr + row * H + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + token * H + columns, total.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _backward_kernel(
    dy_ptr, rows_ptr, weights_ptr, positions_ptr, d_rows_ptr, d_weights_ptr, K, H,
    BLOCK_H: tl.constexpr,
):  # fmt: skip
    # One program a choice, so that the sum over H needs no second kernel; the K programs of a token
    # are neighbours and share dy in the cache.
    choice = tl.program_id(0).to(tl.int64)
    token = choice // K
    row = tl.load(positions_ptr + choice).to(tl.int64)
    weight = tl.load(weights_ptr + choice)
    total = tl.zeros([BLOCK_H], dtype=tl.float32)
    for start in range(0, H, BLOCK_H):
        columns = start + tl.arange(0, BLOCK_H)
        mask = columns < H
        dy = tl.load(dy_ptr + token * H + columns, mask=mask, other=0.0).to(tl.float32)
        y = tl.load(rows_ptr + row * H + columns, mask=mask, other=0.0).to(tl.float32)
        total += dy * y
        d_row = (weight * dy).to(d_rows_ptr.dtype.element_ty)
        tl.store(d_rows_ptr + row * H + columns, d_row, mask=mask)
    tl.store(d_weights_ptr + choice, tl.sum(total, axis=0))


def _check(
    rows: torch.Tensor, weights: torch.Tensor, positions: torch.Tensor, **others: torch.Tensor
) -> None:
    check("moe_unpermute", others, {"rows": rows}, positions)
    require_contiguous("moe_unpermute", weights=weights)
    require_dtype("moe_unpermute", rows.dtype, **others)
    if weights.shape != positions.shape or weights.dtype != torch.float32:
        raise ValueError(
            f"moe_unpermute: weights{list(positions.shape)} of torch.float32 are expected, "
            f"not {list(weights.shape)} of {weights.dtype}."
        )


@torch.library.custom_op("chipscale::moe_unpermute", mutates_args=())
def moe_unpermute(
    rows: torch.Tensor, weights: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """y[T,H] from rows[T*K,H], weights[T,K] fp32 and positions[T,K] int32."""
    _check(rows, weights, positions)
    (T, K), H = positions.shape, rows.shape[1]
    y = rows.new_empty(T, H)
    _forward_kernel[(T, cdiv(H, BLOCK_H))](
        rows, weights, positions, y, K, H, BLOCK_H=BLOCK_H, num_warps=NUM_WARPS
    )
    return y


@moe_unpermute.register_fake
def _(rows: torch.Tensor, weights: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    del weights
    return rows.new_empty(positions.shape[0], rows.shape[1])


@torch.library.custom_op("chipscale::moe_unpermute_backward", mutates_args=())
def moe_unpermute_backward(
    dy: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """d_rows[T*K,H] and d_weights[T,K] fp32 from dy[T,H] and the inputs of the forward pass."""
    _check(rows, weights, positions, dy=dy)
    (T, K), H = positions.shape, rows.shape[1]
    d_rows, d_weights = torch.empty_like(rows), torch.empty_like(weights)
    _backward_kernel[(T * K,)](
        dy, rows, weights, positions, d_rows, d_weights, K, H,
        BLOCK_H=BLOCK_H, num_warps=NUM_WARPS,
    )  # fmt: skip
    return d_rows, d_weights


@moe_unpermute_backward.register_fake
def _(
    dy: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    del dy, positions
    return torch.empty_like(rows), torch.empty_like(weights)


def _save(
    ctx: Any,
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    output: torch.Tensor,
) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    return *moe_unpermute_backward(dy.contiguous(), *ctx.saved_tensors), None


moe_unpermute.register_autograd(_backward, setup_context=_save)


def formula(rows: torch.Tensor, weights: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """y[T,H] from rows[T*K,H], weights[T,K] and positions[T,K], differentiable."""
    # The weights' type is the wider one, fp32, which their gradient needs.
    return (weights[..., None] * rows[positions.long()]).sum(1).to(rows.dtype)


reference = reference_from(formula, ("rows", "weights", "positions"), "dy")


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    T, K, H = problem["T"], problem["K"], problem["H"]
    size = dtypes.size_bytes(problem.dtype)
    few, many = T * H * size, T * K * H * size
    # Weights and positions have 4 bytes each.
    if problem.mode == Mode.FORWARD:
        return Cost(flops=2 * T * K * H, bytes_read=many + 8 * T * K, bytes_written=few)
    return Cost(
        flops=3 * T * K * H, bytes_read=few + many + 8 * T * K, bytes_written=many + 4 * T * K
    )


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """rows[T*K,H] and for the backward mode dy[T,H], standard normal.

    weights[T,K] add up to 1 for each token, and positions[T,K] are of random choices.
    """
    T, K, H = problem["T"], problem["K"], problem["H"]
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device
    scores = torch.randn(T, K, generator=generator, device=device)
    inputs = {
        "rows": torch.randn(T * K, H, generator=generator, device=device, dtype=dtype),
        # By a sum that is not quite that of a softmax, so that one expert alone has no constant.
        "weights": scores.exp() / (scores.exp().sum(-1, keepdim=True) + 0.25),
        "positions": draw_positions(problem, generator),
    }
    if problem.mode == Mode.BACKWARD:
        inputs["dy"] = torch.randn(T, H, generator=generator, device=device, dtype=dtype)
    return inputs


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """One rounding of rows; of the weights' gradient the growth of an fp32 sum over H."""
    growth = dtypes.epsilon("fp32") * problem["H"] ** 0.5

    def within(dtype: str, error: float) -> Tolerance:
        return Tolerance(
            dtype=dtype, relative_error=error, max_error=16 * error, row_error=3 * error
        )

    rows = within(problem.dtype, dtypes.epsilon(problem.dtype) + 4 * dtypes.epsilon("fp32"))
    return (rows,) if problem.mode == Mode.FORWARD else (rows, within("fp32", 2 * growth))


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    rows, weights, positions = inputs["rows"], inputs["weights"], inputs["positions"]
    if problem.mode == Mode.FORWARD:
        return lambda: (moe_unpermute(rows, weights, positions),)
    dy = inputs["dy"]
    return lambda: moe_unpermute_backward(dy, rows, weights, positions)


AOT = (
    AotKernel(
        label="moe_unpermute forward bf16",
        kernel=_forward_kernel,
        signature={
            "rows_ptr": "*bf16:16",
            "weights_ptr": "*fp32:16",
            "positions_ptr": "*i32:16",
            "y_ptr": "*bf16:16",
            "K": "i32",
            "H": "i32:16",
            "BLOCK_H": "constexpr",
        },
        constexprs={"BLOCK_H": BLOCK_H},
        num_warps=NUM_WARPS,
        num_stages=3,
    ),
    AotKernel(
        label="moe_unpermute backward bf16",
        kernel=_backward_kernel,
        signature={
            "dy_ptr": "*bf16:16",
            "rows_ptr": "*bf16:16",
            "weights_ptr": "*fp32:16",
            "positions_ptr": "*i32:16",
            "d_rows_ptr": "*bf16:16",
            "d_weights_ptr": "*fp32:16",
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
    name="moe_unpermute",
    formula="y[T,H] = sum over K of weights[t,k] rows[positions[t,k],H], sorted by E experts",
    source="Shazeer et al. 2017, equation 1, https://arxiv.org/abs/1701.06538",
    axes=("T", "K", "E", "H"),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD, Mode.BACKWARD),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        *eager_impls(formula, ("rows", "weights", "positions"), "dy"),
        Impl("triton", _prepare_triton, triton_unsupported),
    ),
)
