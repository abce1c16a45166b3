"""Embedding: y[T,H] = table[ids[T],H], a row of the table for each token.

Shape letters: T tokens, V vocabulary, H hidden size. table[V,H]; ids[T] are int64 in [0, V). An id
outside gives a row of NaN and adds to no gradient: refusing it would wait for the device.
Backward: d_table[v] = sum of dy[t] over the tokens t with ids[t] = v, in fp32 and in the order of
the tokens; rows of no token are zero. The table's values are not needed. Sorting the ids is part of
the Triton backward pass and of its time.
Counted: forward no FLOPs, backward 1 per element of dy, an add. Bytes: forward T rows of the table
and ids read, y written, a row that repeats being read for each of its tokens; backward dy and ids
read, all V rows of d_table written.
Source: Mikolov et al. 2013, "Efficient Estimation of Word Representations in Vector Space", the
projection layer of section 2.1, https://arxiv.org/abs/1301.3781.
"""

from typing import Any

import torch

from kernels import dtypes
from kernels.compiled import eager_impls, reference_from
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

# 8 elements per thread: one 16-byte access of a row in a 16-bit type.
_BLOCK_H = 1024
_NUM_WARPS = 4


@triton.jit
def _forward_kernel(table_ptr, ids_ptr, y_ptr, V, H, BLOCK_H: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    mask = columns < H
    row = tl.load(ids_ptr + token)
    is_inside = (row >= 0) & (row < V)
    y = tl.load(table_ptr + row * H + columns, mask=mask & is_inside, other=float("nan"))
    tl.store(y_ptr + token * H + columns, y, mask=mask)


@triton.jit
def _backward_kernel(dy_ptr, order_ptr, starts_ptr, d_table_ptr, H, BLOCK_H: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    mask = columns < H
    total = tl.zeros([BLOCK_H], dtype=tl.float32)
    for index in range(tl.load(starts_ptr + row), tl.load(starts_ptr + row + 1)):
        token = tl.load(order_ptr + index)
        total += tl.load(dy_ptr + token * H + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(d_table_ptr + row * H + columns, total.to(d_table_ptr.dtype.element_ty), mask=mask)


def _check(table: torch.Tensor, ids: torch.Tensor, **others: torch.Tensor) -> None:
    require_contiguous("embedding", table=table, ids=ids, **others)
    require_dtype("embedding", table.dtype, **others)
    if ids.dtype != torch.int64:
        raise ValueError(f"embedding: ids are {ids.dtype}, but must be torch.int64.")
    if table.ndim != 2 or ids.ndim != 1:
        raise ValueError(
            "embedding: table[V,H] and ids[T] are expected, "
            f"not {tuple(table.shape)} and {tuple(ids.shape)}."
        )


@torch.library.custom_op("chipscale::embedding", mutates_args=())
def embedding(table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """y[T,H] from table[V,H] and ids[T]."""
    _check(table, ids)
    (T,), (V, H) = ids.shape, table.shape
    y = table.new_empty(T, H)
    _forward_kernel[(T, cdiv(H, _BLOCK_H))](
        table, ids, y, V, H, BLOCK_H=_BLOCK_H, num_warps=_NUM_WARPS
    )
    return y


@embedding.register_fake
def _(table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return table.new_empty(ids.shape[0], table.shape[1])


@torch.library.custom_op("chipscale::embedding_backward", mutates_args=())
def embedding_backward(dy: torch.Tensor, table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """d_table[V,H] from dy[T,H] and ids[T]; of the table only the shape is used."""
    _check(table, ids, dy=dy)
    (T,), (V, H) = ids.shape, table.shape
    if dy.shape != (T, H):
        raise ValueError(f"embedding: dy[{T},{H}] is expected, not {tuple(dy.shape)}.")
    # The tokens of row v are order[starts[v]:starts[v + 1]], one program's own: no atomics.
    sorted_ids, order = torch.sort(ids, stable=True)
    starts = torch.searchsorted(sorted_ids, torch.arange(V + 1, device=ids.device))
    d_table = torch.empty_like(table)
    _backward_kernel[(V, cdiv(H, _BLOCK_H))](
        dy, order, starts, d_table, H, BLOCK_H=_BLOCK_H, num_warps=_NUM_WARPS
    )
    return d_table


@embedding_backward.register_fake
def _(dy: torch.Tensor, table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    del dy, ids
    return torch.empty_like(table)


def _save(
    ctx: Any,
    inputs: tuple[torch.Tensor, torch.Tensor],
    output: torch.Tensor,
) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, None]:
    return embedding_backward(dy.contiguous(), *ctx.saved_tensors), None


embedding.register_autograd(_backward, setup_context=_save)


def _eager(table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.embedding(ids, table)


def _formula(table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return table[ids]


reference = reference_from(_formula, ("table", "ids"), "dy")


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    T, V, H = problem["T"], problem["V"], problem["H"]
    size = dtypes.size_bytes(problem.dtype)
    # Forward the rows of the table, backward those of dy; 8 bytes are an id.
    bytes_read = T * H * size + 8 * T
    if problem.mode == Mode.FORWARD:
        return Cost(flops=0, bytes_read=bytes_read, bytes_written=T * H * size)
    return Cost(flops=T * H, bytes_read=bytes_read, bytes_written=V * H * size)


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """table[V,H] and for the backward mode dy[T,H], standard normal, and uniform ids[T].

    Text repeats its frequent tokens more often than uniform ids do.
    """
    T, V, H = problem["T"], problem["V"], problem["H"]
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device
    inputs = {
        "table": torch.randn(V, H, generator=generator, device=device, dtype=dtype),
        "ids": torch.randint(V, (T,), generator=generator, device=device),
    }
    if problem.mode == Mode.BACKWARD:
        inputs["dy"] = torch.randn(T, H, generator=generator, device=device, dtype=dtype)
    return inputs


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """Forward copies and is exact.

    Backward sums T / V rows on average, which eager code on a CPU rounds to its type after each.
    Where tokens are few, the rows without one make the root mean square small.
    """
    if problem.mode == Mode.FORWARD:
        return (Tolerance(dtype=problem.dtype, relative_error=0.0, max_error=0.0, row_error=0.0),)
    T, V = problem["T"], problem["V"]
    error = dtypes.epsilon(problem.dtype) * max(1.0, T / V) ** 0.5
    return (
        Tolerance(
            dtype=problem.dtype,
            relative_error=2 * error,
            max_error=32 * error * max(1.0, V / T) ** 0.5,
            row_error=3 * error,
        ),
    )


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    table, ids = inputs["table"], inputs["ids"]
    if problem.mode == Mode.FORWARD:
        return lambda: (embedding(table, ids),)
    dy = inputs["dy"]
    return lambda: (embedding_backward(dy, table, ids),)


AOT = (
    AotKernel(
        label="embedding forward bf16",
        kernel=_forward_kernel,
        signature={
            "table_ptr": "*bf16:16",
            "ids_ptr": "*i64:16",
            "y_ptr": "*bf16:16",
            "V": "i32:16",
            "H": "i32:16",
            "BLOCK_H": "constexpr",
        },
        constexprs={"BLOCK_H": _BLOCK_H},
        num_warps=_NUM_WARPS,
        num_stages=3,
    ),
    AotKernel(
        label="embedding backward bf16",
        kernel=_backward_kernel,
        signature={
            "dy_ptr": "*bf16:16",
            "order_ptr": "*i64:16",
            "starts_ptr": "*i64:16",
            "d_table_ptr": "*bf16:16",
            "H": "i32:16",
            "BLOCK_H": "constexpr",
        },
        constexprs={"BLOCK_H": _BLOCK_H},
        num_warps=_NUM_WARPS,
        num_stages=3,
    ),
)

OP = Op(
    name="embedding",
    formula="y[T,H] = table[ids[T],H], table[V,H]",
    source="Mikolov et al. 2013, section 2.1, https://arxiv.org/abs/1301.3781",
    axes=("T", "V", "H"),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD, Mode.BACKWARD),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        *eager_impls(_eager, ("table", "ids"), "dy"),
        Impl("triton", _prepare_triton, triton_unsupported),
    ),
)
