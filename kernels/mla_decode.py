"""Multi-head latent attention of one new query per sequence over a paged latent cache.

Shape letters: B sequences, S cached positions of every sequence, H heads on this chip (128, or 16
of 8 chips), C width of the latent (512), R of the rotated keys (64), P positions of a page.
    out[B,H,C] = softmax((q_latent[B,H,C] @ c[B,S,C]^T + q_rope[B,H,R] @ r[B,S,R]^T)
                         / sqrt(128 + R)) @ c[B,S,C]
This is the absorbed form: q_latent was multiplied by W_UK, out is to be multiplied by W_UV, and all
heads share the latent c and the rotated keys r. Both lie side by side in pages,
cache[num_pages,P,C+R]: position j of sequence b is at [page_table[b, j // P], j % P]. The scale is
that of the head before absorption, whose part without rotation has 128 values in every published
model with this attention; it is a constant. The op takes a length for every sequence; measured are
equal ones, over pages in random order.
Counted: 2 (2 C + R) FLOPs for each of the B H S pairs of query and key; softmax is not counted.
Bytes: q_latent, q_rope, the S positions of the cache, page_table and lengths read, out written.
The torch implementation gathers the pages, which writes and reads the whole cache once more, and
calls scaled_dot_product_attention, as code without a kernel library of its own does.
Source: DeepSeek-V2, https://arxiv.org/abs/2405.04434, section 2.1; DeepSeek-V3,
https://arxiv.org/abs/2412.19437, section 2.1.1.
"""

import torch
from torch.nn.functional import scaled_dot_product_attention

from kernels import dtypes, triton_support, tuning
from kernels.compiled import Preparer, product_impls
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run, Tolerance
from kernels.paged import (
    COMBINE_SPLITS,
    LOG2_E,
    combine_aot,
    combine_kernel,
    gather,
    make_operands,
    padded,
    page_rows,
    require_pages,
    split_keys,
    table_bytes,
    visible,
)
from kernels.triton_support import AotKernel, cdiv, require_contiguous, require_dtype, tl, triton
from kernels.tuning import Config, Tunable, config

# DeepSeek-V2 and V3, Kimi-K2: qk_nope_head_dim.
_NOPE_DIM = 128

# The widest latent and rotated keys whose accumulator and operands fit a multiprocessor.
_MAX_LATENT = 512
_MAX_ROPE = 64


def _tile(num_warps: int, num_stages: int, heads: int, keys: int, split: int) -> Config:
    return config(num_warps, num_stages, BLOCK_H=heads, BLOCK_N=keys, SPLIT=split)


# 32 latents with their rotated keys are 36 KiB of 16-bit numbers. Their addresses are loaded
# themselves, so Triton 3.7.1 halves the stages between the two loads: 5 stages hold two copies of a
# tile, 3 hold one. 16 heads, those of 8 chips, wait for memory: two programs of 91 KiB run on a
# multiprocessor of sm_90. 128 heads are 240 FLOPs for each byte, more than an H200 does meanwhile;
# only 64 rows feed its wgmma, and 64 x 512 sums take 128 registers of 256 threads each.
_CONFIGS = {
    # 255 registers without a spill, 216 KiB; ptxas spills 24 bytes for sm_80.
    "sm_90": (
        _tile(8, 2, 64, 64, 1024), _tile(8, 2, 64, 64, 4096), _tile(8, 5, 64, 32, 1024),
    ),
    "sm_80": (_tile(8, 5, 64, 32, 1024), _tile(8, 5, 64, 32, 4096)),
    # sm_100 keeps 64 rows in tensor memory, where two halves of 256 columns leave no place for the
    # scores: 528 columns of 512.
    "cuda": (
        _tile(8, 5, 16, 32, 512), _tile(8, 5, 16, 32, 1024), _tile(8, 5, 16, 32, 2048),
        _tile(8, 3, 16, 32, 1024), _tile(4, 3, 16, 32, 1024),
    ),
    "cuda_99k": (
        _tile(8, 3, 16, 32, 512), _tile(8, 3, 16, 32, 1024), _tile(8, 3, 16, 16, 1024),
        _tile(4, 3, 16, 16, 1024),
    ),
    # Four wavefronts have 512 registers each: all of a tile passes through them.
    "hip": (
        _tile(4, 1, 16, 32, 512), _tile(4, 1, 16, 32, 1024), _tile(4, 1, 16, 16, 1024),
        _tile(4, 1, 32, 32, 1024),
    ),
}  # fmt: skip

# Of pages of one position ptxas spills 8 bytes of the first of `sm_90`, and for sm_80 of the first
# of `cuda`: the pages of a tile are neighbours then and are loaded together.
_OF_SINGLE_POSITIONS = {"sm_90": _CONFIGS["sm_90"][2], "cuda": _CONFIGS["cuda"][3]}

TUNABLES = (Tunable(kernel="mla_decode", configs=_CONFIGS),)


@triton.jit
def _decode_kernel(
    q_latent_ptr, q_rope_ptr, cache_ptr, page_table_ptr, lengths_ptr, partial_ptr, lse_ptr,
    H, max_pages, scale_log2,
    C: tl.constexpr, R: tl.constexpr, P: tl.constexpr, BLOCK_H: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    # BLOCK_H heads on SPLIT keys of one sequence; the latent in halves of BLOCK_C columns.
    split = tl.program_id(1).to(tl.int64)
    num_splits = tl.num_programs(1)
    sequence = tl.program_id(2).to(tl.int64)
    length = tl.load(lengths_ptr + sequence)
    first = tl.program_id(1) * SPLIT
    last = tl.minimum(first + SPLIT, length)

    heads = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    c = tl.arange(0, BLOCK_C)
    r = tl.arange(0, BLOCK_R)
    mask_h = heads < H
    mask_0 = c < C
    mask_1 = c < C - BLOCK_C
    mask_r = r < R
    row = sequence * H + heads
    page_table_ptr += sequence * max_pages

    q_ptrs = q_latent_ptr + row[:, None] * C + c[None, :]
    q_0 = tl.load(q_ptrs, mask=mask_h[:, None] & mask_0[None, :], other=0.0)
    q_1 = tl.load(q_ptrs + BLOCK_C, mask=mask_h[:, None] & mask_1[None, :], other=0.0)
    q_rope_ptrs = q_rope_ptr + row[:, None] * R + r[None, :]
    q_r = tl.load(q_rope_ptrs, mask=mask_h[:, None] & mask_r[None, :], other=0.0)
    acc_0 = tl.zeros([BLOCK_H, BLOCK_C], dtype=tl.float32)
    acc_1 = tl.zeros([BLOCK_H, BLOCK_C], dtype=tl.float32)
    total = tl.zeros([BLOCK_H], dtype=tl.float32)
    peak = tl.full([BLOCK_H], -float("inf"), dtype=tl.float32)
    for start in range(first, last, BLOCK_N):
        seen = start + tl.arange(0, BLOCK_N) < last
        ptrs = cache_ptr + page_rows(page_table_ptr, start, last, P, BLOCK_N)[:, None] * (C + R)
        k_0 = tl.load(ptrs + c[None, :], mask=seen[:, None] & mask_0[None, :], other=0.0)
        k_1 = tl.load(ptrs + BLOCK_C + c[None, :], mask=seen[:, None] & mask_1[None, :], other=0.0)
        k_r = tl.load(ptrs + C + r[None, :], mask=seen[:, None] & mask_r[None, :], other=0.0)
        scores = tl.dot(q_r, tl.trans(k_r), input_precision="ieee")
        scores = tl.dot(q_0, tl.trans(k_0), scores, input_precision="ieee")
        scores = tl.dot(q_1, tl.trans(k_1), scores, input_precision="ieee")
        scores = tl.where(seen[None, :], scores * scale_log2, -float("inf"))
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        p = tl.exp2(scores - new_peak[:, None])
        correction = tl.exp2(peak - new_peak)
        total = total * correction + tl.sum(p, axis=1)
        p = p.to(k_0.dtype)
        acc_0 = tl.dot(p, k_0, acc_0 * correction[:, None], input_precision="ieee")
        acc_1 = tl.dot(p, k_1, acc_1 * correction[:, None], input_precision="ieee")
        peak = new_peak
    # A split past the length has nothing to say, and the combination does not ask.
    is_used = first < length
    total = tl.where(is_used, total, 1.0)
    mask_h = mask_h & is_used
    out = row * num_splits + split
    partial_ptrs = partial_ptr + out[:, None] * C + c[None, :]
    tl.store(partial_ptrs, acc_0 / total[:, None], mask=mask_h[:, None] & mask_0[None, :])
    tl.store(partial_ptrs + BLOCK_C, acc_1 / total[:, None], mask=mask_h[:, None] & mask_1[None, :])
    tl.store(lse_ptr + out, peak + tl.log2(total), mask=mask_h)


def _first(of_family: str, P: int) -> Config:
    """The tile of 16-bit numbers that is taken before anything was tuned, for any split."""
    first = _CONFIGS[of_family][0]
    return _OF_SINGLE_POSITIONS.get(of_family, first) if P == 1 else first


def _heuristic(B: int, S: int, H: int, P: int, dtype: torch.dtype, device: torch.device) -> Config:
    families = triton_support.families(device)
    is_hip = families[-1] == "hip"
    if dtype == torch.float32:
        # Multiplied without tensor cores, out of registers.
        tile = _tile(4 if is_hip else 8, 1, 16, 16, 0)
    else:
        # Tiles of an architecture are for many heads.
        names = families if H >= 64 else families[-1:]
        tile = next(_first(name, P) for name in names if name in _CONFIGS)
    # More than 114 KiB of shared memory leave no room for a second program.
    at_once = 1 if tile["BLOCK_H"] == 64 else 2
    split = split_keys(B * cdiv(H, tile["BLOCK_H"]), S, device, at_once)
    return _tile(tile.num_warps, tile.num_stages, tile["BLOCK_H"], tile["BLOCK_N"], split)


def scale(R: int) -> float:
    """What scores are multiplied by, with R rotated values in a head."""
    return float((_NOPE_DIM + R) ** -0.5)


@torch.library.custom_op("chipscale::mla_decode", mutates_args=())
def mla_decode(
    q_latent: torch.Tensor,
    q_rope: torch.Tensor,
    cache: torch.Tensor,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
) -> torch.Tensor:
    """out[B,H,C] of q_latent[B,H,C], q_rope[B,H,R], cache[num_pages,P,C+R] and its pages.

    The pages are page_table[B,max_pages] and lengths[B], both int32.
    """
    require_contiguous(
        "mla_decode",
        q_latent=q_latent, q_rope=q_rope, cache=cache, page_table=page_table, lengths=lengths,
    )  # fmt: skip
    require_dtype("mla_decode", q_latent.dtype, q_rope=q_rope, cache=cache)
    if (
        q_latent.ndim != 3
        or q_rope.ndim != 3
        or cache.ndim != 3
        or q_rope.shape[:2] != q_latent.shape[:2]
        or cache.shape[2] != q_latent.shape[2] + q_rope.shape[2]
    ):
        raise ValueError(
            "mla_decode: q_latent[B,H,C], q_rope[B,H,R] and cache[num_pages,P,C+R] are expected, "
            f"not {tuple(q_latent.shape)}, {tuple(q_rope.shape)} and {tuple(cache.shape)}."
        )
    B, H, C = q_latent.shape
    R, P = q_rope.shape[2], cache.shape[1]
    require_pages("mla_decode", B, page_table, lengths, cache)
    max_pages = page_table.shape[1]
    S = max_pages * P
    heuristic = _heuristic(B, S, H, P, q_latent.dtype, q_latent.device)
    chosen = tuning.choose("mla_decode", q_latent.dtype, heuristic, B=B, S=S, H=H, C=C, R=R, P=P)
    num_splits = cdiv(S, chosen["SPLIT"])
    out = torch.empty_like(q_latent)
    partial = q_latent.new_empty(B, H, num_splits, C, dtype=torch.float32)
    lse = q_latent.new_empty(B, H, num_splits, dtype=torch.float32)
    _decode_kernel[(cdiv(H, chosen["BLOCK_H"]), num_splits, B)](
        q_latent, q_rope, cache, page_table, lengths, partial, lse,
        H, max_pages, scale(R) * LOG2_E,
        C=C, R=R, P=P, BLOCK_C=padded(cdiv(C, 2)), BLOCK_R=padded(R), **chosen.launch,
    )  # fmt: skip
    combine_kernel[(B * H,)](
        partial, lse, lengths, out, H, num_splits,
        D=C, BLOCK_D=padded(C), BLOCK_S=COMBINE_SPLITS, SPLIT=chosen["SPLIT"],
        num_warps=4, num_stages=2,
    )  # fmt: skip
    return out


@mla_decode.register_fake
def _(
    q_latent: torch.Tensor,
    q_rope: torch.Tensor,
    cache: torch.Tensor,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
) -> torch.Tensor:
    del q_rope, cache, page_table, lengths
    return torch.empty_like(q_latent)


def _eager(
    q_latent: torch.Tensor,
    q_rope: torch.Tensor,
    cache: torch.Tensor,
    page_table: torch.Tensor,
    mask: torch.Tensor | None,
    num_keys: int,
) -> torch.Tensor:
    C = q_latent.shape[2]
    k = gather(cache, page_table)[:, :num_keys]
    # One key for all heads: they are the rows of one product, and k is not repeated.
    q = torch.cat((q_latent, q_rope), dim=-1)
    # With an axis for heads: without one, PyTorch multiplies 16-bit types in fp32.
    keys = k[:, None]
    out = scaled_dot_product_attention(
        q[:, None],
        keys,
        keys[..., :C],
        attn_mask=None if mask is None else mask[:, None],
        scale=scale(q_rope.shape[2]),
    )
    return out[:, 0]


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """(out,), one sequence at a time."""
    q_latent, q_rope, cache = inputs["q_latent"], inputs["q_rope"], inputs["cache"]
    C = problem["C"]
    out = torch.empty_like(q_latent)
    for b, pages in enumerate(inputs["page_table"]):
        keys = cache[pages].flatten(0, 1)[: int(inputs["lengths"][b])]
        scores = q_latent[b] @ keys[:, :C].T + q_rope[b] @ keys[:, C:].T
        out[b] = torch.softmax(scores * scale(problem["R"]), dim=-1) @ keys[:, :C]
    return (out,)


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    B, S, H, C, R, P = (problem[axis] for axis in OP.axes)
    size = dtypes.size_bytes(problem.dtype)
    return Cost(
        flops=2 * B * H * S * (2 * C + R),
        bytes_read=B * (H + S) * (C + R) * size + table_bytes(B, S, P),
        bytes_written=B * H * C * size,
    )


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Queries and cache, standard normal, with a page table in random order and equal lengths."""
    B, S, H, C, R, P = (problem[axis] for axis in OP.axes)
    return make_operands(
        problem, generator,
        q_latent=(B, H, C), q_rope=(B, H, R), cache=(B * cdiv(S, P), P, C + R),
    )  # fmt: skip


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """Probabilities and outputs are rounded once each; sums over S and C + R grow in fp32."""
    length = problem["S"] + problem["C"] + problem["R"]
    error = dtypes.epsilon(problem.dtype) + dtypes.epsilon("fp32") * length**0.5
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
    operands = (inputs["q_latent"], inputs["q_rope"], inputs["cache"], inputs["page_table"])
    lengths = inputs["lengths"]
    num_keys = int(lengths.max())
    # Without a mask torch may take its fastest kernels.
    is_ragged = bool((lengths != num_keys).any())
    mask = visible(1, num_keys, lengths)[:, 0] if is_ragged else None

    def eager(
        q_latent: torch.Tensor,
        q_rope: torch.Tensor,
        cache: torch.Tensor,
        page_table: torch.Tensor,
    ) -> torch.Tensor:
        return _eager(q_latent, q_rope, cache, page_table, mask, num_keys)

    return prepare(eager, operands)


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    del problem
    names = ("q_latent", "q_rope", "cache", "page_table", "lengths")
    operands = tuple(inputs[name] for name in names)
    return lambda: (mla_decode(*operands),)


def _unsupported(problem: Problem, device: torch.device) -> str | None:
    if problem["C"] > _MAX_LATENT or padded(problem["R"]) > _MAX_ROPE:
        return (
            f"The sums of all heads are held in registers, which ends at C={_MAX_LATENT} and "
            f"R={_MAX_ROPE}; C={problem['C']} R={problem['R']}."
        )
    return triton_support.unsupported(device) or triton_support.bf16_dot_unsupported(problem.dtype)


def _aot(dtype: str, chosen: Config, P: int, of_family: str, tunable: str) -> AotKernel:
    constexpr = ("C", "R", "P", "BLOCK_H", "BLOCK_N", "BLOCK_C", "BLOCK_R", "SPLIT")
    return AotKernel(
        label=f"mla_decode {dtype} P={P} {chosen}",
        kernel=_decode_kernel,
        signature={
            **dict.fromkeys(("q_latent_ptr", "q_rope_ptr", "cache_ptr"), f"*{dtype}:16"),
            "page_table_ptr": "*i32:16", "lengths_ptr": "*i32:16", "partial_ptr": "*fp32:16",
            "lse_ptr": "*fp32:16", "H": "i32:16", "max_pages": "i32:16", "scale_log2": "fp32",
            **dict.fromkeys(constexpr, "constexpr"),
        },
        constexprs={
            "C": 512, "R": 64, "P": P, "BLOCK_C": 256, "BLOCK_R": 64, **dict(chosen.blocks),
        },
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
        tunable=tunable,
        families=(of_family,),
    )  # fmt: skip


AOT = (
    *(
        _aot("bf16", chosen, 64, of_family, "mla_decode")
        for of_family, configs in _CONFIGS.items()
        for chosen in configs
    ),
    *(
        _aot(dtype, _first(of_family, P), P, of_family, "")
        for of_family in _CONFIGS
        for dtype, P in (("bf16", 16), ("bf16", 1), ("fp16", 64))
    ),
    *(
        _aot("fp32", _tile(num_warps, 1, 16, 16, 1024), P, of_family, "")
        for of_family, num_warps in (("cuda", 8), ("cuda_99k", 8), ("hip", 4))
        for P in (64, 1)
    ),
    combine_aot("mla_decode combine bf16 C=512", "bf16", 512, 1024),
)

OP = Op(
    name="mla_decode",
    formula="out[B,H,C] = softmax(q[B,H,C+R] @ cache[B,S,C+R]^T / sqrt(128 + R)) @ cache[B,S,:C], "
    "pages of P",
    source="DeepSeek-V2, section 2.1, https://arxiv.org/abs/2405.04434",
    axes=("B", "S", "H", "C", "R", "P"),
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
