"""Attention of one new query per sequence over a paged cache of keys and values.

Shape letters: B sequences, S cached positions of every sequence, H query heads, G key/value heads
(H is a multiple of G), D head size, P positions of a page.
    out[B,H,D] = softmax(q[B,H,D] @ k[B,G,S,D]^T / sqrt(D)) @ v[B,G,S,D]
k and v lie in pages, k_cache[num_pages,P,G,D] and v_cache alike: position j of sequence b is at
[page_table[b, j // P], j % P]. Head h reads key/value head h // (H / G). The op takes a length for
every sequence; measured are equal ones, over pages in random order.
Counted: 4 D FLOPs for each of the B H S pairs of query and key; softmax is not counted. Bytes: q,
the S positions of k and v, page_table and lengths read, out written.
The torch implementation gathers the pages, which writes and reads the whole cache once more, and
calls scaled_dot_product_attention, as code without a kernel library of its own does.
Source: Kwon et al. 2023, "PagedAttention", https://arxiv.org/abs/2309.06180; grouped heads: Ainslie
et al. 2023, https://arxiv.org/abs/2305.13245; split keys: Dao et al. 2023, "Flash-Decoding",
https://pytorch.org/blog/flash-decoding/.
"""

import math

import torch
from torch.nn.functional import scaled_dot_product_attention

from kernels import dtypes, triton_support, tuning
from kernels.compiled import Preparer, product_impls
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run, Tolerance
from kernels.paged import (
    COMBINE_SPLITS,
    LOG2_E,
    MIN_ROWS,
    combine_aot,
    combine_kernel,
    gather,
    make_operands,
    padded,
    page_rows,
    require_cached,
    split_keys,
    table_bytes,
    visible,
)
from kernels.triton_support import AotKernel, cdiv, tl, triton
from kernels.tuning import Config, Tunable, config

# The widest head whose operands fit a multiprocessor.
_MAX_HEAD = 256

# Query heads of a group that one program takes; models have 1 to 16, a shared latent more. In fp32
# 16, since 64 would spill 2304 bytes of a thread of sm_90.
_MAX_ROWS = 64


def _split(num_warps: int, num_stages: int, keys: int, split: int) -> Config:
    return config(num_warps, num_stages, BLOCK_N=keys, SPLIT=split)


# 64 keys and values of 128 16-bit numbers are 32 KiB. Their addresses are loaded themselves, so
# Triton 3.7.1 halves the stages between the two loads: 5 stages hold two copies of a tile and take
# 71 KiB, 7 hold three. Three programs of 71 KiB run on a multiprocessor of sm_90, two on sm_80.
# 4.8 TB/s for 0.8 microseconds of latency need 29 KiB on their way to each of an H200's 132.
_CONFIGS = {
    "cuda": (
        _split(4, 5, 64, 512), _split(4, 5, 64, 1024), _split(4, 5, 64, 2048),
        _split(4, 7, 64, 1024), _split(4, 7, 32, 1024), _split(8, 5, 128, 1024),
    ),
    # 99 KiB for a block and as much for the multiprocessor: two programs of 38 KiB.
    "cuda_99k": (
        _split(4, 5, 32, 512), _split(4, 5, 32, 1024), _split(4, 5, 32, 2048),
        _split(4, 5, 64, 1024),
    ),
    # One copy of a tile in 64 KiB of LDS, the next in registers.
    "hip": (
        _split(4, 2, 64, 512), _split(4, 2, 64, 1024), _split(4, 2, 32, 1024),
        _split(4, 1, 64, 2048),
    ),
}  # fmt: skip

TUNABLES = (Tunable(kernel="paged_decode", configs=_CONFIGS),)


def _tile(block_d: int, is_fp32: bool, of_family: str) -> tuple[int, int, int]:
    """Keys of a block, warps and stages, before anything was tuned."""
    if is_fp32:
        # Multiplied without tensor cores, out of registers: of wide heads in pages of one position
        # four warps of sm_90 would spill 8 bytes. AMD's have twice as many threads.
        if block_d <= 128:
            return 32, 4, 1
        return 16, (4 if of_family == "hip" else 8), 1
    if of_family == "hip":
        return (32 if block_d > 128 else 64), 4, (1 if block_d > 128 else 2)
    if of_family == "cuda_99k":
        return max(min(4096 // block_d, 64), 16), 4, 5
    return max(min(8192 // block_d, 128), 16), 4, 5


@triton.jit
def _decode_kernel(
    q_ptr, k_ptr, v_ptr, page_table_ptr, lengths_ptr, partial_ptr, lse_ptr,
    heads_per_group, G, max_pages, scale_log2,
    D: tl.constexpr, P: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    # The heads of one group, as rows, on SPLIT keys of one sequence.
    tiles = tl.cdiv(heads_per_group, BLOCK_M)
    group = (tl.program_id(0) // tiles).to(tl.int64)
    split = tl.program_id(1).to(tl.int64)
    num_splits = tl.num_programs(1)
    sequence = tl.program_id(2).to(tl.int64)
    length = tl.load(lengths_ptr + sequence)
    first = tl.program_id(1) * SPLIT
    last = tl.minimum(first + SPLIT, length)

    rows = tl.program_id(0) % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_D)
    mask_d = columns < D
    mask_m = rows < heads_per_group
    mask_q = mask_m[:, None] & mask_d[None, :]
    # Heads divide into groups without a remainder: b H + g H / G is (b G + g) H / G.
    head = (sequence * G + group) * heads_per_group
    page_table_ptr += sequence * max_pages
    k_ptr += group * D
    v_ptr += group * D

    q_ptrs = q_ptr + head * D + rows[:, None] * D + columns[None, :]
    q = tl.load(q_ptrs, mask=mask_q, other=0.0)
    acc = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    peak = tl.full([BLOCK_M], -float("inf"), dtype=tl.float32)
    for start in range(first, last, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        offsets = page_rows(page_table_ptr, start, last, P, BLOCK_N)[:, None] * (G * D)
        mask_k = (keys < last)[:, None] & mask_d[None, :]
        k = tl.load(k_ptr + offsets + columns[None, :], mask=mask_k, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
        scores = tl.where((keys < last)[None, :], scores, -float("inf"))
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        p = tl.exp2(scores - new_peak[:, None])
        correction = tl.exp2(peak - new_peak)
        total = total * correction + tl.sum(p, axis=1)
        v = tl.load(v_ptr + offsets + columns[None, :], mask=mask_k, other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * correction[:, None], input_precision="ieee")
        peak = new_peak
    # A split past the length has nothing to say, and the combination does not ask.
    is_used = first < length
    total = tl.where(is_used, total, 1.0)
    out = (head + rows) * num_splits + split
    tl.store(
        partial_ptr + out[:, None] * D + columns[None, :], acc / total[:, None],
        mask=mask_q & is_used,
    )  # fmt: skip
    tl.store(lse_ptr + out, peak + tl.log2(total), mask=mask_m & is_used)


@torch.library.custom_op("chipscale::paged_decode", mutates_args=())
def paged_decode(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
) -> torch.Tensor:
    """out[B,H,D] from q[B,H,D], caches [num_pages,P,G,D], page_table[B,max_pages], lengths[B]."""
    require_cached("paged_decode", "q[B,H,D]", q, k_cache, v_cache, page_table, lengths)
    B, H, D = q.shape
    _, P, G, _ = k_cache.shape
    max_pages = page_table.shape[1]
    S = max_pages * P
    is_fp32 = q.dtype == torch.float32
    block_m, block_d = min(padded(H // G), MIN_ROWS if is_fp32 else _MAX_ROWS), padded(D)
    tiles = cdiv(H // G, block_m)
    keys, num_warps, num_stages = _tile(block_d, is_fp32, triton_support.families(q.device)[-1])
    heuristic = _split(num_warps, num_stages, keys, split_keys(B * G * tiles, S, q.device))
    chosen = tuning.choose("paged_decode", q.dtype, heuristic, B=B, S=S, H=H, G=G, D=D, P=P)
    num_splits = cdiv(S, chosen["SPLIT"])
    out = torch.empty_like(q)
    partial = q.new_empty(B, H, num_splits, D, dtype=torch.float32)
    lse = q.new_empty(B, H, num_splits, dtype=torch.float32)
    _decode_kernel[(G * tiles, num_splits, B)](
        q, k_cache, v_cache, page_table, lengths, partial, lse,
        H // G, G, max_pages, D**-0.5 * LOG2_E,
        D=D, P=P, BLOCK_M=block_m, BLOCK_D=block_d, **chosen.launch,
    )  # fmt: skip
    combine_kernel[(B * H,)](
        partial, lse, lengths, out, H, num_splits,
        D=D, BLOCK_D=block_d, BLOCK_S=COMBINE_SPLITS, SPLIT=chosen["SPLIT"],
        num_warps=4, num_stages=2,
    )  # fmt: skip
    return out


@paged_decode.register_fake
def _(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
) -> torch.Tensor:
    del k_cache, v_cache, page_table, lengths
    return torch.empty_like(q)


def _eager(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    num_keys: int,
) -> torch.Tensor:
    k = gather(k_cache, page_table)[:, :num_keys].transpose(1, 2)
    v = gather(v_cache, page_table)[:, :num_keys].transpose(1, 2)
    is_grouped = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(q[:, :, None], k, v, enable_gqa=is_grouped)[:, :, 0]


def _eager_masked(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    k = gather(k_cache, page_table).transpose(1, 2)
    v = gather(v_cache, page_table).transpose(1, 2)
    is_grouped = q.shape[1] != k.shape[1]
    out = scaled_dot_product_attention(q[:, :, None], k, v, attn_mask=mask, enable_gqa=is_grouped)
    return out[:, :, 0]


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """(out,), one sequence and group at a time."""
    q, k_cache, v_cache = inputs["q"], inputs["k_cache"], inputs["v_cache"]
    B, H, D = q.shape
    G = problem["G"]
    out = torch.empty_like(q)
    for b in range(B):
        length = int(inputs["lengths"][b])
        pages = inputs["page_table"][b]
        k, v = (cache[pages].flatten(0, 1)[:length] for cache in (k_cache, v_cache))
        for g in range(G):
            heads = slice(g * (H // G), (g + 1) * (H // G))
            probabilities = torch.softmax(q[b, heads] @ k[:, g].T / math.sqrt(D), dim=-1)
            out[b, heads] = probabilities @ v[:, g]
    return (out,)


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    B, S, H, G, D, P = (problem[axis] for axis in OP.axes)
    size = dtypes.size_bytes(problem.dtype)
    return Cost(
        flops=4 * B * H * S * D,
        bytes_read=(B * H * D + 2 * B * S * G * D) * size + table_bytes(B, S, P),
        bytes_written=B * H * D * size,
    )


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Query and caches, standard normal, with a page table in random order and equal lengths."""
    B, S, H, G, D, P = (problem[axis] for axis in OP.axes)
    cache = (B * cdiv(S, P), P, G, D)
    return make_operands(problem, generator, q=(B, H, D), k_cache=cache, v_cache=cache)


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """Probabilities and outputs are rounded once each; sums over S and D grow in fp32."""
    growth = dtypes.epsilon("fp32") * (problem["S"] + problem["D"]) ** 0.5
    error = dtypes.epsilon(problem.dtype) + growth
    return (
        Tolerance(
            dtype=problem.dtype,
            relative_error=2 * error,
            max_error=8 * error,
            row_error=3 * error,
        ),
    )


def _prepare(problem: Problem, inputs: Inputs, prepare: Preparer) -> Run:
    del problem
    operands = (inputs["q"], inputs["k_cache"], inputs["v_cache"], inputs["page_table"])
    lengths = inputs["lengths"]
    num_keys = int(lengths[0])
    # Without a mask torch may take its fastest kernels.
    if bool((lengths == num_keys).all()):
        return prepare(lambda q, k, v, table: _eager(q, k, v, table, num_keys), operands)
    max_keys = inputs["page_table"].shape[1] * inputs["k_cache"].shape[1]
    return prepare(_eager_masked, (*operands, visible(1, max_keys, lengths)))


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    del problem
    names = ("q", "k_cache", "v_cache", "page_table", "lengths")
    operands = tuple(inputs[name] for name in names)
    return lambda: (paged_decode(*operands),)


def _unsupported(problem: Problem, device: torch.device) -> str | None:
    if padded(problem["D"]) > _MAX_HEAD:
        return f"A head is held in registers, which ends at {_MAX_HEAD} values; D={problem['D']}."
    return triton_support.unsupported(device) or triton_support.bf16_dot_unsupported(problem.dtype)


def _aot(
    dtype: str, chosen: Config, D: int, P: int, *families: str, tunable: str, rows: int = 16
) -> AotKernel:
    pointers = ("q_ptr", "k_ptr", "v_ptr")
    constexpr = ("D", "P", "BLOCK_M", "BLOCK_N", "BLOCK_D", "SPLIT")
    return AotKernel(
        label=f"paged_decode {dtype} D={D} P={P} BLOCK_M={rows} {chosen}",
        kernel=_decode_kernel,
        signature={
            **dict.fromkeys(pointers, f"*{dtype}:16"),
            "page_table_ptr": "*i32:16", "lengths_ptr": "*i32:16", "partial_ptr": "*fp32:16",
            "lse_ptr": "*fp32:16", "heads_per_group": "i32", "G": "i32", "max_pages": "i32:16",
            "scale_log2": "fp32", **dict.fromkeys(constexpr, "constexpr"),
        },
        constexprs={
            "D": D, "P": P, "BLOCK_M": rows, "BLOCK_D": padded(D), **dict(chosen.blocks),
        },
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
        tunable=tunable,
        families=families,
    )  # fmt: skip


def _aot_heuristic(dtype: str, D: int, P: int, of_family: str, rows: int = 16) -> AotKernel:
    keys, num_warps, num_stages = _tile(padded(D), dtype == "fp32", of_family)
    chosen = _split(num_warps, num_stages, keys, 1024)
    return _aot(dtype, chosen, D, P, of_family, tunable="", rows=rows)


AOT = (
    *(
        _aot("bf16", chosen, 128, 16, of_family, tunable="paged_decode")
        for of_family, configs in _CONFIGS.items()
        for chosen in configs
    ),
    *(
        _aot_heuristic(dtype, D, P, of_family)
        for of_family in _CONFIGS
        for dtype, D, P in (
            ("bf16", 128, 64), ("bf16", 256, 16), ("fp16", 64, 16), ("fp32", 128, 16),
            ("fp32", 256, 16), ("bf16", 128, 1), ("fp32", 256, 1),
        )
    ),
    *(_aot_heuristic("bf16", 256, 16, of_family, _MAX_ROWS) for of_family in _CONFIGS),
    combine_aot("paged_decode combine bf16 D=128", "bf16", 128, 1024),
)  # fmt: skip

OP = Op(
    name="paged_decode",
    formula="out[B,H,D] = softmax(q[B,H,D] @ k[B,G,S,D]^T / sqrt(D)) @ v[B,G,S,D], pages of P",
    source="Kwon et al. 2023, https://arxiv.org/abs/2309.06180",
    axes=("B", "S", "H", "G", "D", "P"),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD,),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        *product_impls(_prepare),
        Impl("triton", _prepare_triton, _unsupported),
    ),
)
