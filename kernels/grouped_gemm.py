"""Matrix products of a mixture of experts, y[r] = x[r] @ w[e(r)]^T, with their two gradients.

Shape letters: R routed rows (tokens times experts of each), E experts, N output features, K input
features. Rows are sorted by expert: those of expert e are offsets[e] to offsets[e+1], int32, from
offsets[0] = 0 to offsets[E] = R, which no kernel checks, as it would wait for the device.
    forward  y[R,N]    = x[r] @ w[e(r)]^T          for x[R,K], w[E,N,K]
    dgrad    dx[R,K]   = dy[r] @ w[e(r)]           for dy[R,N]
    wgrad    dw[E,N,K] = dy[e's rows]^T @ x[e's rows], zeros for an expert without rows
Variants are how uneven the experts' rows are: `uniform` differs by at most one row, `zipf` is
proportional to 1 / rank, `one_hot` gives half of all rows to one expert (`kernels/routing.py`).
Counted: 2 R N K FLOPs in every mode. Bytes: the operands read, of w the experts that have rows
only; the result written, of dw all experts; E + 1 offsets read.
Products are summed in fp32. fp32 operands are multiplied in fp32, never in tf32.
The torch implementation is `torch._grouped_mm` for bf16 with rows of whole 16 bytes; it does not
take other rows, and for other types it is a loop of products over the experts inside, so that loop
is written out here, and reads the offsets on the host. Only the former can be compiled.
Source: Gale et al. 2022, "MegaBlocks: Efficient Sparse Training with Mixture-of-Experts", section
3, https://arxiv.org/abs/2211.15841.
"""

from functools import cache
from typing import Any

import torch

from kernels import dtypes, triton_support
from kernels.compiled import compile_unsupported, prepare_compiled, prepare_eager
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run, Tolerance
from kernels.routing import draw_offsets, row_counts
from kernels.triton_support import (
    AotKernel,
    cdiv,
    next_power_of_2,
    require_contiguous,
    require_dtype,
    shared_memory_bytes,
    tl,
    triton,
)
from kernels.tuning import Config, Tunable, choose, config

# Largest first. A stage takes (BLOCK_M + BLOCK_N) * BLOCK_K * 2 bytes of shared memory: 144 KiB in
# all for the first on sm_90 and sm_100, one stage less on sm_80. 16 rows are for decoding,
# where an expert has a few rows and the weights' bytes decide.
_CONFIGS = (
    config(8, 3, BLOCK_M=128, BLOCK_N=256, BLOCK_K=64),
    config(8, 4, BLOCK_M=128, BLOCK_N=128, BLOCK_K=64),
    config(4, 4, BLOCK_M=64, BLOCK_N=128, BLOCK_K=64),
    config(4, 4, BLOCK_M=16, BLOCK_N=64, BLOCK_K=128),
)
# The loop over experts takes registers: on sm_120 128 x 256 spills 224 bytes a thread, and on sm_89
# 128 x 128 with 4 warps 64. 64 and 72 KiB of shared memory.
_CONFIGS_99K = (
    config(8, 3, BLOCK_M=128, BLOCK_N=128, BLOCK_K=64),
    config(8, 4, BLOCK_M=64, BLOCK_N=128, BLOCK_K=64),
    config(4, 4, BLOCK_M=16, BLOCK_N=64, BLOCK_K=128),
)
# Two stages hold one tile in 64 KiB of LDS while the next is in registers.
_CONFIGS_HIP = (
    config(8, 2, BLOCK_M=128, BLOCK_N=256, BLOCK_K=32),
    config(4, 2, BLOCK_M=128, BLOCK_N=128, BLOCK_K=64),
    config(4, 2, BLOCK_M=64, BLOCK_N=128, BLOCK_K=64),
    config(4, 2, BLOCK_M=16, BLOCK_N=64, BLOCK_K=128),
)
# fp32 has no tensor core without tf32; larger tiles would not fit the registers.
_CONFIGS_32_BIT = (
    config(8, 2, BLOCK_M=128, BLOCK_N=64, BLOCK_K=16),
    config(4, 2, BLOCK_M=64, BLOCK_N=64, BLOCK_K=16),
    config(4, 2, BLOCK_M=16, BLOCK_N=64, BLOCK_K=32),
)

_BY_FAMILY = {"cuda": _CONFIGS, "cuda_99k": _CONFIGS_99K, "hip": _CONFIGS_HIP}

TUNABLES = (
    Tunable(kernel="grouped_gemm.forward", configs=_BY_FAMILY),
    Tunable(kernel="grouped_gemm.dgrad", configs=_BY_FAMILY),
    Tunable(kernel="grouped_gemm.wgrad", configs=_BY_FAMILY),
)

# As many tiles as an H100 has multiprocessors (132), roughly; MI300X has 304, B200 148.
_ENOUGH_TILES = 128

# Rows of tiles that run at the same time share the columns they read in L2.
_GROUP_ROWS = 8

# Programs of the persistent loop for each multiprocessor. Those that do not fit at once start as
# others end, so more than fit cost a launch each and lose no tile.
_PROGRAMS_PER_MULTIPROCESSOR = 2


def _configs(device: torch.device, dtype: torch.dtype) -> tuple[Config, ...]:
    if dtype == torch.float32:
        return _CONFIGS_32_BIT
    if triton_support.is_amd():
        return _CONFIGS_HIP
    # sm_80 has 163 KiB, sm_89 and sm_120 have 99.
    return _CONFIGS_99K if shared_memory_bytes(device) < 160 * 1024 else _CONFIGS


def _heuristic(R: int, E: int, columns: int, table: tuple[Config, ...]) -> Config:
    """For R rows in E groups: rows of a tile that a typical group fills by more than half."""
    typical_rows = cdiv(R, E)
    if typical_rows <= table[-1]["BLOCK_M"]:
        return table[-1]
    for one in table[:-1]:
        tiles = E * cdiv(typical_rows, one["BLOCK_M"]) * cdiv(columns, one["BLOCK_N"])
        if one["BLOCK_M"] < 2 * typical_rows and tiles >= _ENOUGH_TILES:
            return one
    return table[-2]


@triton.jit
def _rows_kernel(
    a_ptr, b_ptr, c_ptr, offsets_ptr, E, N, K, stride_be, stride_bk, stride_bn,
    BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):  # fmt: skip
    # c[r,N] = a[r,K] @ b[e(r),K,N]; a and c are dense. A program takes every so-many-th tile of
    # all experts' tiles, the number of which only the device knows.
    num_columns = tl.cdiv(N, BLOCK_N)
    experts = tl.arange(0, BLOCK_E)
    starts = tl.load(offsets_ptr + experts, mask=experts < E, other=0)
    ends = tl.load(offsets_ptr + 1 + experts, mask=experts < E, other=0)
    # The first tile that is no more the expert's.
    last_tiles = tl.cumsum(tl.cdiv(ends - starts, BLOCK_M) * num_columns, 0)
    num_tiles = tl.max(last_tiles, 0)
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    for tile in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        is_before = last_tiles <= tile
        expert = tl.sum(is_before.to(tl.int32), 0)
        within_expert = tile - tl.max(tl.where(is_before, last_tiles, 0), 0)
        start_row = tl.load(offsets_ptr + expert)
        num_expert_rows = tl.load(offsets_ptr + expert + 1) - start_row

        num_rows = tl.cdiv(num_expert_rows, BLOCK_M)
        group = within_expert // (GROUP_M * num_columns)
        first_row = group * GROUP_M
        rows_in_group = tl.minimum(num_rows - first_row, GROUP_M)
        within = within_expert % (GROUP_M * num_columns)
        tile_m = first_row + within % rows_in_group
        tile_n = within // rows_in_group

        # The start of a tile is a 64-bit offset; inside a tile 32 bits do.
        start_m = start_row.to(tl.int64) + tile_m * BLOCK_M
        start_n = tile_n.to(tl.int64) * BLOCK_N
        mask_m = m < num_expert_rows - tile_m * BLOCK_M
        mask_n = n < N - start_n
        # Rows past the expert's are its last one again: their products are not stored, and a mask
        # of loads costs registers.
        read_m = tl.minimum(m, num_expert_rows - tile_m * BLOCK_M - 1)
        a_ptrs = a_ptr + start_m * K + (read_m[:, None] * K + k[None, :])
        b_ptrs = b_ptr + (expert.to(tl.int64) * stride_be + start_n * stride_bn)
        b_ptrs += k[:, None] * stride_bk + n[None, :] * stride_bn

        c = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
        for start_k in range(0, K, BLOCK_K):
            mask_k = k < K - start_k
            a = tl.load(a_ptrs, mask=mask_k[None, :], other=0.0)
            b = tl.load(b_ptrs, mask=mask_k[:, None] & mask_n[None, :], other=0.0)
            c = tl.dot(a, b, c, input_precision="ieee")
            a_ptrs += BLOCK_K
            b_ptrs += BLOCK_K * stride_bk

        c_ptrs = c_ptr + start_m * N + start_n + (m[:, None] * N + n[None, :])
        tl.store(c_ptrs, c.to(c_ptr.dtype.element_ty), mask=mask_m[:, None] & mask_n[None, :])


@triton.jit
def _wgrad_kernel(
    dy_ptr, x_ptr, dw_ptr, offsets_ptr, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    # dw[e,N,K] = dy[rows of e,N]^T @ x[rows of e,K]. As in any product BLOCK_M and BLOCK_N are of
    # the result, here of N and of K, and BLOCK_K is of the sum, here of rows.
    num_rows = tl.cdiv(N, BLOCK_M)
    num_columns = tl.cdiv(K, BLOCK_N)
    tiles_of_expert = num_rows * num_columns
    expert = tl.program_id(0) // tiles_of_expert
    within_expert = tl.program_id(0) % tiles_of_expert
    group = within_expert // (GROUP_M * num_columns)
    first_row = group * GROUP_M
    rows_in_group = tl.minimum(num_rows - first_row, GROUP_M)
    within = within_expert % (GROUP_M * num_columns)
    start_n = (first_row + within % rows_in_group).to(tl.int64) * BLOCK_M
    start_k = (within // rows_in_group).to(tl.int64) * BLOCK_N

    start_row = tl.load(offsets_ptr + expert)
    num_expert_rows = tl.load(offsets_ptr + expert + 1) - start_row
    r = tl.arange(0, BLOCK_K)
    n = tl.arange(0, BLOCK_M)
    k = tl.arange(0, BLOCK_N)
    mask_n = n < N - start_n
    mask_k = k < K - start_k
    dy_ptrs = dy_ptr + start_row.to(tl.int64) * N + start_n + (r[None, :] * N + n[:, None])
    x_ptrs = x_ptr + start_row.to(tl.int64) * K + start_k + (r[:, None] * K + k[None, :])

    dw = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for start in range(0, num_expert_rows, BLOCK_K):
        mask_r = r < num_expert_rows - start
        dy = tl.load(dy_ptrs, mask=mask_n[:, None] & mask_r[None, :], other=0.0)
        x = tl.load(x_ptrs, mask=mask_r[:, None] & mask_k[None, :], other=0.0)
        dw = tl.dot(dy, x, dw, input_precision="ieee")
        dy_ptrs += BLOCK_K * N
        x_ptrs += BLOCK_K * K

    dw_ptrs = dw_ptr + (expert.to(tl.int64) * N + start_n) * K + start_k
    dw_ptrs += n[:, None] * K + k[None, :]
    tl.store(dw_ptrs, dw.to(dw_ptr.dtype.element_ty), mask=mask_n[:, None] & mask_k[None, :])


@cache
def _num_programs(device: torch.device) -> int:
    if device.type != "cuda":
        # Fewer than tiles in the interpreter's tests, so that the loop is one.
        return 3
    properties = torch.cuda.get_device_properties(device)
    return int(properties.multi_processor_count) * _PROGRAMS_PER_MULTIPROCESSOR


def _rows_product(
    kernel: str, a: torch.Tensor, b: torch.Tensor, offsets: torch.Tensor
) -> torch.Tensor:
    """a[R,K] @ b[e(r),K,N] for a view b of contiguous weights."""
    (R, K), (E, _, N) = a.shape, b.shape
    c = a.new_empty(R, N)
    heuristic = _heuristic(R, E, N, _configs(a.device, a.dtype))
    chosen = choose(kernel, a.dtype, heuristic, R=R, E=E, N=N, K=K)
    # Each expert may have one tile that is not full.
    most_tiles = (R // chosen["BLOCK_M"] + min(R, E)) * cdiv(N, chosen["BLOCK_N"])
    _rows_kernel[(min(most_tiles, _num_programs(a.device)),)](
        a, b, c, offsets, E, N, K, b.stride(0), b.stride(1), b.stride(2),
        BLOCK_E=next_power_of_2(E), GROUP_M=_GROUP_ROWS, **chosen.launch,
    )  # fmt: skip
    return c


def _check(offsets: torch.Tensor, **tensors: torch.Tensor) -> None:
    """Names of tensors tell their letters: x[R,K], dy[R,N], w[E,N,K]."""
    require_contiguous("grouped_gemm", offsets=offsets, **tensors)
    require_dtype("grouped_gemm", next(iter(tensors.values())).dtype, **tensors)
    if offsets.dtype != torch.int32 or offsets.ndim != 1 or offsets.shape[0] < 2:
        raise ValueError(
            "grouped_gemm: offsets[E+1] of torch.int32 are expected, "
            f"not {tuple(offsets.shape)} of {offsets.dtype}."
        )
    sizes = {"E": offsets.shape[0] - 1}
    for name, tensor in tensors.items():
        letters = {"x": "RK", "dy": "RN", "w": "ENK"}[name]
        shape = tuple(tensor.shape)
        if len(shape) != len(letters) or any(
            sizes.setdefault(letter, size) != size
            for letter, size in zip(letters, shape, strict=True)
        ):
            known = " ".join(f"{letter}={size}" for letter, size in sizes.items())
            raise ValueError(
                f"grouped_gemm: {name}[{','.join(letters)}] is expected, not {shape} with {known}."
            )
    if min(sizes.values()) < 1:
        raise ValueError(f"grouped_gemm: {sizes} must not be empty.")


@torch.library.custom_op("chipscale::grouped_gemm", mutates_args=())
def grouped_gemm(x: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """y[R,N] from x[R,K] sorted by expert, w[E,N,K] and offsets[E+1] int32."""
    _check(offsets, x=x, w=w)
    return _rows_product("grouped_gemm.forward", x, w.mT, offsets)


@grouped_gemm.register_fake
def _(x: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    del offsets
    return x.new_empty(x.shape[0], w.shape[1])


@torch.library.custom_op("chipscale::grouped_gemm_dgrad", mutates_args=())
def grouped_gemm_dgrad(dy: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """dx[R,K] from dy[R,N] sorted by expert, w[E,N,K] and offsets[E+1] int32."""
    _check(offsets, dy=dy, w=w)
    return _rows_product("grouped_gemm.dgrad", dy, w, offsets)


@grouped_gemm_dgrad.register_fake
def _(dy: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    del offsets
    return dy.new_empty(dy.shape[0], w.shape[2])


@torch.library.custom_op("chipscale::grouped_gemm_wgrad", mutates_args=())
def grouped_gemm_wgrad(dy: torch.Tensor, x: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """dw[E,N,K] from dy[R,N] and x[R,K], both sorted by expert, and offsets[E+1] int32."""
    _check(offsets, dy=dy, x=x)
    (R, N), K, E = dy.shape, x.shape[1], offsets.shape[0] - 1
    dw = x.new_empty(E, N, K)
    # E products of N rows and K columns each, whatever the length of their sums.
    heuristic = _heuristic(E * N, E, K, _configs(x.device, x.dtype))
    chosen = choose("grouped_gemm.wgrad", x.dtype, heuristic, R=R, E=E, N=N, K=K)
    # One program a tile: the experts' sums are of unequal length, and the device balances them.
    num_tiles = E * cdiv(N, chosen["BLOCK_M"]) * cdiv(K, chosen["BLOCK_N"])
    _wgrad_kernel[(num_tiles,)](
        dy, x, dw, offsets, N, K, GROUP_M=_GROUP_ROWS, **chosen.launch
    )  # fmt: skip
    return dw


@grouped_gemm_wgrad.register_fake
def _(dy: torch.Tensor, x: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return x.new_empty(offsets.shape[0] - 1, dy.shape[1], x.shape[1])


def _save(
    ctx: Any,
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    output: torch.Tensor,
) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
    x, w, offsets = ctx.saved_tensors
    dy = dy.contiguous()
    return (
        grouped_gemm_dgrad(dy, w, offsets) if ctx.needs_input_grad[0] else None,
        grouped_gemm_wgrad(dy, x, offsets) if ctx.needs_input_grad[1] else None,
        None,
    )


grouped_gemm.register_autograd(_backward, setup_context=_save)


def _eager_forward(x: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return torch._grouped_mm(x, w.mT, offs=offsets[1:])


def _eager_dgrad(dy: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return torch._grouped_mm(dy, w, offs=offsets[1:])


def _eager_wgrad(dy: torch.Tensor, x: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return torch._grouped_mm(dy.T, x, offs=offsets[1:])


def _sizes(offsets: torch.Tensor) -> list[int]:
    return offsets.diff().tolist()


def _loop_forward(x: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    parts = x.split(_sizes(offsets))
    return torch.cat([part @ w[e].T for e, part in enumerate(parts) if len(part)])


def _loop_dgrad(dy: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    parts = dy.split(_sizes(offsets))
    return torch.cat([part @ w[e] for e, part in enumerate(parts) if len(part)])


def _loop_wgrad(dy: torch.Tensor, x: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    sizes = _sizes(offsets)
    pairs = zip(dy.split(sizes), x.split(sizes), strict=True)
    return torch.stack([dy_part.T @ x_part for dy_part, x_part in pairs])


_EAGER = {Mode.FORWARD: _eager_forward, Mode.DGRAD: _eager_dgrad, Mode.WGRAD: _eager_wgrad}
_LOOP = {Mode.FORWARD: _loop_forward, Mode.DGRAD: _loop_dgrad, Mode.WGRAD: _loop_wgrad}
_CUSTOM = {
    Mode.FORWARD: grouped_gemm,
    Mode.DGRAD: grouped_gemm_dgrad,
    Mode.WGRAD: grouped_gemm_wgrad,
}
_OPERANDS = {Mode.FORWARD: ("x", "w"), Mode.DGRAD: ("dy", "w"), Mode.WGRAD: ("dy", "x")}


def _operands(problem: Problem, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    first, second = _OPERANDS[problem.mode]
    return inputs[first], inputs[second], inputs["offsets"]


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """(y,), (dx,) or (dw,), an expert at a time."""
    return (_LOOP[problem.mode](*_operands(problem, inputs)),)


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    R, E, N, K = (problem[axis] for axis in ("R", "E", "N", "K"))
    num_active = sum(count > 0 for count in row_counts(problem.variant, R, E))
    read, written = {
        Mode.FORWARD: (R * K + num_active * N * K, R * N),
        Mode.DGRAD: (R * N + num_active * N * K, R * K),
        Mode.WGRAD: (R * N + R * K, E * N * K),
    }[problem.mode]
    size = dtypes.size_bytes(problem.dtype)
    return Cost(
        flops=2 * R * N * K,
        bytes_read=read * size + (E + 1) * dtypes.size_bytes("int32"),
        bytes_written=written * size,
    )


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """The two operands of the mode, standard normal, and offsets[E+1] of the variant."""
    R, E, N, K = (problem[axis] for axis in ("R", "E", "N", "K"))
    shapes = {"x": (R, K), "w": (E, N, K), "dy": (R, N)}
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device
    inputs = {
        name: torch.randn(shapes[name], generator=generator, device=device, dtype=dtype)
        for name in _OPERANDS[problem.mode]
    }
    inputs["offsets"] = draw_offsets(row_counts(problem.variant, R, E), generator)
    return inputs


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """As of gemm: one rounding, and the growth of an fp32 sum over the longest reduced axis.

    Weight gradients of the hottest expert are larger than all experts' root mean square.
    """
    R, E = problem["R"], problem["E"]
    most_rows = row_counts(problem.variant, R, E)[0]
    length, excess = {
        Mode.FORWARD: (problem["K"], 1.0),
        Mode.DGRAD: (problem["N"], 1.0),
        Mode.WGRAD: (most_rows, (most_rows * E / R) ** 0.5),
    }[problem.mode]
    error = dtypes.epsilon(problem.dtype) + dtypes.epsilon("fp32") * length**0.5
    return (
        Tolerance(
            dtype=problem.dtype,
            relative_error=error,
            max_error=16 * error * excess,
            row_error=2 * error,
        ),
    )


def _grouped_mm_unsupported(problem: Problem) -> str | None:
    """Why `torch._grouped_mm` is not used, or None if it is."""
    if problem.dtype != "bf16":
        return "torch._grouped_mm multiplies bf16 only."
    if problem["N"] % 8 or problem["K"] % 8:
        return "torch._grouped_mm takes rows of whole 16 bytes only: N and K in eights for bf16."
    return None


def _prepare_torch(problem: Problem, inputs: Inputs) -> Run:
    # A library in the same process may have allowed tf32, and fp32 here means fp32.
    torch.set_float32_matmul_precision("highest")
    functions = _EAGER if _grouped_mm_unsupported(problem) is None else _LOOP
    return prepare_eager(functions[problem.mode], _operands(problem, inputs))


def _prepare_compile(problem: Problem, inputs: Inputs) -> Run:
    return prepare_compiled(_EAGER[problem.mode], _operands(problem, inputs))


def _compile_unsupported(problem: Problem, device: torch.device) -> str | None:
    reason = _grouped_mm_unsupported(problem)
    if reason is not None:
        return f"{reason} A loop over experts has sizes that torch.compile cannot know."
    return compile_unsupported(problem, device)


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    function = _CUSTOM[problem.mode]
    first, second, offsets = _operands(problem, inputs)
    return lambda: (function(first, second, offsets),)


def _unsupported(problem: Problem, device: torch.device) -> str | None:
    return triton_support.unsupported(device) or triton_support.bf16_dot_unsupported(problem.dtype)


def _aot(mode: str, dtype: str, one: Config, *families: str) -> AotKernel:
    blocks = dict(one.blocks)
    signature = {"offsets_ptr": "*i32:16", "N": "i32:16", "K": "i32:16"}
    constexprs: dict[str, object] = {"GROUP_M": _GROUP_ROWS, **blocks}
    if mode == "wgrad":
        pointers = ("dy_ptr", "x_ptr", "dw_ptr")
    else:
        pointers = ("a_ptr", "b_ptr", "c_ptr")
        unit = "stride_bk" if mode == "forward" else "stride_bn"
        # 128 experts; a model has up to 512.
        constexprs |= {"BLOCK_E": 128, unit: 1}
        strides = dict.fromkeys(("stride_be", "stride_bk", "stride_bn"), "i32:16")
        signature = {"offsets_ptr": "*i32:16", "E": "i32:16", **signature, **strides}
    signature = dict.fromkeys(pointers, f"*{dtype}:16") | signature
    sizes = "x".join(str(blocks[name]) for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K"))
    return AotKernel(
        label=f"grouped_gemm {mode} {dtype} {sizes}",
        kernel=_wgrad_kernel if mode == "wgrad" else _rows_kernel,
        signature=signature | dict.fromkeys(constexprs, "constexpr"),
        constexprs=constexprs,
        num_warps=one.num_warps,
        num_stages=one.num_stages,
        tunable="" if dtype == "fp32" else f"grouped_gemm.{mode}",
        small=("offsets_ptr",),
        families=families,
    )


_MODES = ("forward", "dgrad", "wgrad")

AOT = (
    *(
        _aot(mode, "bf16", one, family)
        for family, configs in _BY_FAMILY.items()
        for mode in _MODES
        for one in configs
    ),
    *(_aot("forward", "fp16", configs[0], family) for family, configs in _BY_FAMILY.items()),
    *(_aot(mode, "fp32", _CONFIGS_32_BIT[0], *_BY_FAMILY) for mode in _MODES),
)

OP = Op(
    name="grouped_gemm",
    formula="y[R,N] = x[R,K] @ w[e(r),N,K]^T, rows sorted by E experts",
    source="Gale et al. 2022, section 3, https://arxiv.org/abs/2211.15841",
    axes=("R", "E", "N", "K"),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD, Mode.DGRAD, Mode.WGRAD),
    variants=("uniform", "zipf", "one_hot"),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        Impl("torch", _prepare_torch),
        Impl("compile", _prepare_compile, _compile_unsupported),
        Impl("triton", _prepare_triton, _unsupported),
    ),
)
