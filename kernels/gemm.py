"""Matrix product of a linear layer, with its two gradients, one problem each.

Shape letters: M tokens, N output features, K input features; weights are stored as w[N,K].
    forward  y[M,N]  = x[M,K]  @ w[N,K]^T
    dgrad    dx[M,K] = dy[M,N] @ w[N,K]
    wgrad    dw[N,K] = dy[M,N]^T @ x[M,K]
Counted: 2 M N K FLOPs in every mode; both operands read, the result written.
Products are summed in fp32. fp32 operands are multiplied in fp32, never in tf32, by every
implementation.
Source: GEMM of level-3 BLAS (Dongarra et al. 1990, https://doi.org/10.1145/77626.79170); the order
of tiles as in the matrix multiplication tutorial of Triton,
https://triton-lang.org/main/getting-started/tutorials/03-matrix-multiplication.html.
"""

from typing import Any, NamedTuple

import torch

from kernels import dtypes, triton_support
from kernels.compiled import compile_unsupported, prepare_compiled, prepare_eager
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run, Tolerance
from kernels.triton_support import AotKernel, cdiv, require_contiguous, require_dtype, tl, triton


class _Tile(NamedTuple):
    """Sizes of the block of the result that one program computes, and how."""

    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int


# Largest first: the first that still gives every multiprocessor a tile is taken, otherwise the
# last that is tall enough. NVIDIA: a stage takes (rows + columns) * depth * 2 bytes of shared
# memory. sm_90 and sm_100 hold all stages there, 144 KiB of their 227 for the first tile; sm_80,
# sm_89 and sm_120 hold one less, at most 96 KiB, as Triton 3.7.1 compiles it. 64 x 16 feeds 16
# rows of one warp group with 4 stages because a decode step waits for memory and not for tensor
# cores.
_TILES_16_BIT = (
    _Tile(128, 256, 64, 8, 3),
    _Tile(128, 128, 64, 4, 4),
    _Tile(64, 128, 64, 4, 4),
    _Tile(64, 64, 64, 4, 4),
    _Tile(16, 64, 128, 4, 4),
)
# AMD: two stages hold one tile in LDS while the next is in registers, so (rows + columns) * depth
# * 2 bytes must fit 64 KiB; 256 threads of 64-wide wavefronts are 4 warps.
_TILES_16_BIT_AMD = (
    _Tile(256, 256, 32, 8, 2),
    _Tile(128, 128, 64, 4, 2),
    _Tile(64, 128, 64, 4, 2),
    _Tile(64, 64, 64, 4, 2),
    _Tile(16, 64, 128, 4, 2),
)
# Without tf32 there is no tensor core for fp32 on NVIDIA: the accumulator and the operands of
# larger tiles would not fit the registers of plain multiply-adds.
_TILES_32_BIT = (
    _Tile(128, 64, 16, 8, 2),
    _Tile(64, 64, 16, 4, 2),
    _Tile(16, 64, 32, 4, 2),
)

# As many tiles as an H100 has multiprocessors (132), roughly; MI300X has 304, B200 148.
_ENOUGH_TILES = 128

# Rows of tiles that run at the same time share the columns they read in L2.
_GROUP_ROWS = 8


def _tile(rows: int, columns: int, dtype: torch.dtype, is_amd: bool) -> _Tile:
    table: tuple[_Tile, ...] = _TILES_16_BIT_AMD if is_amd else _TILES_16_BIT
    if dtype == torch.float32:
        table = _TILES_32_BIT
    skinny = table[-1]
    if rows <= skinny.rows:
        return skinny
    for tile in table[:-1]:
        if cdiv(rows, tile.rows) * cdiv(columns, tile.columns) >= _ENOUGH_TILES:
            return tile
    return table[-2]


@triton.jit
def _matmul_kernel(
    a_ptr, b_ptr, c_ptr, M, N, K, stride_am, stride_ak, stride_bk, stride_bn,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    # c[M,N] = a[M,K] @ b[K,N] with any strides; c is dense.
    program = tl.program_id(0)
    num_rows = tl.cdiv(M, BLOCK_M)
    num_columns = tl.cdiv(N, BLOCK_N)
    group = program // (GROUP_M * num_columns)
    first_row = group * GROUP_M
    rows_in_group = tl.minimum(num_rows - first_row, GROUP_M)
    within = program % (GROUP_M * num_columns)
    tile_m = first_row + within % rows_in_group
    tile_n = within // rows_in_group

    # The start of a tile is a 64-bit offset; inside a tile 32 bits do, and cost fewer registers.
    start_m = tile_m.to(tl.int64) * BLOCK_M
    start_n = tile_n.to(tl.int64) * BLOCK_N
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    mask_m = m < M - start_m
    mask_n = n < N - start_n
    a_ptrs = a_ptr + start_m * stride_am + (m[:, None] * stride_am + k[None, :] * stride_ak)
    b_ptrs = b_ptr + start_n * stride_bn + (k[:, None] * stride_bk + n[None, :] * stride_bn)

    c = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for start_k in range(0, K, BLOCK_K):
        mask_k = k < K - start_k
        a = tl.load(a_ptrs, mask=mask_m[:, None] & mask_k[None, :], other=0.0)
        b = tl.load(b_ptrs, mask=mask_k[:, None] & mask_n[None, :], other=0.0)
        c = tl.dot(a, b, c, input_precision="ieee")
        a_ptrs += BLOCK_K * stride_ak
        b_ptrs += BLOCK_K * stride_bk

    c_ptrs = c_ptr + start_m * N + start_n + (m[:, None] * N + n[None, :])
    tl.store(c_ptrs, c.to(c_ptr.dtype.element_ty), mask=mask_m[:, None] & mask_n[None, :])


def _matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a[M,K] @ b[K,N] for views of contiguous matrices."""
    (M, K), N = a.shape, b.shape[1]
    if b.shape[0] != K:
        raise ValueError(f"gemm: {tuple(a.shape)} @ {tuple(b.shape)} do not multiply.")
    c = a.new_empty(M, N)
    tile = _tile(M, N, a.dtype, triton_support.is_amd())
    _matmul_kernel[(cdiv(M, tile.rows) * cdiv(N, tile.columns),)](
        a, b, c, M, N, K, a.stride(0), a.stride(1), b.stride(0), b.stride(1),
        BLOCK_M=tile.rows, BLOCK_N=tile.columns, BLOCK_K=tile.depth, GROUP_M=_GROUP_ROWS,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return c


def _check(**tensors: torch.Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.ndim != 2:
            raise ValueError(f"gemm: {name} must be a matrix, not of shape {tuple(tensor.shape)}.")
    require_contiguous("gemm", **tensors)
    require_dtype("gemm", next(iter(tensors.values())).dtype, **tensors)


@torch.library.custom_op("chipscale::gemm", mutates_args=())
def gemm(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """y[M,N] from x[M,K] and w[N,K]."""
    _check(x=x, w=w)
    return _matmul(x, w.T)


@gemm.register_fake
def _(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape[0], w.shape[0])


@torch.library.custom_op("chipscale::gemm_dgrad", mutates_args=())
def gemm_dgrad(dy: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """dx[M,K] from dy[M,N] and w[N,K]."""
    _check(dy=dy, w=w)
    return _matmul(dy, w)


@gemm_dgrad.register_fake
def _(dy: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return dy.new_empty(dy.shape[0], w.shape[1])


@torch.library.custom_op("chipscale::gemm_wgrad", mutates_args=())
def gemm_wgrad(dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """dw[N,K] from dy[M,N] and x[M,K]."""
    _check(dy=dy, x=x)
    return _matmul(dy.T, x)


@gemm_wgrad.register_fake
def _(dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return dy.new_empty(dy.shape[1], x.shape[1])


def _save(
    ctx: Any,
    inputs: tuple[torch.Tensor, torch.Tensor],
    output: torch.Tensor,
) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    x, w = ctx.saved_tensors
    dy = dy.contiguous()
    return (
        gemm_dgrad(dy, w) if ctx.needs_input_grad[0] else None,
        gemm_wgrad(dy, x) if ctx.needs_input_grad[1] else None,
    )


gemm.register_autograd(_backward, setup_context=_save)


def _eager_forward(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x @ w.T


def _eager_dgrad(dy: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return dy @ w


def _eager_wgrad(dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return dy.T @ x


_EAGER = {Mode.FORWARD: _eager_forward, Mode.DGRAD: _eager_dgrad, Mode.WGRAD: _eager_wgrad}
_CUSTOM = {Mode.FORWARD: gemm, Mode.DGRAD: gemm_dgrad, Mode.WGRAD: gemm_wgrad}
_OPERANDS = {Mode.FORWARD: ("x", "w"), Mode.DGRAD: ("dy", "w"), Mode.WGRAD: ("dy", "x")}


def _operands(problem: Problem, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = _OPERANDS[problem.mode]
    return inputs[first], inputs[second]


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """(y,), (dx,) or (dw,)."""
    return (_EAGER[problem.mode](*_operands(problem, inputs)),)


def cost(problem: Problem) -> Cost:
    """2 M N K FLOPs; two of the three matrices read, the third written."""
    M, N, K = problem["M"], problem["N"], problem["K"]
    size = dtypes.size_bytes(problem.dtype)
    written = {Mode.FORWARD: M * N, Mode.DGRAD: M * K, Mode.WGRAD: N * K}[problem.mode]
    return Cost(
        flops=2 * M * N * K,
        bytes_read=(M * N + M * K + N * K - written) * size,
        bytes_written=written * size,
    )


def _shapes(problem: Problem) -> dict[str, tuple[int, int]]:
    M, N, K = problem["M"], problem["N"], problem["K"]
    return {"x": (M, K), "w": (N, K), "dy": (M, N)}


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """The two operands of the mode out of x[M,K], w[N,K] and dy[M,N]; standard normal."""
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device
    return {
        name: torch.randn(_shapes(problem)[name], generator=generator, device=device, dtype=dtype)
        for name in _OPERANDS[problem.mode]
    }


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """One rounding of the result, and the growth of an fp32 sum over the reduced axis.

    A row may be a single element, which bears all of its rounding where the norm averages. Sums of
    few terms, as in wgrad with M = 1, reach 30 times their root mean square.
    """
    reduced = {Mode.FORWARD: "K", Mode.DGRAD: "N", Mode.WGRAD: "M"}[problem.mode]
    growth = dtypes.epsilon("fp32") * problem[reduced] ** 0.5
    error = dtypes.epsilon(problem.dtype) + growth
    return (
        Tolerance(
            dtype=problem.dtype, relative_error=error, max_error=16 * error, row_error=2 * error
        ),
    )


def _use_full_fp32() -> None:
    # A library in the same process may have allowed tf32, and fp32 here means fp32.
    torch.set_float32_matmul_precision("highest")


def _prepare_torch(problem: Problem, inputs: Inputs) -> Run:
    _use_full_fp32()
    return prepare_eager(_EAGER[problem.mode], _operands(problem, inputs))


def _prepare_compile(problem: Problem, inputs: Inputs) -> Run:
    _use_full_fp32()
    return prepare_compiled(_EAGER[problem.mode], _operands(problem, inputs))


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    function = _CUSTOM[problem.mode]
    first, second = _operands(problem, inputs)
    return lambda: (function(first, second),)


def _unsupported(problem: Problem, device: torch.device) -> str | None:
    return triton_support.unsupported(device) or triton_support.bf16_dot_unsupported(problem.dtype)


def _aot(label: str, dtype: str, tile: _Tile, unit_strides: str, *families: str) -> AotKernel:
    strides = ("stride_am", "stride_ak", "stride_bk", "stride_bn")
    unit = {name: 1 for name in strides if name in unit_strides.split()}
    return AotKernel(
        label=f"gemm {label} {dtype} {tile.rows}x{tile.columns}x{tile.depth}",
        kernel=_matmul_kernel,
        signature={
            "a_ptr": f"*{dtype}:16", "b_ptr": f"*{dtype}:16", "c_ptr": f"*{dtype}:16",
            "M": "i32:16", "N": "i32:16", "K": "i32:16",
            **{name: "constexpr" if name in unit else "i32:16" for name in strides},
            "BLOCK_M": "constexpr", "BLOCK_N": "constexpr", "BLOCK_K": "constexpr",
            "GROUP_M": "constexpr",
        },
        constexprs=unit | {
            "BLOCK_M": tile.rows, "BLOCK_N": tile.columns, "BLOCK_K": tile.depth,
            "GROUP_M": _GROUP_ROWS,
        },
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        families=families,
    )  # fmt: skip


_FORWARD, _DGRAD, _WGRAD = "stride_ak stride_bk", "stride_ak stride_bn", "stride_am stride_bn"
_NVIDIA = ("cuda", "cuda_99k")

AOT = (
    *(_aot("forward", "bf16", tile, _FORWARD, *_NVIDIA) for tile in _TILES_16_BIT),
    *(_aot("forward", "bf16", tile, _FORWARD, "hip") for tile in _TILES_16_BIT_AMD),
    _aot("dgrad", "bf16", _TILES_16_BIT[0], _DGRAD, *_NVIDIA),
    _aot("wgrad", "bf16", _TILES_16_BIT[0], _WGRAD, *_NVIDIA),
    _aot("dgrad", "bf16", _TILES_16_BIT_AMD[0], _DGRAD, "hip"),
    _aot("wgrad", "bf16", _TILES_16_BIT_AMD[0], _WGRAD, "hip"),
    _aot("forward", "fp16", _TILES_16_BIT[0], _FORWARD, *_NVIDIA),
    _aot("forward", "fp32", _TILES_32_BIT[0], _FORWARD, *_NVIDIA, "hip"),
)

OP = Op(
    name="gemm",
    formula="y[M,N] = x[M,K] @ w[N,K]^T",
    source="Level-3 BLAS, https://doi.org/10.1145/77626.79170",
    axes=("M", "N", "K"),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD, Mode.DGRAD, Mode.WGRAD),
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
