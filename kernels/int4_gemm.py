"""Product with weights of 4 bits: y[M,N] = x[M,K] @ w[N,K]^T, w = (code - zero) * scale.

Shape letters: M tokens, N output features, K input features, a multiple of 128. The type is that of
x, y and the scales (bf16 or fp16); the weights' codes are int4, 0 to 15, two to a byte:
    w4[N,K/2]        byte j of a group of 128 has weight j in its lower half and j + 64 in its upper
    scale[N,K/128]   one for each 128 neighbours along K
    zero[N,K/128]    the code that stands for 0 there, uint8
Eager torch and torch.compile unpack the weights into a matrix of their own and multiply that. The
kernel unpacks them in registers, so a decode step reads a quarter of the bytes. Nothing is
differentiated: such weights are for serving.
Counted: 2 M N K FLOPs; unpacking is not counted. Bytes: x, w4, scale and zero read, y written.
Source: Lin et al. 2023, "AWQ", section 3.1 and 4, https://arxiv.org/abs/2306.00978; groups of 128
with zero points as in Frantar et al. 2022, "GPTQ", https://arxiv.org/abs/2210.17323.
"""

import torch

from kernels import dtypes, triton_support, tuning
from kernels.compiled import eager_impls, reference_from
from kernels.op import Cost, Impl, Inputs, Mode, Op, Problem, Run, Tolerance
from kernels.tiles import GROUP_ROWS, tile_at
from kernels.triton_support import (
    AotKernel,
    bf16_dot_unsupported,
    cdiv,
    require_contiguous,
    require_dtype,
    tl,
    triton,
)
from kernels.tuning import Config, Tunable, config

GROUP = 128
"""Neighbours along K that share a scale and a zero point."""


def _tile(num_warps: int, num_stages: int, tokens: int, features: int, splits: int) -> Config:
    return config(num_warps, num_stages, BLOCK_M=tokens, BLOCK_N=features, SPLITS=splits)


# A decode step waits for weights: tiles of 64 features are read by as many programs as it takes to
# have two on each multiprocessor, each a part of K. More tokens unpack each weight for more
# products. Weights are the first operand, which tensor cores take from registers, with features as
# its rows: 64 at least for the four warps of wgmma. 128 of them for 128 tokens would spill 16 bytes
# on sm_80 and 80 on sm_120.
_CONFIGS = (
    _tile(4, 5, 16, 64, 1),
    _tile(4, 5, 16, 64, 2),
    _tile(4, 5, 16, 64, 4),
    _tile(4, 5, 16, 64, 8),
    _tile(4, 4, 64, 64, 1),
    _tile(4, 4, 64, 64, 4),
    _tile(8, 3, 128, 64, 1),
)
# AMD: x in LDS for each of two stages must leave room for a second block of 64 KiB.
_CONFIGS_AMD = (
    _tile(4, 2, 16, 64, 1),
    _tile(4, 2, 16, 64, 4),
    _tile(4, 2, 64, 64, 1),
    _tile(4, 2, 64, 64, 4),
    _tile(8, 2, 128, 128, 1),
)

TUNABLES = (
    Tunable(
        kernel="int4_gemm",
        configs={"cuda": _CONFIGS, "cuda_99k": _CONFIGS, "hip": _CONFIGS_AMD},
    ),
)

# Sums of 1024 elements of y by four warps: memory-bound whatever the size.
_SUM_BLOCK = 1024
_SUM_WARPS = 4


def _heuristic(tiles: tuple[Config, ...], M: int, N: int, num_multiprocessors: int) -> Config:
    """The least tile that holds all tokens, in as few parts of K as fill the chip twice."""
    sizes = sorted({tile["BLOCK_M"] for tile in tiles})
    tokens = next((size for size in sizes if size >= M), sizes[-1])
    fitting = sorted(
        (tile for tile in tiles if tile["BLOCK_M"] == tokens), key=lambda tile: tile["SPLITS"]
    )
    for tile in fitting:
        num_tiles = cdiv(M, tokens) * cdiv(N, tile["BLOCK_N"])
        if num_tiles * tile["SPLITS"] >= 2 * num_multiprocessors:
            return tile
    return fitting[-1]


@triton.jit
def _exact_codes(codes, dtype: tl.constexpr):
    # A code put into the lowest bits of 1024 in fp16, or of 128 in bf16, is that number plus the
    # code: one operation instead of a conversion through fp32.
    if dtype == tl.float16:
        number = (codes.to(tl.uint16) | 0x6400).to(tl.float16, bitcast=True)
    else:
        number = (codes.to(tl.uint16) | 0x4300).to(tl.bfloat16, bitcast=True)
    return number


@triton.jit
def _matmul_kernel(
    x_ptr, w_ptr, scale_ptr, zero_ptr, y_ptr, M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    # A tile of y[M,N], transposed, over one of SPLITS parts of K; parts are kept in fp32 as
    # y[SPLITS,M,N], to be added by _sum_kernel.
    HALF: tl.constexpr = 64
    tile_m, tile_n = tile_at(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP_M)
    split = tl.program_id(1)
    num_groups = K // (2 * HALF)
    groups_of_split = tl.cdiv(num_groups, SPLITS)
    first = split * groups_of_split
    last = tl.minimum(first + groups_of_split, num_groups)

    start_m = tile_m.to(tl.int64) * BLOCK_M
    start_n = tile_n.to(tl.int64) * BLOCK_N
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    k = tl.arange(0, HALF)
    mask_m = m < M - start_m
    mask_n = n < N - start_n
    x_ptrs = x_ptr + start_m * K + first * 2 * HALF + (m[None, :] * K + k[:, None])
    w_ptrs = w_ptr + start_n * (K // 2) + first * HALF + (n[:, None] * (K // 2) + k[None, :])
    scale_ptrs = scale_ptr + start_n * num_groups + first + n * num_groups
    zero_ptrs = zero_ptr + start_n * num_groups + first + n * num_groups

    dtype: tl.constexpr = x_ptr.dtype.element_ty
    y = tl.zeros([BLOCK_N, BLOCK_M], dtype=tl.float32)
    for _ in range(first, last):
        codes = tl.load(w_ptrs, mask=mask_n[:, None], other=0)
        scale = tl.load(scale_ptrs, mask=mask_n, other=0.0).to(tl.float32)
        zero = _exact_codes(tl.load(zero_ptrs, mask=mask_n, other=0), dtype)[:, None]
        x_low = tl.load(x_ptrs, mask=mask_m[None, :], other=0.0)
        x_high = tl.load(x_ptrs + HALF, mask=mask_m[None, :], other=0.0)
        # Differences of codes are exact in 16 bits; the scale multiplies the sum of the group.
        part = tl.dot(_exact_codes(codes & 0xF, dtype) - zero, x_low)
        part = tl.dot(_exact_codes(codes >> 4, dtype) - zero, x_high, part)
        y += part * scale[:, None]
        x_ptrs += 2 * HALF
        w_ptrs += HALF
        scale_ptrs += 1
        zero_ptrs += 1

    start = y_ptr + (split.to(tl.int64) * M + start_m) * N + start_n
    y_ptrs = start + (m[None, :] * N + n[:, None])
    tl.store(y_ptrs, y.to(y_ptr.dtype.element_ty), mask=mask_m[None, :] & mask_n[:, None])


@triton.jit
def _sum_kernel(parts_ptr, y_ptr, num_elements, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    # y from its parts, added in the order of K.
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offsets = start + tl.arange(0, BLOCK)
    mask = offsets < num_elements
    y = tl.zeros([BLOCK], dtype=tl.float32)
    for split in tl.static_range(SPLITS):
        y += tl.load(parts_ptr + split * num_elements.to(tl.int64) + offsets, mask=mask, other=0.0)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


def _check(
    x: torch.Tensor, w4: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor
) -> tuple[int, int, int]:
    """M, N and K."""
    if x.ndim != 2 or w4.ndim != 2:
        raise ValueError(
            f"int4_gemm: x and w4 must be matrices, not of shapes {tuple(x.shape)} and "
            f"{tuple(w4.shape)}."
        )
    (M, K), N = x.shape, w4.shape[0]
    if K % GROUP:
        raise ValueError(f"int4_gemm: K must be a multiple of {GROUP}, not {K}.")
    expected = {"w4": (N, K // 2), "scale": (N, K // GROUP), "zero": (N, K // GROUP)}
    for name, tensor in (("w4", w4), ("scale", scale), ("zero", zero)):
        if tuple(tensor.shape) != expected[name]:
            raise ValueError(
                f"int4_gemm: {name} has shape {tuple(tensor.shape)}, but x of shape "
                f"{tuple(x.shape)} and N={N} need {expected[name]}."
            )
    require_contiguous("int4_gemm", x=x, w4=w4, scale=scale, zero=zero)
    if x.dtype == torch.float32:
        raise ValueError("int4_gemm: x is torch.float32, but must be bfloat16 or float16.")
    require_dtype("int4_gemm", x.dtype, scale=scale)
    for name, tensor in (("w4", w4), ("zero", zero)):
        if tensor.dtype != torch.uint8:
            raise ValueError(f"int4_gemm: {name} is {tensor.dtype}, but must be torch.uint8.")
    return M, N, K


@torch.library.custom_op("chipscale::int4_gemm", mutates_args=())
def int4_gemm(
    x: torch.Tensor, w4: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor
) -> torch.Tensor:
    """y[M,N] from x[M,K], packed codes w4[N,K/2], scale[N,K/128] and zero[N,K/128]."""
    M, N, K = _check(x, w4, scale, zero)
    tiles = _CONFIGS_AMD if triton_support.is_amd() else _CONFIGS
    best = _heuristic(tiles, M, N, triton_support.num_multiprocessors(x.device))
    tile = tuning.choose("int4_gemm", x.dtype, best, M=M, N=N, K=K)
    y = x.new_empty(M, N)
    splits = tile["SPLITS"]
    parts = y if splits == 1 else x.new_empty(splits, M, N, dtype=torch.float32)
    grid = (cdiv(M, tile["BLOCK_M"]) * cdiv(N, tile["BLOCK_N"]), splits)
    _matmul_kernel[grid](x, w4, scale, zero, parts, M, N, K, GROUP_M=GROUP_ROWS, **tile.launch)
    if splits > 1:
        _sum_kernel[(cdiv(M * N, _SUM_BLOCK),)](
            parts, y, M * N, SPLITS=splits, BLOCK=_SUM_BLOCK, num_warps=_SUM_WARPS
        )
    return y


@int4_gemm.register_fake
def _(x: torch.Tensor, w4: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    del scale, zero
    return x.new_empty(x.shape[0], w4.shape[0])


def _eager(
    x: torch.Tensor, w4: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor
) -> torch.Tensor:
    N, num_groups = scale.shape
    halves = w4.view(N, num_groups, GROUP // 2)
    codes = torch.cat((halves & 15, halves >> 4), dim=-1).to(scale.dtype)
    w = (codes - zero[..., None].to(scale.dtype)) * scale[..., None]
    return x @ w.view(N, num_groups * GROUP).T


_OPERANDS = ("x", "w4", "scale", "zero")

reference = reference_from(_eager, _OPERANDS)


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    M, N, K = problem["M"], problem["N"], problem["K"]
    size = dtypes.size_bytes(problem.dtype)
    return Cost(
        flops=2 * M * N * K,
        bytes_read=size * M * K + N * K // 2 + (size + 1) * N * (K // GROUP),
        bytes_written=size * M * N,
    )


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """x[M,K] standard normal; standard normal weights as codes of 4 bits, scales and zero points.

    The least and the largest weight of each group have the codes 0 and 15.
    """
    M, N, K = problem["M"], problem["N"], problem["K"]
    if K % GROUP:
        raise ValueError(f"int4_gemm: K must be a multiple of {GROUP}, not {K}.")
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device
    x = torch.randn((M, K), generator=generator, device=device, dtype=dtype)
    w = torch.randn((N, K // GROUP, GROUP), generator=generator, device=device)
    least, largest = w.aminmax(dim=-1, keepdim=True)
    step = (largest - least) / 15
    zero = (-least / step).round()
    codes = (w / step + zero).round().clamp(0, 15).to(torch.uint8)
    low, high = codes.chunk(2, dim=-1)
    return {
        "x": x,
        "w4": (low | (high << 4)).view(N, K // 2),
        "scale": step[..., 0].to(dtype),
        "zero": zero[..., 0].to(torch.uint8),
    }


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """One rounding of y, one of each weight where they are unpacked first, and an fp32 sum.

    Roundings of weights are independent, so of the sum they are half of the rounding of y.
    """
    growth = dtypes.epsilon("fp32") * problem["K"] ** 0.5
    error = 1.5 * dtypes.epsilon(problem.dtype) + growth
    return (
        Tolerance(
            dtype=problem.dtype, relative_error=error, max_error=16 * error, row_error=2 * error
        ),
    )


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    x, w4, scale, zero = (inputs[name] for name in _OPERANDS)
    return lambda: (int4_gemm(x, w4, scale, zero),)


def _unsupported(problem: Problem, device: torch.device) -> str | None:
    return triton_support.unsupported(device) or bf16_dot_unsupported(problem.dtype)


def _aot(dtype: str, tile: Config, *families: str) -> AotKernel:
    constexprs: dict[str, object] = {**dict(tile.blocks), "GROUP_M": GROUP_ROWS}
    result = dtype if tile["SPLITS"] == 1 else "fp32"
    return AotKernel(
        label=f"int4_gemm {dtype} {tile['BLOCK_M']}x{tile['BLOCK_N']} splits {tile['SPLITS']}",
        kernel=_matmul_kernel,
        signature={
            "x_ptr": f"*{dtype}:16",
            "w_ptr": "*u8:16",
            "scale_ptr": f"*{dtype}:16",
            "zero_ptr": "*u8:16",
            "y_ptr": f"*{result}:16",
            **dict.fromkeys("MNK", "i32:16"),
            **dict.fromkeys(constexprs, "constexpr"),
        },
        constexprs=constexprs,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        tunable="int4_gemm",
        families=families,
    )


AOT = (
    *(_aot("bf16", tile, "cuda", "cuda_99k") for tile in _CONFIGS),
    *(_aot("bf16", tile, "hip") for tile in _CONFIGS_AMD),
    _aot("fp16", _CONFIGS[0], "cuda", "cuda_99k"),
    _aot("fp16", _CONFIGS_AMD[0], "hip"),
    AotKernel(
        label="int4_gemm sum",
        kernel=_sum_kernel,
        signature={
            "parts_ptr": "*fp32:16",
            "y_ptr": "*bf16:16",
            "num_elements": "i32:16",
            "SPLITS": "constexpr",
            "BLOCK": "constexpr",
        },
        constexprs={"SPLITS": 8, "BLOCK": _SUM_BLOCK},
        num_warps=_SUM_WARPS,
        num_stages=3,
    ),
)

OP = Op(
    name="int4_gemm",
    formula="y[M,N] = x[M,K] @ w[N,K]^T, w = (code - zero) * scale",
    source="AWQ, https://arxiv.org/abs/2306.00978",
    axes=("M", "N", "K"),
    dtypes=("bf16", "fp16"),
    modes=(Mode.FORWARD,),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        *eager_impls(_eager, _OPERANDS),
        Impl("triton", _prepare_triton, _unsupported),
    ),
    fixed=("scale",),
)
