"""Causal attention of a chunk of new queries per sequence over a paged cache of keys and values.

Shape letters: B sequences, Q new queries of every sequence, S cached positions of every sequence,
H query heads, G key/value heads (H is a multiple of G), D head size, P positions of a page.
    out[B,H,Q,D] = softmax(q[B,H,Q,D] @ k[B,G,S,D]^T / sqrt(D), over visible keys) @ v[B,G,S,D]
k and v lie in pages, k_cache[num_pages,P,G,D] and v_cache alike: position j of sequence b is at
[page_table[b, j // P], j % P]. The keys of the chunk are in the cache already, so that Q <= S:
query i sees keys j <= i + S - Q. Head h reads key/value head h // (H / G). The op takes a length
for every sequence, at least Q; measured are equal ones, over pages in random order.
Counted: 4 D FLOPs for each visible pair of query and key, of which each of the B H heads has
Q S - Q (Q - 1) / 2; softmax is not counted. Bytes: q, the S positions of k and v, page_table and
lengths read, out written.
The torch implementation gathers the pages, which writes and reads the whole cache once more, and
calls scaled_dot_product_attention, as code without a kernel library of its own does.
Source: Kwon et al. 2023, "PagedAttention", https://arxiv.org/abs/2309.06180; chunks: Agrawal et al.
2023, "SARATHI", https://arxiv.org/abs/2308.16369; the kernel follows Dao 2023, "FlashAttention-2",
algorithm 1, https://arxiv.org/abs/2307.08691.
"""

import math

import torch
from torch.nn.functional import scaled_dot_product_attention

from kernels import dtypes, triton_support, tuning
from kernels.compiled import Preparer, product_impls
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run, Tolerance
from kernels.paged import (
    LOG2_E,
    MIN_ROWS,
    gather,
    make_operands,
    padded,
    page_rows,
    require_cached,
    table_bytes,
    visible,
)
from kernels.triton_support import AotKernel, cdiv, tl, triton
from kernels.tuning import Config, Tunable, config

# The widest head whose operands fit a multiprocessor.
_MAX_HEAD = 256


def _tile(num_warps: int, num_stages: int, queries: int, keys: int) -> Config:
    return config(num_warps, num_stages, BLOCK_M=queries, BLOCK_N=keys)


# For heads up to 128; the first of a family is taken before anything was tuned, the last where a
# chunk is a few queries. 64 keys and values of 128 16-bit numbers are 32 KiB. Their addresses are
# loaded themselves, so Triton 3.7.1 halves the stages between the two loads.
_CONFIGS = {
    "cuda": (
        _tile(8, 3, 128, 64), _tile(8, 5, 128, 32), _tile(4, 3, 64, 32), _tile(4, 5, 16, 64),
    ),
    "cuda_99k": (_tile(8, 3, 128, 32), _tile(4, 3, 64, 32), _tile(4, 5, 16, 32)),
    "hip": (_tile(4, 1, 128, 32), _tile(4, 1, 64, 64), _tile(4, 2, 16, 32)),
}  # fmt: skip
# Accumulators of twice the width leave registers for half the rows.
_WIDE = {"cuda": _tile(8, 3, 64, 32), "cuda_99k": _tile(8, 3, 64, 16), "hip": _tile(4, 1, 64, 32)}

TUNABLES = (Tunable(kernel="paged_prefill", configs=_CONFIGS),)


def _heuristic(num_rows: int, block_d: int, is_fp32: bool, of_family: str) -> Config:
    if is_fp32:
        # Multiplied without tensor cores, out of registers. Of wide heads ptxas spills 8 bytes for
        # sm_100 with 16 keys, AMD's compiler 12 to 40 with 32.
        if block_d <= 128:
            return _tile(8, 1, 32, 32)
        return _tile(8, 1, 16, 16 if of_family == "hip" else 32)
    if num_rows <= MIN_ROWS:
        few = _CONFIGS[of_family][-1]
        return few if block_d <= 128 else _tile(4, 3, MIN_ROWS, 16)
    return _CONFIGS[of_family][0] if block_d <= 128 else _WIDE[of_family]


@triton.jit
def _attend(
    q, k_ptr, v_ptr, page_table_ptr, acc, total, peak, positions, first, last, length, stride,
    scale_log2, D: tl.constexpr, P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    # Adds the keys of [first, last) to the running softmax of a block of queries.
    columns = tl.arange(0, BLOCK_D)
    for start in range(first, last, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        offsets = page_rows(page_table_ptr, start, length, P, BLOCK_N)[:, None] * stride
        mask = (keys < length)[:, None] & (columns < D)[None, :]
        k = tl.load(k_ptr + offsets + columns[None, :], mask=mask, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
        if MASKED:
            scores = tl.where(keys[None, :] <= positions[:, None], scores, -float("inf"))
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        p = tl.exp2(scores - new_peak[:, None])
        correction = tl.exp2(peak - new_peak)
        total = total * correction + tl.sum(p, axis=1)
        v = tl.load(v_ptr + offsets + columns[None, :], mask=mask, other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * correction[:, None], input_precision="ieee")
        peak = new_peak
    return acc, total, peak


@triton.jit
def _prefill_kernel(
    q_ptr, k_ptr, v_ptr, page_table_ptr, lengths_ptr, out_ptr,
    num_rows, Q, G, heads_per_group, num_heads, max_pages, scale_log2,
    D: tl.constexpr, P: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    # One block of queries of one head, or if PACKED of all heads of a group.
    sequence = (tl.program_id(0) // num_heads).to(tl.int64)
    group = (tl.program_id(0) % num_heads // heads_per_group).to(tl.int64)
    # The last queries see the most keys; they start first so that the short ones fill the gaps.
    start_m = (tl.num_programs(1) - 1 - tl.program_id(1)) * BLOCK_M
    length = tl.load(lengths_ptr + sequence)
    base = tl.program_id(0).to(tl.int64) * num_rows * D
    q_ptr += base
    out_ptr += base
    k_ptr += group * D
    v_ptr += group * D
    page_table_ptr += sequence * max_pages

    rows = start_m + tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_D)
    mask = (rows < num_rows)[:, None] & (columns < D)[None, :]
    if PACKED:
        positions = rows % Q + (length - Q)
        first_position = length - Q
        end = length
    else:
        positions = rows + (length - Q)
        first_position = start_m + (length - Q)
        end = tl.minimum(first_position + BLOCK_M, length)
    # Up to here every query of the block sees every key, and no mask is needed.
    full = (first_position + 1) // BLOCK_N * BLOCK_N
    offsets = rows[:, None] * D + columns[None, :]
    q = tl.load(q_ptr + offsets, mask=mask, other=0.0)
    acc = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    peak = tl.full([BLOCK_M], -float("inf"), dtype=tl.float32)
    acc, total, peak = _attend(
        q, k_ptr, v_ptr, page_table_ptr, acc, total, peak, positions, 0, full, length, G * D,
        scale_log2, D, P, BLOCK_N, BLOCK_D, False,
    )  # fmt: skip
    acc, total, peak = _attend(
        q, k_ptr, v_ptr, page_table_ptr, acc, total, peak, positions, full, end, length, G * D,
        scale_log2, D, P, BLOCK_N, BLOCK_D, True,
    )  # fmt: skip
    out = (acc / total[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + offsets, out, mask=mask)


@torch.library.custom_op("chipscale::paged_prefill", mutates_args=())
def paged_prefill(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
) -> torch.Tensor:
    """out[B,H,Q,D] of q[B,H,Q,D], caches [num_pages,P,G,D], page_table[B,max_pages], lengths[B]."""
    require_cached("paged_prefill", "q[B,H,Q,D]", q, k_cache, v_cache, page_table, lengths)
    B, H, Q, D = q.shape
    _, P, G, _ = k_cache.shape
    max_pages = page_table.shape[1]
    S = max_pages * P
    if Q > S:
        raise ValueError(
            f"paged_prefill: Q={Q} queries are among the cached positions, of which a page_table "
            f"of {max_pages} pages of {P} holds {S}."
        )
    # A few queries of each head of a group become the rows of one product.
    is_packed = Q < MIN_ROWS
    num_heads, num_rows = (G, H // G * Q) if is_packed else (H, Q)
    block_d = padded(D)
    of_family = triton_support.families(q.device)[-1]
    heuristic = _heuristic(num_rows, block_d, q.dtype == torch.float32, of_family)
    chosen = tuning.choose(
        "paged_prefill", q.dtype, heuristic, B=B, Q=Q, S=S, H=H, G=G, D=D, P=P
    )  # fmt: skip
    out = torch.empty_like(q)
    _prefill_kernel[(B * num_heads, cdiv(num_rows, chosen["BLOCK_M"]))](
        q, k_cache, v_cache, page_table, lengths, out,
        num_rows, Q, G, num_heads // G, num_heads, max_pages, D**-0.5 * LOG2_E,
        D=D, P=P, BLOCK_D=block_d, PACKED=is_packed, **chosen.launch,
    )  # fmt: skip
    return out


@paged_prefill.register_fake
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
    mask: torch.Tensor | None,
    num_keys: int,
) -> torch.Tensor:
    k = gather(k_cache, page_table)[:, :num_keys].transpose(1, 2)
    v = gather(v_cache, page_table)[:, :num_keys].transpose(1, 2)
    is_grouped = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=is_grouped
    )


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """(out,), one head at a time so that only one Q x S matrix is held."""
    q, k_cache, v_cache = inputs["q"], inputs["k_cache"], inputs["v_cache"]
    B, H, Q, D = q.shape
    heads_per_group = H // problem["G"]
    out = torch.empty_like(q)
    for b in range(B):
        length = int(inputs["lengths"][b])
        pages = inputs["page_table"][b]
        k, v = (cache[pages].flatten(0, 1)[:length] for cache in (k_cache, v_cache))
        hidden = ~visible(Q, length, inputs["lengths"][b : b + 1])[0, 0]
        for h in range(H):
            g = h // heads_per_group
            scores = (q[b, h] @ k[:, g].T / math.sqrt(D)).masked_fill(hidden, -math.inf)
            out[b, h] = torch.softmax(scores, dim=-1) @ v[:, g]
    return (out,)


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    B, Q, S, H, G, D, P = (problem[axis] for axis in OP.axes)
    size = dtypes.size_bytes(problem.dtype)
    return Cost(
        flops=4 * D * B * H * (Q * S - Q * (Q - 1) // 2),
        bytes_read=(B * H * Q * D + 2 * B * S * G * D) * size + table_bytes(B, S, P),
        bytes_written=B * H * Q * D * size,
    )


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Queries and caches, standard normal, with a page table in random order and equal lengths."""
    B, Q, S, H, G, D, P = (problem[axis] for axis in OP.axes)
    cache = (B * cdiv(S, P), P, G, D)
    return make_operands(problem, generator, q=(B, H, Q, D), k_cache=cache, v_cache=cache)


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """Probabilities and outputs are rounded once each; sums over S and D grow in fp32.

    The first queries may average few values and are up to sqrt(Q) times larger than the typical.
    """
    growth = dtypes.epsilon("fp32") * (problem["S"] + problem["D"]) ** 0.5
    error = dtypes.epsilon(problem.dtype) + growth
    return (
        Tolerance(
            dtype=problem.dtype,
            relative_error=2 * error,
            max_error=max(8.0, problem["Q"] ** 0.5) * error,
            row_error=3 * error,
        ),
    )


def _prepare(problem: Problem, inputs: Inputs, prepare: Preparer) -> Run:
    operands = (inputs["q"], inputs["k_cache"], inputs["v_cache"], inputs["page_table"])
    lengths = inputs["lengths"]
    Q, num_keys = problem["Q"], int(lengths.max())
    # Without a mask torch may take its fastest kernels.
    is_square = bool((lengths == Q).all())
    mask = None if is_square else visible(Q, num_keys, lengths)

    def eager(
        q: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        page_table: torch.Tensor,
    ) -> torch.Tensor:
        return _eager(q, k_cache, v_cache, page_table, mask, num_keys)

    return prepare(eager, operands)


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    del problem
    names = ("q", "k_cache", "v_cache", "page_table", "lengths")
    operands = tuple(inputs[name] for name in names)
    return lambda: (paged_prefill(*operands),)


def _unsupported(problem: Problem, device: torch.device) -> str | None:
    if padded(problem["D"]) > _MAX_HEAD:
        return f"A head is held in registers, which ends at {_MAX_HEAD} values; D={problem['D']}."
    return triton_support.unsupported(device) or triton_support.bf16_dot_unsupported(problem.dtype)


def _aot(
    dtype: str, chosen: Config, D: int, P: int, of_family: str, tunable: str, *, is_packed: bool
) -> AotKernel:
    pointers = ("q_ptr", "k_ptr", "v_ptr")
    constexpr = ("D", "P", "BLOCK_M", "BLOCK_N", "BLOCK_D", "PACKED")
    packed = " packed" if is_packed else ""
    return AotKernel(
        label=f"paged_prefill{packed} {dtype} D={D} P={P} {chosen}",
        kernel=_prefill_kernel,
        signature={
            **dict.fromkeys(pointers, f"*{dtype}:16"),
            "page_table_ptr": "*i32:16", "lengths_ptr": "*i32:16", "out_ptr": f"*{dtype}:16",
            "num_rows": "i32", "Q": "i32", "G": "i32", "heads_per_group": "i32",
            "num_heads": "i32", "max_pages": "i32:16", "scale_log2": "fp32",
            **dict.fromkeys(constexpr, "constexpr"),
        },
        constexprs={
            "D": D, "P": P, "BLOCK_D": padded(D), "PACKED": is_packed, **dict(chosen.blocks),
        },
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
        tunable=tunable,
        families=(of_family,),
    )  # fmt: skip


AOT = (
    *(
        _aot(
            "bf16", chosen, 128, 16, of_family, "paged_prefill",
            is_packed=chosen["BLOCK_M"] == MIN_ROWS,
        )
        for of_family, configs in _CONFIGS.items()
        for chosen in configs
    ),
    *(
        _aot(
            dtype, _heuristic(num_rows, D, dtype == "fp32", of_family), D, P, of_family, "",
            is_packed=num_rows == MIN_ROWS,
        )
        for of_family in _CONFIGS
        for dtype, num_rows, D, P in (
            ("bf16", 512, 128, 64), ("bf16", 512, 256, 16), ("bf16", MIN_ROWS, 256, 16),
            ("fp16", 512, 64, 16), ("fp32", 512, 128, 16), ("fp32", 512, 256, 16),
            ("bf16", 512, 128, 1), ("fp32", 512, 256, 1),
        )
    ),
)  # fmt: skip

OP = Op(
    name="paged_prefill",
    formula="out[B,H,Q,D] = causal softmax(q[B,H,Q,D] @ k[B,G,S,D]^T / sqrt(D)) @ v[B,G,S,D], "
    "pages of P",
    source="Kwon et al. 2023, https://arxiv.org/abs/2309.06180",
    axes=("B", "Q", "S", "H", "G", "D", "P"),
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
