"""What the ops over a paged cache share: its layout, and keys split among programs.

Letters: B sequences, P positions of a page, max_pages pages a sequence may have. The cache is
[num_pages,P,...]; position j of sequence b is at [page_table[b, j // P], j % P], in whatever order
the pages are. Sequence b has lengths[b] positions, at least 1; what its last page holds beyond them
is undefined and may be NaN.

Source: Kwon et al. 2023, "PagedAttention", https://arxiv.org/abs/2309.06180; split keys: Dao et al.
2023, "Flash-Decoding", https://pytorch.org/blog/flash-decoding/.
"""

import math

import torch

from kernels import dtypes
from kernels.op import Problem
from kernels.triton_support import (
    AotKernel,
    cdiv,
    next_power_of_2,
    num_multiprocessors,
    require_contiguous,
    require_dtype,
    tl,
    triton,
)

LOG2_E = math.log2(math.e)
"""Scores are scaled by this, so that exp2 serves for exp: hardware has that only."""

MIN_ROWS = 16
"""The least number of rows of a tensor-core product."""

COMBINE_SPLITS = 8
"""Splits that the combination reads at a time: of 128 fp32 values each they are 4 KiB, two 16-byte
loads for each of 128 threads."""

_SPLITS = (256, 512, 1024, 2048, 4096, 8192)
# What a program costs beyond its keys, as keys: its start, its queries, a first load that nothing
# hides and its partial result. 2 microseconds, in which an H100 streams 96 keys of 512 bytes to
# each of 264 programs. Estimated, not measured.
_KEYS_OF_A_START = 96


def padded(number: int) -> int:
    """The power of two that heads or values are padded to, at least a tensor core's least size."""
    return max(next_power_of_2(number), MIN_ROWS)


def split_keys(
    num_programs: int, num_keys: int, device: torch.device, programs_at_once: int = 2
) -> int:
    """How many keys one program takes, where without splits there would be `num_programs`.

    All multiprocessors take splits, as many as they run at once, until none is left; the size that
    ends first, of those the larger one.
    """
    slots = num_multiprocessors(device) * programs_at_once

    def time(split: int) -> int:
        waves = cdiv(num_programs * cdiv(num_keys, split), slots)
        return waves * (min(split, num_keys) + _KEYS_OF_A_START)

    return min(reversed(_SPLITS), key=time)


@triton.jit
def page_rows(page_table_ptr, start, last, P: tl.constexpr, BLOCK_N: tl.constexpr):
    """Rows of the cache, each [...], of the keys from start on; start is before last."""
    if P % BLOCK_N == 0:
        # A block begins at a multiple of its size and lies within a page.
        page = tl.load(page_table_ptr + start // P).to(tl.int64)
        rows = page * P + (start % P + tl.arange(0, BLOCK_N))
    else:
        keys = start + tl.arange(0, BLOCK_N)
        pages = tl.load(page_table_ptr + keys // P, mask=keys < last, other=0).to(tl.int64)
        rows = pages * P + keys % P
    return rows


@triton.jit
def combine_kernel(
    partial_ptr, lse_ptr, lengths_ptr, out_ptr, H, num_splits,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """out[B*H,D] from partial[B*H,num_splits,D] and the base-2 lse[B*H,num_splits] of each."""
    row = tl.program_id(0).to(tl.int64)
    # Splits past the length were never written.
    used = tl.cdiv(tl.load(lengths_ptr + row // H), SPLIT)
    columns = tl.arange(0, BLOCK_D)
    lse_ptr += row * num_splits
    partial_ptr += row * num_splits * D
    peak = tl.full([BLOCK_S], -float("inf"), dtype=tl.float32)
    for start in range(0, used, BLOCK_S):
        splits = start + tl.arange(0, BLOCK_S)
        lse = tl.load(lse_ptr + splits, mask=splits < used, other=-float("inf"))
        peak = tl.maximum(peak, lse)
    largest = tl.max(peak, axis=0)
    total = tl.zeros([BLOCK_S], dtype=tl.float32)
    acc = tl.zeros([BLOCK_S, BLOCK_D], dtype=tl.float32)
    for start in range(0, used, BLOCK_S):
        splits = start + tl.arange(0, BLOCK_S)
        lse = tl.load(lse_ptr + splits, mask=splits < used, other=-float("inf"))
        weight = tl.exp2(lse - largest)
        mask = (splits < used)[:, None] & (columns < D)[None, :]
        partial = tl.load(
            partial_ptr + splits[:, None] * D + columns[None, :], mask=mask, other=0.0
        )
        acc += weight[:, None] * partial
        total += weight
    out = tl.sum(acc, axis=0) / tl.sum(total, axis=0)
    tl.store(out_ptr + row * D + columns, out.to(out_ptr.dtype.element_ty), mask=columns < D)


def combine_aot(label: str, dtype: str, D: int, split: int) -> AotKernel:
    """The combination as an op launches it."""
    return AotKernel(
        label=label,
        kernel=combine_kernel,
        signature={
            "partial_ptr": "*fp32:16", "lse_ptr": "*fp32:16", "lengths_ptr": "*i32:16",
            "out_ptr": f"*{dtype}:16", "H": "i32:16", "num_splits": "i32", "D": "constexpr",
            "BLOCK_D": "constexpr", "BLOCK_S": "constexpr", "SPLIT": "constexpr",
        },
        constexprs={
            "D": D, "BLOCK_D": next_power_of_2(D), "BLOCK_S": COMBINE_SPLITS, "SPLIT": split,
        },
        num_warps=4,
        num_stages=2,
        small=("lengths_ptr",),
    )  # fmt: skip


def make_pages(
    B: int, S: int, P: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """(page_table[B,max_pages], lengths[B]) in int32, with no page to spare and in random order."""
    device = generator.device
    max_pages = cdiv(S, P)
    order = torch.randperm(B * max_pages, generator=generator, device=device, dtype=torch.int32)
    return order.view(B, max_pages), torch.full((B,), S, dtype=torch.int32, device=device)


def make_operands(
    problem: Problem, generator: torch.Generator, **shapes: tuple[int, ...]
) -> dict[str, torch.Tensor]:
    """Standard normal tensors of these shapes, with a page table in random order and lengths S."""
    page_table, lengths = make_pages(problem["B"], problem["S"], problem["P"], generator)
    dtype = dtypes.torch_dtype(problem.dtype)
    tensors = {
        name: torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)
        for name, shape in shapes.items()
    }
    return {**tensors, "page_table": page_table, "lengths": lengths}


def gather(pages: torch.Tensor, page_table: torch.Tensor) -> torch.Tensor:
    """[B,max_pages*P,...] in the order of positions from a cache [num_pages,P,...]."""
    return pages[page_table].flatten(1, 2)


def table_bytes(B: int, S: int, P: int) -> int:
    """Bytes of the page table and the lengths."""
    return 4 * B * (cdiv(S, P) + 1)


def visible(Q: int, S: int, lengths: torch.Tensor) -> torch.Tensor:
    """Whether query i of Q sees key j of S, as [B,1,Q,S]; the last query sees lengths[b] keys."""
    keys = torch.arange(S, device=lengths.device)
    positions = lengths[:, None] - Q + torch.arange(Q, device=lengths.device)
    return (keys <= positions[:, :, None])[:, None]


def require_cached(
    op: str,
    shape: str,
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
) -> None:
    """Raises ValueError unless queries of that shape, as `q[B,H,D]`, and caches fit together."""
    require_contiguous(
        op, q=q, k_cache=k_cache, v_cache=v_cache, page_table=page_table, lengths=lengths
    )
    require_dtype(op, q.dtype, k_cache=k_cache, v_cache=v_cache)
    if (
        q.ndim != shape.count(",") + 1
        or k_cache.ndim != 4
        or k_cache.shape != v_cache.shape
        or k_cache.shape[3] != q.shape[-1]
        or q.shape[1] % k_cache.shape[2]
    ):
        raise ValueError(
            f"{op}: {shape} and two caches [num_pages,P,G,D] with H a multiple of G are "
            f"expected, not {tuple(q.shape)}, {tuple(k_cache.shape)} and {tuple(v_cache.shape)}."
        )
    require_pages(op, q.shape[0], page_table, lengths, k_cache)


def require_pages(
    op: str, B: int, page_table: torch.Tensor, lengths: torch.Tensor, cache: torch.Tensor
) -> None:
    """Raises ValueError for a table or lengths that do not fit B sequences and the cache."""
    for name, tensor in (("page_table", page_table), ("lengths", lengths)):
        if tensor.dtype != torch.int32:
            raise ValueError(f"{op}: {name} is {tensor.dtype}, but must be torch.int32.")
    if page_table.ndim != 2 or page_table.shape[0] != B or lengths.shape != (B,):
        raise ValueError(
            f"{op}: page_table[B,max_pages] and lengths[B] with B={B} are expected, not "
            f"{tuple(page_table.shape)} and {tuple(lengths.shape)}."
        )
    if not cache.numel():
        raise ValueError(f"{op}: the cache of shape {tuple(cache.shape)} has no page.")
