"""What the norms share: the backward pass, gradients of weights summed strip by strip, limits.

The backward pass deals the rows to strips. Each strip adds its rows in fp32 in registers and writes
its sum once; a second kernel adds the strips. Both go in a fixed order, so that a gradient comes
out the same in every run, as it would not with atomics.

Up to `MAX_HELD_BYTES` a whole row is held in registers and read once. The operands of a wider one
would spill beside the sums, so it is read chunk by chunk: once for its means and once more, from
a cache, for its gradients. Only the sums stay in registers.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from kernels import dtypes, triton_support
from kernels.op import Problem
from kernels.triton_support import AotKernel, cdiv, next_power_of_2, tl, triton

# The forward pass holds a row in registers. A published model of H = 20480 is MT-NLG 530B,
# https://arxiv.org/abs/2201.11990.
MAX_BLOCK_H = 32768

# The backward pass holds a row and its sums up to here: 8192 values of a 16-bit type, 16 of each
# operand for each of 512 threads, which may have 128 registers. With 32 of each, 192 to 456 bytes
# spilled a thread on sm_90; in fp32 the operands take twice the registers.
MAX_HELD_BYTES = 16384

# What a wider row is read by: one 16-byte access for each of 512 threads.
CHUNK_BYTES = 8192
WIDE_WARPS = 16

# Columns whose sums one program keeps, by whether there are sums of db: 40 or 64 registers of a
# thread; with 56 for dw alone 52 to 68 bytes spilled on gfx942. A row of more goes to as many
# programs as it takes, all of which read it whole for its means.
MAX_COLUMNS = {False: 20480, True: 16384}

# A row of another number of columns than a multiple of this is loaded element by element, and every
# element takes an address and a mask: such a row may have half of each of the above. With all of
# it, 24 to 280 bytes spilled a thread on sm_90.
ALIGNED_COLUMNS = 16

# Rows are dealt to this many programs in the backward pass, each of which keeps its own sum for dw
# and writes it once. Two for each of an H100's 132 SMs; on MI300 (304) most units get one.
NUM_STRIPS = 264

# Columns and strips of the partial sums that one program of the second step reads at a time:
# 128 bytes of fp32 per row, a full cache line.
SUM_BLOCK_H = 32
SUM_BLOCK_P = 64
SUM_WARPS = 4

# The widths of rows in the kernels that are compiled ahead of time: Llama-3.1 8B, 70B and 405B,
# https://arxiv.org/abs/2407.21783, table 3; GPT-3 13B, which is not aligned, and 175B,
# https://arxiv.org/abs/2005.14165, table 2.1; PaLM 540B, https://arxiv.org/abs/2204.02311, table 1.
AOT_WIDTHS = (4096, 5140, 8192, 12288, 16384, 18432)

# The same in fp32: the widest row that is held, and those of as many sums as a program keeps.
AOT_FP32_WIDTHS = (4096, 16384, 20480)


def num_warps(block_h: int, element_bytes: int = 2) -> int:
    """32 bytes per thread, which are loaded in two 16-byte accesses."""
    return min(max(block_h * element_bytes // 1024, 1), 16)


# The variance is that of the centred row, which is in registers: the difference of the mean of the
# squares and the square of the mean loses every digit where the mean is large.
@triton.jit
def held_backward_kernel(
    dy_ptr, dh_ptr, x_ptr, w_ptr, dx_ptr, partial_ptr, T, H, strip_rows, eps,
    IS_CENTRED: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """dx[T,H], and partial[1,P,H] for dw or partial[2,P,H] for dw and db, of P strips."""
    strip = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_H)
    mask = columns < H
    w = tl.load(w_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    dw = tl.zeros([BLOCK_H], dtype=tl.float32)
    db = tl.zeros([BLOCK_H], dtype=tl.float32)
    first = strip * strip_rows
    for row in range(first, tl.minimum(first + strip_rows, T)):
        start = row * H
        x = tl.load(x_ptr + start + columns, mask=mask, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + start + columns, mask=mask, other=0.0).to(tl.float32)
        if IS_CENTRED:
            x = tl.where(mask, x - tl.sum(x, axis=0) / H, 0.0)
        r = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / H + eps)
        n = x * r
        g = dy * w
        dx = g - n * (tl.sum(g * n, axis=0) / H)
        if IS_CENTRED:
            dx -= tl.sum(g, axis=0) / H
            db += dy
        dx *= r
        if dh_ptr is not None:
            dx += tl.load(dh_ptr + start + columns, mask=mask, other=0.0).to(tl.float32)
        tl.store(dx_ptr + start + columns, dx.to(dx_ptr.dtype.element_ty), mask=mask)
        dw += dy * n
    tl.store(partial_ptr + strip * H + columns, dw, mask=mask)
    if IS_CENTRED:
        strip += tl.num_programs(0)
        tl.store(partial_ptr + strip * H + columns, db, mask=mask)


@triton.jit
def row_means(
    dy_ptr, x_ptr, w_ptr, H, eps,
    IS_CENTRED: tl.constexpr, CHUNK_H: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """(mean(x), r, mean(g), mean(g * n)) of a row; the means of x and g are 0 without centring."""
    x_mean = 0.0
    g_mean = 0.0
    if IS_CENTRED:
        x_sums = tl.zeros([CHUNK_H], dtype=tl.float32)
        g_sums = tl.zeros([CHUNK_H], dtype=tl.float32)
        # Two chunks of x and dy are 32 KiB in flight: 900 ns of the 36 bytes per ns that one of the
        # 132 SMs of an H200 can have of 4.8 TB/s.
        for first in tl.range(0, H, CHUNK_H, loop_unroll_factor=UNROLL):
            columns = first + tl.arange(0, CHUNK_H)
            mask = columns < H
            x = tl.load(x_ptr + columns, mask=mask, other=0.0).to(tl.float32)
            dy = tl.load(dy_ptr + columns, mask=mask, other=0.0).to(tl.float32)
            w = tl.load(w_ptr + columns, mask=mask, other=0.0).to(tl.float32)
            x_sums += x
            g_sums += dy * w
        x_mean = tl.sum(x_sums, axis=0) / H
        g_mean = tl.sum(g_sums, axis=0) / H
    squares = tl.zeros([CHUNK_H], dtype=tl.float32)
    products = tl.zeros([CHUNK_H], dtype=tl.float32)
    for first in tl.range(0, H, CHUNK_H, loop_unroll_factor=1 if IS_CENTRED else UNROLL):
        columns = first + tl.arange(0, CHUNK_H)
        mask = columns < H
        x = tl.load(x_ptr + columns, mask=mask, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + columns, mask=mask, other=0.0).to(tl.float32)
        w = tl.load(w_ptr + columns, mask=mask, other=0.0).to(tl.float32)
        if IS_CENTRED:
            x = tl.where(mask, x - x_mean, 0.0)
        squares += x * x
        products += dy * w * x
    r = 1.0 / tl.sqrt(tl.sum(squares, axis=0) / H + eps)
    return x_mean, r, g_mean, tl.sum(products, axis=0) / H * r


@triton.jit
def add_to_one(sums, which, addend, NUM_SUMS: tl.constexpr):
    """The tuple of sums, to one of which something is added."""
    added = ()
    for i in tl.static_range(NUM_SUMS):
        one = sums[i]
        if which == i:
            one += addend
        added += (one,)  # type: ignore[assignment]
    return added


# The loop over chunks stays a loop: unrolled, it would have loads of many chunks in flight, which
# spilled up to 352 bytes a thread on sm_90. So the sums of a chunk are found by comparing.
@triton.jit
def wide_backward_kernel(
    dy_ptr, dh_ptr, x_ptr, w_ptr, dx_ptr, partial_ptr, T, H, strip_rows, eps,
    IS_CENTRED: tl.constexpr, CHUNK_H: tl.constexpr, NUM_CHUNKS: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """As `held_backward_kernel`, for NUM_CHUNKS chunks of each row."""
    strip = tl.program_id(1).to(tl.int64)
    columns_0 = tl.program_id(0) * (NUM_CHUNKS * CHUNK_H) + tl.arange(0, CHUNK_H)
    dw = (tl.zeros([CHUNK_H], dtype=tl.float32),) * NUM_CHUNKS
    db = (tl.zeros([CHUNK_H], dtype=tl.float32),) * NUM_CHUNKS
    first = strip * strip_rows
    for row in range(first, tl.minimum(first + strip_rows, T)):
        start = row * H
        x_mean, r, g_mean, gn_mean = row_means(
            dy_ptr + start, x_ptr + start, w_ptr, H, eps, IS_CENTRED, CHUNK_H, UNROLL
        )
        for chunk in range(NUM_CHUNKS):
            columns = columns_0 + chunk * CHUNK_H
            mask = columns < H
            x = tl.load(x_ptr + start + columns, mask=mask, other=0.0).to(tl.float32)
            dy = tl.load(dy_ptr + start + columns, mask=mask, other=0.0).to(tl.float32)
            w = tl.load(w_ptr + columns, mask=mask, other=0.0).to(tl.float32)
            n = (x - x_mean) * r
            dx = r * (dy * w - g_mean - n * gn_mean)
            if dh_ptr is not None:
                dx += tl.load(dh_ptr + start + columns, mask=mask, other=0.0).to(tl.float32)
            tl.store(dx_ptr + start + columns, dx.to(dx_ptr.dtype.element_ty), mask=mask)
            dw = add_to_one(dw, chunk, dy * n, NUM_CHUNKS)
            if IS_CENTRED:
                db = add_to_one(db, chunk, dy, NUM_CHUNKS)
    for i in tl.static_range(NUM_CHUNKS):
        columns = columns_0 + i * CHUNK_H
        mask = columns < H
        tl.store(partial_ptr + strip * H + columns, dw[i], mask=mask)
        if IS_CENTRED:
            db_start = (strip + tl.num_programs(1)) * H
            tl.store(partial_ptr + db_start + columns, db[i], mask=mask)


@triton.jit
def sum_strips_kernel(partial_ptr, dw_ptr, P, H, BLOCK_P: tl.constexpr, BLOCK_H: tl.constexpr):
    """dw[H] from partial[P,H] in fp32."""
    columns = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    total = tl.zeros([BLOCK_P, BLOCK_H], dtype=tl.float32)
    for first in range(0, P, BLOCK_P):
        strips = first + tl.arange(0, BLOCK_P)
        mask = (strips < P)[:, None] & (columns < H)[None, :]
        offsets = strips[:, None].to(tl.int64) * H + columns[None, :]
        total += tl.load(partial_ptr + offsets, mask=mask, other=0.0)
    dw = tl.sum(total, axis=0)
    tl.store(dw_ptr + columns, dw.to(dw_ptr.dtype.element_ty), mask=columns < H)


class Chunks(NamedTuple):
    """How a row that is too wide to be held is dealt out."""

    width: int
    num_chunks: int
    """Of one program."""
    num_programs: int
    """Of one row."""
    unroll: int
    """Chunks that are loaded at once for the means."""


def chunks_of(H: int, element_bytes: int, *, is_centred: bool) -> Chunks | None:
    """None for a row that is held."""
    share = 1 if H % ALIGNED_COLUMNS == 0 else 2
    if next_power_of_2(H) * element_bytes <= MAX_HELD_BYTES // share:
        return None
    width = CHUNK_BYTES // share // element_bytes
    num_chunks = cdiv(H, width)
    num_programs = cdiv(num_chunks * width, MAX_COLUMNS[is_centred] // share)
    return Chunks(width, cdiv(num_chunks, num_programs), num_programs, 2 // share)


def launch_backward(
    dy: torch.Tensor,
    dh: torch.Tensor | None,
    x: torch.Tensor,
    w: torch.Tensor,
    eps: float,
    *,
    is_centred: bool,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """dx[T,H] and, summed in fp32 in a fixed order, [dw[H]], or [dw[H], db[H]] where centred.

    Args:
        dy: The gradient of what the norm gives, [T,H].
        dh: A gradient of x that comes beside the norm, [T,H], or None.
        x: What is normed, [T,H].
        w: The weights, [H].
        eps: What is added to the mean of the squares.
        is_centred: Whether the mean is subtracted first and a bias added last, as in layer norm.
    """
    T, H = x.shape
    strip_rows = cdiv(T, NUM_STRIPS)
    num_strips = cdiv(T, strip_rows)
    sums = [torch.empty_like(w) for _ in range(2 if is_centred else 1)]
    partials = torch.empty(len(sums), num_strips, H, dtype=torch.float32, device=x.device)
    dx = torch.empty_like(x)
    operands = dy, dh, x, w, dx, partials, T, H, strip_rows, eps
    chunks = chunks_of(H, x.element_size(), is_centred=is_centred)
    if chunks is None:
        block_h = next_power_of_2(H)
        held_backward_kernel[(num_strips,)](
            *operands,
            IS_CENTRED=is_centred, BLOCK_H=block_h,
            num_warps=num_warps(block_h, x.element_size()),
        )  # fmt: skip
    else:
        # The programs of a row side by side, so that all but one find it in the L2 cache.
        wide_backward_kernel[(chunks.num_programs, num_strips)](
            *operands,
            IS_CENTRED=is_centred, CHUNK_H=chunks.width, NUM_CHUNKS=chunks.num_chunks,
            UNROLL=chunks.unroll, num_warps=WIDE_WARPS,
        )  # fmt: skip
    for partial, total in zip(partials, sums, strict=True):
        sum_strips_kernel[(cdiv(H, SUM_BLOCK_H),)](
            partial, total, num_strips, H,
            BLOCK_P=SUM_BLOCK_P, BLOCK_H=SUM_BLOCK_H, num_warps=SUM_WARPS,
        )  # fmt: skip
    return dx, sums


def row_unsupported(problem: Problem, device: torch.device) -> str | None:
    """Why no Triton kernel that holds a row can run the problem, or None if one can."""
    if next_power_of_2(problem["H"]) > MAX_BLOCK_H:
        return f"A row is held in registers, which ends at H={MAX_BLOCK_H}; H={problem['H']}."
    return triton_support.unsupported(device)


def forward_aot(op: str, kernel: Any, pointers: Iterable[str]) -> tuple[AotKernel, ...]:
    """The forward kernel of a norm, which has these pointers, then H and eps, at every width."""
    blocks = sorted({next_power_of_2(width) for width in AOT_WIDTHS})
    return tuple(
        AotKernel(
            label=f"{op} forward bf16 {block_h}",
            kernel=kernel,
            signature={
                **dict.fromkeys(pointers, "*bf16:16"),
                "H": "i32:16",
                "eps": "fp32",
                "BLOCK_H": "constexpr",
            },
            constexprs={"BLOCK_H": block_h},
            num_warps=num_warps(block_h),
            num_stages=3,
        )
        for block_h in blocks
    )


def backward_aot(op: str, *, has_dh: bool, is_centred: bool) -> tuple[AotKernel, ...]:
    """The kernels that `launch_backward` launches for a norm, at every width."""
    return (
        *(_row_aot(op, "bf16", width, has_dh, is_centred) for width in AOT_WIDTHS),
        *(_row_aot(op, "fp32", width, has_dh, is_centred) for width in AOT_FP32_WIDTHS),
        AotKernel(
            label=f"{op} sum of strips bf16",
            kernel=sum_strips_kernel,
            signature={
                "partial_ptr": "*fp32:16",
                "dw_ptr": "*bf16:16",
                "P": "i32",
                "H": "i32:16",
                "BLOCK_P": "constexpr",
                "BLOCK_H": "constexpr",
            },
            constexprs={"BLOCK_P": SUM_BLOCK_P, "BLOCK_H": SUM_BLOCK_H},
            num_warps=SUM_WARPS,
            num_stages=3,
            small=("dw_ptr",),
        ),
    )


def _row_aot(op: str, dtype: str, width: int, has_dh: bool, is_centred: bool) -> AotKernel:
    element_bytes = dtypes.size_bytes(dtype)
    chunks = chunks_of(width, element_bytes, is_centred=is_centred)
    constexprs: dict[str, object] = {"IS_CENTRED": is_centred}
    if chunks is None:
        constexprs["BLOCK_H"] = next_power_of_2(width)
    else:
        constexprs |= {
            "CHUNK_H": chunks.width,
            "NUM_CHUNKS": chunks.num_chunks,
            "UNROLL": chunks.unroll,
        }
    pointer = f"*{dtype}:16"
    signature = {
        "dy_ptr": pointer,
        "dh_ptr": pointer,
        "x_ptr": pointer,
        "w_ptr": pointer,
        "dx_ptr": pointer,
        "partial_ptr": "*fp32:16",
        "T": "i32:16",
        "H": "i32" if width % ALIGNED_COLUMNS else "i32:16",
        "strip_rows": "i32",
        "eps": "fp32",
        **dict.fromkeys(constexprs, "constexpr"),
    }
    if not has_dh:
        signature["dh_ptr"] = "constexpr"
        constexprs["dh_ptr"] = None
    return AotKernel(
        label=f"{op} backward {dtype} {width}",
        kernel=wide_backward_kernel if chunks else held_backward_kernel,
        signature=signature,
        constexprs=constexprs,
        num_warps=WIDE_WARPS if chunks else num_warps(next_power_of_2(width), element_bytes),
        num_stages=3,
        small=("w_ptr",),
    )
