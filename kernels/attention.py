"""Causal attention with grouped key/value heads.

Shape letters: B batch, Q queries, S keys, H query heads, G key/value heads (H is a multiple of G),
D query/key head size, E value head size.
    out[B,H,Q,E] = softmax(q[B,H,Q,D] @ k[B,G,S,D]^T / sqrt(D), over visible keys) @ v[B,G,S,E]
Head h reads key/value head h // (H / G). Queries are the last Q of S positions: query i sees keys
j <= i + S - Q, so Q = S is training and prefill, Q = 1 a decode step.
Counted: 2 (D + E) FLOPs for each visible pair of query and key, of which each of the B H heads has
Q S - Q (Q - 1) / 2; softmax is not counted. The backward pass counts twice that, for its four
products on the same pairs; a kernel that does not keep the scores computes them again and executes
2.5 times the forward pass. Bytes: q, k, v (and dout) read, out (or dq, dk, dv) written; what an
implementation keeps from its forward pass is its own.
Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; grouped heads: Ainslie et al. 2023,
https://arxiv.org/abs/2305.13245; the kernels follow Dao 2023, "FlashAttention-2", algorithms 1 and
2, https://arxiv.org/abs/2307.08691, with dq in a kernel of its own instead of atomic additions.
"""

import math
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from kernels import dtypes, triton_support
from kernels.compiled import compile_unsupported, prepare_compiled, prepare_eager
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run, Tolerance
from kernels.triton_support import (
    AotKernel,
    cdiv,
    next_power_of_2,
    require_contiguous,
    require_dtype,
    tl,
    triton,
)


class _Tile(NamedTuple):
    """Queries and keys that one program multiplies at a time, and how."""

    queries: int
    keys: int
    num_warps: int
    num_stages: int


class _Tiles(NamedTuple):
    """Tiles of the three large kernels, for heads padded up to a size."""

    forward: _Tile
    dkdv: _Tile
    dq: _Tile


# The widest head whose accumulators (queries x E in fp32) and operands fit a multiprocessor.
_MAX_HEAD = 256

# By padded head size. 16 bits: a program keeps its queries and the fp32 accumulator in registers,
# keys and values pass through shared memory, num_stages of them at once. The tiles of dk and dv are
# the largest that ptxas compiles for sm_90 without spilling (64 x 128 spills 120 bytes a thread).
_TILES_16_BIT = {
    64: _Tiles(_Tile(128, 128, 8, 3), _Tile(64, 128, 8, 2), _Tile(128, 64, 8, 2)),
    128: _Tiles(_Tile(128, 64, 8, 3), _Tile(32, 128, 8, 2), _Tile(128, 64, 8, 2)),
    256: _Tiles(_Tile(64, 64, 8, 2), _Tile(64, 32, 8, 1), _Tile(64, 32, 8, 2)),
}
# AMD has 64 KiB of LDS per workgroup on gfx942, and its pipeline of 2 stages keeps one copy there.
_TILES_16_BIT_AMD = {
    64: _Tiles(_Tile(128, 64, 4, 2), _Tile(32, 128, 4, 1), _Tile(128, 32, 4, 1)),
    128: _Tiles(_Tile(128, 64, 4, 1), _Tile(32, 64, 4, 1), _Tile(64, 32, 4, 1)),
    256: _Tiles(_Tile(64, 32, 4, 1), _Tile(16, 32, 4, 1), _Tile(32, 16, 4, 1)),
}
# fp32 is multiplied without tensor cores on NVIDIA and passes entirely through registers.
_TILES_32_BIT = {
    64: _Tiles(_Tile(32, 32, 4, 1), _Tile(32, 32, 4, 1), _Tile(32, 32, 4, 1)),
    128: _Tiles(_Tile(32, 32, 8, 1), _Tile(16, 32, 8, 1), _Tile(32, 16, 8, 1)),
    256: _Tiles(_Tile(16, 16, 8, 1), _Tile(16, 16, 8, 1), _Tile(16, 16, 8, 1)),
}

# The least number of rows of a tensor-core product.
_MIN_ROWS = 16

# Rows of the pre-pass of the backward mode, which only reads: 64 rows of 128 16-bit values are two
# 16-byte loads for each of 512 threads of a multiprocessor.
_DELTA_ROWS = 64

_LOG2_E = math.log2(math.e)


def _tiles(head_size: int, dtype: torch.dtype, is_amd: bool) -> _Tiles:
    """The tiles for a padded head size."""
    table = _TILES_16_BIT_AMD if is_amd else _TILES_16_BIT
    if dtype == torch.float32:
        table = _TILES_32_BIT
    return next(tiles for largest, tiles in table.items() if head_size <= largest)


def _padded(head_size: int) -> int:
    return max(next_power_of_2(head_size), _MIN_ROWS)


@triton.jit
def _load_rows(ptr, rows, num_rows, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    # Rows of a dense [num_rows, WIDTH] matrix, zeros beyond its edges.
    columns = tl.arange(0, BLOCK)
    mask = (rows < num_rows)[:, None] & (columns < WIDTH)[None, :]
    return tl.load(ptr + rows[:, None] * WIDTH + columns[None, :], mask=mask, other=0.0)


@triton.jit
def _store_rows(ptr, value, rows, num_rows, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    mask = (rows < num_rows)[:, None] & (columns < WIDTH)[None, :]
    ptrs = ptr + rows[:, None] * WIDTH + columns[None, :]
    tl.store(ptrs, value.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def _attend(
    q, k_ptr, v_ptr, acc, total, peak, positions, first, last, S, scale_log2,
    D: tl.constexpr, E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    # Adds the keys of [first, last) to the running softmax of a block of queries.
    for start in range(first, last, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        k = _load_rows(k_ptr, keys, S, D, BLOCK_D)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
        if MASKED:
            scores = tl.where(keys[None, :] <= positions[:, None], scores, -float("inf"))
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        p = tl.exp2(scores - new_peak[:, None])
        correction = tl.exp2(peak - new_peak)
        total = total * correction + tl.sum(p, axis=1)
        v = _load_rows(v_ptr, keys, S, E, BLOCK_E)
        acc = tl.dot(p.to(v.dtype), v, acc * correction[:, None], input_precision="ieee")
        peak = new_peak
    return acc, total, peak


@triton.jit
def _forward_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, num_rows, Q, S, heads, heads_per_group, scale_log2,
    D: tl.constexpr, E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    # A head has num_rows rows of q: its Q queries, or if PACKED those of all heads of its group.
    batch_head = tl.program_id(0)
    # The last queries see the most keys; they start first so that the short ones fill the gaps.
    start_m = (tl.num_programs(1) - 1 - tl.program_id(1)) * BLOCK_M
    group = (batch_head // heads) * (heads // heads_per_group) + (
        batch_head % heads
    ) // heads_per_group
    q_ptr += batch_head.to(tl.int64) * num_rows * D
    out_ptr += batch_head.to(tl.int64) * num_rows * E
    lse_ptr += batch_head.to(tl.int64) * num_rows
    k_ptr += group.to(tl.int64) * S * D
    v_ptr += group.to(tl.int64) * S * E

    rows = start_m + tl.arange(0, BLOCK_M)
    if PACKED:
        positions = rows % Q + (S - Q)
        first_position = S - Q
        end = S
    else:
        positions = rows + (S - Q)
        first_position = start_m + (S - Q)
        end = tl.minimum(first_position + BLOCK_M, S)
    # Up to here every query of the block sees every key, and no mask is needed.
    full = (first_position + 1) // BLOCK_N * BLOCK_N

    q = _load_rows(q_ptr, rows, num_rows, D, BLOCK_D)
    acc = tl.zeros([BLOCK_M, BLOCK_E], dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    peak = tl.full([BLOCK_M], -float("inf"), dtype=tl.float32)
    acc, total, peak = _attend(
        q, k_ptr, v_ptr, acc, total, peak, positions, 0, full, S, scale_log2,
        D, E, BLOCK_N, BLOCK_D, BLOCK_E, False,
    )  # fmt: skip
    acc, total, peak = _attend(
        q, k_ptr, v_ptr, acc, total, peak, positions, full, end, S, scale_log2,
        D, E, BLOCK_N, BLOCK_D, BLOCK_E, True,
    )  # fmt: skip
    _store_rows(out_ptr, acc / total[:, None], rows, num_rows, E, BLOCK_E)
    # Natural logarithm: ln(x) = log2(x) / log2(e).
    lse = (peak + tl.log2(total)) * 0.6931471805599453
    tl.store(lse_ptr + rows, lse, mask=rows < num_rows)


@triton.jit
def _delta_kernel(
    dout_ptr, out_ptr, delta_ptr, num_rows, E: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_E: tl.constexpr,
):  # fmt: skip
    # delta = sum over E of dout * out, for every row of every head at once.
    start = tl.program_id(0).to(tl.int64) * BLOCK_M
    rows = tl.arange(0, BLOCK_M)
    remaining = num_rows - start
    dout = _load_rows(dout_ptr + start * E, rows, remaining, E, BLOCK_E).to(tl.float32)
    out = _load_rows(out_ptr + start * E, rows, remaining, E, BLOCK_E).to(tl.float32)
    tl.store(delta_ptr + start + rows, tl.sum(dout * out, axis=1), mask=rows < remaining)


@triton.jit
def _add_dkdv(
    dk, dv, k, v, q_ptr, dout_ptr, lse_ptr, delta_ptr, keys, first, last, Q, offset, scale_log2,
    D: tl.constexpr, E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    # Adds what the queries of [first, last) of one head give to a block of keys; [key, query].
    for start in range(first, last, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        q = _load_rows(q_ptr, rows, Q, D, BLOCK_D)
        dout = _load_rows(dout_ptr, rows, Q, E, BLOCK_E)
        # Past the last query lse is infinite, so its probabilities are zero.
        lse = tl.load(lse_ptr + rows, mask=rows < Q, other=float("inf")) * 1.4426950408889634
        delta = tl.load(delta_ptr + rows, mask=rows < Q, other=0.0)
        scores = tl.dot(k, tl.trans(q), input_precision="ieee") * scale_log2
        if MASKED:
            scores = tl.where(keys[:, None] <= (rows + offset)[None, :], scores, -float("inf"))
        p = tl.exp2(scores - lse[None, :])
        dv = tl.dot(p.to(dout.dtype), dout, dv, input_precision="ieee")
        dp = tl.dot(v, tl.trans(dout), input_precision="ieee")
        ds = p * (dp - delta[None, :])
        dk = tl.dot(ds.to(q.dtype), q, dk, input_precision="ieee")
    return dk, dv


@triton.jit
def _dkdv_kernel(
    q_ptr, k_ptr, v_ptr, dout_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, Q, S, heads_per_group,
    scale, scale_log2,
    D: tl.constexpr, E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    # One block of keys of one key/value head, summed over the query heads of its group.
    group = tl.program_id(0).to(tl.int64)
    start_n = tl.program_id(1) * BLOCK_N
    keys = start_n + tl.arange(0, BLOCK_N)
    k = _load_rows(k_ptr + group * S * D, keys, S, D, BLOCK_D)
    v = _load_rows(v_ptr + group * S * E, keys, S, E, BLOCK_E)
    dk = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_E], dtype=tl.float32)

    # Query i sees key j if i >= j - offset. Blocks of queries before `first` see none of these
    # keys and are skipped; from `full` on every query sees all of them.
    offset = S - Q
    first = tl.maximum(start_n - offset, 0) // BLOCK_M * BLOCK_M
    full = tl.cdiv(tl.maximum(start_n + BLOCK_N - 1 - offset, 0), BLOCK_M) * BLOCK_M
    full = tl.minimum(full, tl.cdiv(Q, BLOCK_M) * BLOCK_M)
    for head in range(heads_per_group):
        row = (group * heads_per_group + head) * Q
        dk, dv = _add_dkdv(
            dk, dv, k, v, q_ptr + row * D, dout_ptr + row * E, lse_ptr + row, delta_ptr + row,
            keys, first, full, Q, offset, scale_log2, D, E, BLOCK_M, BLOCK_D, BLOCK_E, True,
        )  # fmt: skip
        dk, dv = _add_dkdv(
            dk, dv, k, v, q_ptr + row * D, dout_ptr + row * E, lse_ptr + row, delta_ptr + row,
            keys, full, Q, Q, offset, scale_log2, D, E, BLOCK_M, BLOCK_D, BLOCK_E, False,
        )  # fmt: skip
    _store_rows(dk_ptr + group * S * D, dk * scale, keys, S, D, BLOCK_D)
    _store_rows(dv_ptr + group * S * E, dv, keys, S, E, BLOCK_E)


@triton.jit
def _add_dq(
    dq, q, dout, lse, delta, k_ptr, v_ptr, positions, first, last, S, scale_log2,
    D: tl.constexpr, E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    # Adds what the keys of [first, last) give to a block of queries; [query, key].
    for start in range(first, last, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        k = _load_rows(k_ptr, keys, S, D, BLOCK_D)
        v = _load_rows(v_ptr, keys, S, E, BLOCK_E)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
        if MASKED:
            scores = tl.where(keys[None, :] <= positions[:, None], scores, -float("inf"))
        p = tl.exp2(scores - lse[:, None])
        dp = tl.dot(dout, tl.trans(v), input_precision="ieee")
        ds = p * (dp - delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
    return dq


@triton.jit
def _dq_kernel(
    q_ptr, k_ptr, v_ptr, dout_ptr, lse_ptr, delta_ptr, dq_ptr, Q, S, heads_per_group,
    scale, scale_log2,
    D: tl.constexpr, E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    # Heads divide into groups without a remainder, so b H + h over H / G is b G + g.
    batch_head = tl.program_id(0).to(tl.int64)
    group = batch_head // heads_per_group
    start_m = (tl.num_programs(1) - 1 - tl.program_id(1)) * BLOCK_M
    rows = start_m + tl.arange(0, BLOCK_M)
    row = batch_head * Q
    q = _load_rows(q_ptr + row * D, rows, Q, D, BLOCK_D)
    dout = _load_rows(dout_ptr + row * E, rows, Q, E, BLOCK_E)
    lse = tl.load(lse_ptr + row + rows, mask=rows < Q, other=float("inf")) * 1.4426950408889634
    delta = tl.load(delta_ptr + row + rows, mask=rows < Q, other=0.0)

    k_ptr += group * S * D
    v_ptr += group * S * E
    first_position = start_m + (S - Q)
    positions = rows + (S - Q)
    full = (first_position + 1) // BLOCK_N * BLOCK_N
    end = tl.minimum(first_position + BLOCK_M, S)
    dq = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    dq = _add_dq(
        dq, q, dout, lse, delta, k_ptr, v_ptr, positions, 0, full, S, scale_log2,
        D, E, BLOCK_N, BLOCK_D, BLOCK_E, False,
    )  # fmt: skip
    dq = _add_dq(
        dq, q, dout, lse, delta, k_ptr, v_ptr, positions, full, end, S, scale_log2,
        D, E, BLOCK_N, BLOCK_D, BLOCK_E, True,
    )  # fmt: skip
    _store_rows(dq_ptr + row * D, dq * scale, rows, Q, D, BLOCK_D)


def _check(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **others: torch.Tensor
) -> tuple[int, int, int, int, int, int, int]:
    """The sizes (B, Q, S, H, G, D, E) of operands that fit together."""
    require_contiguous("attention", q=q, k=k, v=v, **others)
    require_dtype("attention", q.dtype, k=k, v=v)
    B, H, Q, D = q.shape
    _, G, S, E = v.shape
    if k.shape != (B, G, S, D) or v.shape[0] != B or H % G or Q > S:
        raise ValueError(
            "attention: q[B,H,Q,D], k[B,G,S,D] and v[B,G,S,E] with H a multiple of G and Q <= S "
            f"are expected, not {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}."
        )
    return B, Q, S, H, G, D, E


@torch.library.custom_op("chipscale::attention", mutates_args=())
def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out[B,H,Q,E], lse[B,H,Q] in fp32); only out has a gradient."""
    B, Q, S, H, G, D, E = _check(q, k, v)
    out = q.new_empty(B, H, Q, E)
    lse = q.new_empty(B, H, Q, dtype=torch.float32)
    block_d, block_e = _padded(D), _padded(E)
    tile = _tiles(max(block_d, block_e), q.dtype, triton_support.is_amd()).forward
    # A decode step has one query per head. Those of a group read the same keys, so they become
    # the rows of one product instead of one row each of as many.
    is_packed = Q < _MIN_ROWS
    heads, num_rows = (G, H // G * Q) if is_packed else (H, Q)
    block_m = min(tile.queries, _padded(num_rows))
    _forward_kernel[(B * heads, cdiv(num_rows, block_m))](
        q, k, v, out, lse, num_rows, Q, S, heads, heads // G, D**-0.5 * _LOG2_E,
        D=D, E=E, BLOCK_M=block_m, BLOCK_N=tile.keys, BLOCK_D=block_d, BLOCK_E=block_e,
        PACKED=is_packed, num_warps=tile.num_warps if block_m == tile.queries else 4,
        num_stages=tile.num_stages,
    )  # fmt: skip
    return out, lse


@attention.register_fake
def _(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    del k
    B, H, Q, _ = q.shape
    return q.new_empty(B, H, Q, v.shape[3]), q.new_empty(B, H, Q, dtype=torch.float32)


@torch.library.custom_op("chipscale::attention_backward", mutates_args=())
def attention_backward(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dq, dk, dv) from dout, the operands, and out and lse of the forward pass."""
    B, Q, S, H, G, D, E = _check(q, k, v, dout=dout, out=out, lse=lse)
    require_dtype("attention", q.dtype, dout=dout, out=out)
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    delta = torch.empty_like(lse)
    block_d, block_e = _padded(D), _padded(E)
    tiles = _tiles(max(block_d, block_e), q.dtype, triton_support.is_amd())
    scale = D**-0.5
    num_rows = B * H * Q
    _delta_kernel[(cdiv(num_rows, _DELTA_ROWS),)](
        dout, out, delta, num_rows, E=E, BLOCK_M=_DELTA_ROWS, BLOCK_E=block_e, num_warps=4
    )
    tile = tiles.dkdv
    _dkdv_kernel[(B * G, cdiv(S, tile.keys))](
        q, k, v, dout, lse, delta, dk, dv, Q, S, H // G, scale, scale * _LOG2_E,
        D=D, E=E, BLOCK_M=tile.queries, BLOCK_N=tile.keys, BLOCK_D=block_d, BLOCK_E=block_e,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    tile = tiles.dq
    _dq_kernel[(B * H, cdiv(Q, tile.queries))](
        q, k, v, dout, lse, delta, dq, Q, S, H // G, scale, scale * _LOG2_E,
        D=D, E=E, BLOCK_M=tile.queries, BLOCK_N=tile.keys, BLOCK_D=block_d, BLOCK_E=block_e,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return dq, dk, dv


@attention_backward.register_fake
def _(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    del dout, out, lse
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _save(
    ctx: Any,
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    output: tuple[torch.Tensor, torch.Tensor],
) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs, *output)


def _backward(
    ctx: Any, dout: torch.Tensor, dlse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    del dlse
    dq, dk, dv = attention_backward(dout.contiguous(), *ctx.saved_tensors)
    return dq, dk, dv


attention.register_autograd(_backward, setup_context=_save)


def _eager_causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    is_grouped = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=is_grouped)


def _eager_decode(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    is_grouped = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(q, k, v, enable_gqa=is_grouped)


def _eager_masked(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    is_grouped = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=is_grouped)


def _visible(Q: int, S: int, device: torch.device) -> torch.Tensor:
    """Whether query i sees key j, as [Q,S]."""
    return torch.ones(Q, S, dtype=torch.bool, device=device).tril(S - Q)


def _head_formula(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    scores = (q @ k.T / math.sqrt(q.shape[-1])).masked_fill(~mask, -math.inf)
    return torch.softmax(scores, dim=-1) @ v


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """(out,) or (dq, dk, dv), one head at a time so that only one Q x S matrix is held."""
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    mask = _visible(problem["Q"], problem["S"], q.device)
    heads_per_group = problem["H"] // problem["G"]
    heads = [(b, h) for b in range(problem["B"]) for h in range(problem["H"])]
    if problem.mode == Mode.FORWARD:
        out = q.new_empty(*q.shape[:3], v.shape[3])
        for b, h in heads:
            g = h // heads_per_group
            out[b, h] = _head_formula(q[b, h], k[b, g], v[b, g], mask)
        return (out,)
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for b, h in heads:
        g = h // heads_per_group
        run = prepare_eager(_head_formula, (q[b, h], k[b, g], v[b, g], mask), inputs["dout"][b, h])
        dq[b, h], dk_head, dv_head = run()
        dk[b, g] += dk_head
        dv[b, g] += dv_head
    return dq, dk, dv


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    B, Q, S, H, G, D, E = (problem[axis] for axis in OP.axes)
    size = dtypes.size_bytes(problem.dtype)
    num_pairs = B * H * (Q * S - Q * (Q - 1) // 2)
    flops = 2 * (D + E) * num_pairs
    operands_bytes = B * (H * Q * D + G * S * (D + E)) * size
    out_bytes = B * H * Q * E * size
    if problem.mode == Mode.FORWARD:
        return Cost(flops=flops, bytes_read=operands_bytes, bytes_written=out_bytes)
    return Cost(
        flops=2 * flops, bytes_read=operands_bytes + out_bytes, bytes_written=operands_bytes
    )


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """q, k and v, and for the backward mode dout; standard normal."""
    B, Q, S, H, G, D, E = (problem[axis] for axis in OP.axes)
    shapes = {"q": (B, H, Q, D), "k": (B, G, S, D), "v": (B, G, S, E)}
    if problem.mode == Mode.BACKWARD:
        shapes["dout"] = (B, H, Q, E)
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device
    return {
        name: torch.randn(shape, generator=generator, device=device, dtype=dtype)
        for name, shape in shapes.items()
    }


def tolerance(problem: Problem) -> Tolerance:
    """Probabilities, their gradients and each output are rounded; sums over S or D grow in fp32.

    The first queries average few values and are sqrt(S) times larger than the typical output.
    """
    epsilon = dtypes.epsilon(problem.dtype)
    growth = dtypes.epsilon("fp32") * (problem["S"] + problem["D"]) ** 0.5
    scale = 1 if problem.mode == Mode.FORWARD else 2
    return Tolerance(
        relative_error=2 * scale * (epsilon + growth),
        max_error=4 * scale * (epsilon + growth) * max(8.0, problem["S"] ** 0.5),
    )


def _prepare(problem: Problem, inputs: Inputs, *, is_compiled: bool) -> Run:
    # A library in the same process may have allowed tf32, and fp32 here means fp32.
    torch.set_float32_matmul_precision("highest")
    prepare = prepare_compiled if is_compiled else prepare_eager
    gradient = inputs["dout"] if problem.mode == Mode.BACKWARD else None
    Q, S = problem["Q"], problem["S"]
    operands = (inputs["q"], inputs["k"], inputs["v"])
    if Q == S:
        return prepare(_eager_causal, operands, gradient)
    if Q == 1:
        return prepare(_eager_decode, operands, gradient)
    mask = _visible(Q, S, operands[0].device)
    return prepare(_eager_masked, (*operands, mask), gradient)


def _prepare_torch(problem: Problem, inputs: Inputs) -> Run:
    return _prepare(problem, inputs, is_compiled=False)


def _prepare_compile(problem: Problem, inputs: Inputs) -> Run:
    return _prepare(problem, inputs, is_compiled=True)


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    if problem.mode == Mode.FORWARD:
        return lambda: (attention(q, k, v)[0],)
    dout = inputs["dout"]
    out, lse = attention(q, k, v)
    return lambda: attention_backward(dout, q, k, v, out, lse)


def _unsupported(problem: Problem, device: torch.device) -> str | None:
    head_size = _padded(max(problem["D"], problem["E"]))
    if head_size > _MAX_HEAD:
        return (
            f"A head is held in registers, which ends at {_MAX_HEAD} values; "
            f"D={problem['D']} E={problem['E']} is padded to {head_size}."
        )
    return triton_support.unsupported(device) or triton_support.bf16_dot_unsupported(problem.dtype)


def _aot(dtype: str, D: int, E: int, *backends: str) -> tuple[AotKernel, ...]:
    torch_dtype = dtypes.torch_dtype(dtype)
    block_d, block_e = _padded(D), _padded(E)
    tiles = _tiles(max(block_d, block_e), torch_dtype, "hip" in backends)
    pointer = f"*{dtype}:16"
    sizes = {"D": D, "E": E, "BLOCK_D": block_d, "BLOCK_E": block_e}
    constexpr = dict.fromkeys(("D", "E", "BLOCK_M", "BLOCK_N", "BLOCK_D", "BLOCK_E"), "constexpr")
    backward = {
        "q_ptr": pointer,
        "k_ptr": pointer,
        "v_ptr": pointer,
        "dout_ptr": pointer,
        "lse_ptr": "*fp32:16",
        "delta_ptr": "*fp32:16",
    }
    scalars = {"Q": "i32:16", "S": "i32:16", "heads_per_group": "i32", "scale": "fp32"}
    scalars["scale_log2"] = "fp32"

    def describe(
        label: str, kernel: object, tile: _Tile, signature: dict[str, str], **more: object
    ) -> AotKernel:
        return AotKernel(
            label=f"attention {label} {dtype} D={D} E={E}",
            kernel=kernel,
            signature={**signature, **constexpr, **dict.fromkeys(more, "constexpr")},
            constexprs={**sizes, "BLOCK_M": tile.queries, "BLOCK_N": tile.keys, **more},
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
            backends=backends,
        )

    forward = {
        "q_ptr": pointer,
        "k_ptr": pointer,
        "v_ptr": pointer,
        "out_ptr": pointer,
        "lse_ptr": "*fp32:16",
        "num_rows": "i32:16",
        "Q": "i32:16",
        "S": "i32:16",
        "heads": "i32",
        "heads_per_group": "i32",
        "scale_log2": "fp32",
    }
    decode = _Tile(_MIN_ROWS, tiles.forward.keys, 4, tiles.forward.num_stages)
    return (
        describe("forward", _forward_kernel, tiles.forward, forward, PACKED=False),
        describe("decode", _forward_kernel, decode, forward, PACKED=True),
        describe(
            "dkdv",
            _dkdv_kernel,
            tiles.dkdv,
            {**backward, "dk_ptr": pointer, "dv_ptr": pointer, **scalars},
        ),
        describe("dq", _dq_kernel, tiles.dq, {**backward, "dq_ptr": pointer, **scalars}),
    )


AOT = (
    AotKernel(
        label="attention delta bf16 E=128",
        kernel=_delta_kernel,
        signature={
            "dout_ptr": "*bf16:16",
            "out_ptr": "*bf16:16",
            "delta_ptr": "*fp32:16",
            "num_rows": "i64:16",
            "E": "constexpr",
            "BLOCK_M": "constexpr",
            "BLOCK_E": "constexpr",
        },
        constexprs={"E": 128, "BLOCK_M": _DELTA_ROWS, "BLOCK_E": 128},
        num_warps=4,
        num_stages=3,
    ),
    *_aot("bf16", 128, 128, "cuda"),
    *_aot("bf16", 128, 128, "hip"),
    *_aot("bf16", 192, 128, "cuda"),
    *_aot("bf16", 192, 128, "hip"),
    *_aot("fp16", 64, 64, "cuda"),
    *_aot("fp16", 64, 64, "hip"),
    *_aot("fp32", 128, 128, "cuda", "hip"),
)

OP = Op(
    name="attention",
    formula="out[B,H,Q,E] = causal softmax(q[B,H,Q,D] @ k[B,G,S,D]^T / sqrt(D)) @ v[B,G,S,E]",
    source="Dao 2023, algorithms 1 and 2, https://arxiv.org/abs/2307.08691",
    axes=("B", "Q", "S", "H", "G", "D", "E"),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD, Mode.BACKWARD),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        Impl("torch", _prepare_torch),
        Impl("compile", _prepare_compile, compile_unsupported),
        Impl("triton", _prepare_triton, _unsupported),
    ),
)
