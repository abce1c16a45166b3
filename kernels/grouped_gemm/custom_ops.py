"""With which tiles the kernels of a mixture's products are launched, and its three custom ops."""

from typing import Any

import torch

from kernels import triton_support
from kernels.grouped_gemm.triton_kernels import descriptor_kernel, rows_kernel, wgrad_kernel
from kernels.tiles import (
    GROUP_ROWS,
    descriptor_architecture,
    label,
    takes_descriptors,
    tile_config,
)
from kernels.triton_support import (
    AotKernel,
    cdiv,
    next_power_of_2,
    require_contiguous,
    require_dtype,
)
from kernels.tuning import Config, Tunable, choose

# Largest first. A stage takes (BLOCK_M + BLOCK_N) * BLOCK_K * 2 bytes of shared memory: 144 KiB in
# all for the first on sm_90 and sm_100, one stage less on sm_80. 16 rows are for decoding,
# where an expert has a few rows and the weights' bytes decide.
_CONFIGS = (
    tile_config(8, 3, 128, 256, 64),
    tile_config(8, 4, 128, 128, 64),
    tile_config(4, 4, 64, 128, 64),
    tile_config(4, 4, 16, 64, 128),
)
# The loop over experts takes registers: on sm_120 128 x 256 spills 224 bytes a thread, and on sm_89
# 128 x 128 with 4 warps 64. 64 and 72 KiB of shared memory.
_CONFIGS_99K = (
    tile_config(8, 3, 128, 128, 64),
    tile_config(8, 4, 64, 128, 64),
    tile_config(4, 4, 16, 64, 128),
)
# Two stages hold one tile in 64 KiB of LDS while the next is in registers.
_CONFIGS_HIP = (
    tile_config(8, 2, 128, 256, 32),
    tile_config(4, 2, 128, 128, 64),
    tile_config(4, 2, 64, 128, 64),
    tile_config(4, 2, 16, 64, 128),
)
# Tensor descriptors of sm_90 and sm_100 take fewer registers than pointers (236 for the first), so
# that four stages of 48 KiB fit 227 KiB and nothing spills. Fewer rows are left to pointers.
_CONFIGS_DESCRIPTOR = (
    tile_config(8, 4, 128, 256, 64),
    tile_config(8, 4, 128, 128, 64),
    tile_config(4, 4, 64, 128, 64),
)
_DESCRIPTOR_ROWS = 16
# fp32 has no tensor core without tf32; larger tiles would not fit the registers.
_CONFIGS_32_BIT = (
    tile_config(8, 2, 128, 64, 16),
    tile_config(4, 2, 64, 64, 16),
    tile_config(4, 2, 16, 64, 32),
)

_BY_ARCHITECTURE = {"sm_90": _CONFIGS_DESCRIPTOR, "sm_100": _CONFIGS_DESCRIPTOR}
_BY_FAMILY = {"cuda": _CONFIGS, "cuda_99k": _CONFIGS_99K, "hip": _CONFIGS_HIP}

TUNABLES = (
    Tunable(kernel="grouped_gemm.forward", configs=_BY_FAMILY),
    Tunable(kernel="grouped_gemm.dgrad", configs=_BY_FAMILY),
    Tunable(kernel="grouped_gemm.wgrad", configs=_BY_FAMILY),
    Tunable(kernel="grouped_gemm.forward.descriptor", configs=_BY_ARCHITECTURE),
    Tunable(kernel="grouped_gemm.dgrad.descriptor", configs=_BY_ARCHITECTURE),
)

# As many tiles as an H100 has multiprocessors (132), roughly; MI300X has 304, B200 148.
_ENOUGH_TILES = 128

# Programs of the persistent loop for each multiprocessor. Those that do not fit at once start as
# others end, so more than fit cost a launch each and lose no tile.
_PROGRAMS_PER_MULTIPROCESSOR = 2


def _configs(device: torch.device, dtype: torch.dtype) -> tuple[Config, ...]:
    if dtype == torch.float32:
        return _CONFIGS_32_BIT
    return _BY_FAMILY[triton_support.families(device)[-1]]


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


def _rows_product(
    mode: str, a: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor
) -> torch.Tensor:
    """a[R,K] @ b[e(r),K,N], where b is w[E,N,K] transposed in the forward mode, else w[E,K,N]."""
    b = w.mT if mode == "forward" else w
    (R, K), (E, _, N) = a.shape, b.shape
    c = a.new_empty(R, N)
    kernel = f"grouped_gemm.{mode}"
    table = _configs(a.device, a.dtype)
    architecture = descriptor_architecture(a.device)
    is_by_descriptor = (
        architecture != ""
        and a.dtype != torch.float32
        and cdiv(R, E) > _DESCRIPTOR_ROWS
        and takes_descriptors(a, w)
    )
    if is_by_descriptor:
        kernel, table = f"{kernel}.descriptor", _BY_ARCHITECTURE[architecture]
    chosen = choose(kernel, a.dtype, _heuristic(R, E, N, table), R=R, E=E, N=N, K=K)
    # Each expert may have one tile that is not full.
    most_tiles = (R // chosen["BLOCK_M"] + min(R, E)) * cdiv(N, chosen["BLOCK_N"])
    most_programs = triton_support.num_multiprocessors(a.device) * _PROGRAMS_PER_MULTIPROCESSOR
    grid = (min(most_tiles, most_programs),)
    fixed = {"BLOCK_E": next_power_of_2(E), "GROUP_M": GROUP_ROWS}
    if is_by_descriptor:
        # Here, since this file is read where Triton is not installed, too.
        from triton.tools.tensor_descriptor import TensorDescriptor

        depth, columns = chosen["BLOCK_K"], chosen["BLOCK_N"]
        block = [columns, depth] if mode == "forward" else [depth, columns]
        descriptor_kernel[grid](
            TensorDescriptor.from_tensor(a, [chosen["BLOCK_M"], depth]),
            TensorDescriptor.from_tensor(w, [1, *block]),
            c, offsets, E, N, K, B_IS_NK=mode == "forward", **fixed, **chosen.launch,
        )  # fmt: skip
        return c
    rows_kernel[grid](
        a, b, c, offsets, E, N, K, b.stride(0), b.stride(1), b.stride(2), **fixed, **chosen.launch
    )
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
    return _rows_product("forward", x, w, offsets)


@grouped_gemm.register_fake
def _(x: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    del offsets
    return x.new_empty(x.shape[0], w.shape[1])


@torch.library.custom_op("chipscale::grouped_gemm_dgrad", mutates_args=())
def grouped_gemm_dgrad(dy: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """dx[R,K] from dy[R,N] sorted by expert, w[E,N,K] and offsets[E+1] int32."""
    _check(offsets, dy=dy, w=w)
    return _rows_product("dgrad", dy, w, offsets)


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
    wgrad_kernel[(num_tiles,)](
        dy, x, dw, offsets, N, K, GROUP_M=GROUP_ROWS, **chosen.launch
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


def _aot(mode: str, dtype: str, one: Config, *families: str) -> AotKernel:
    blocks = dict(one.blocks)
    signature = {"offsets_ptr": "*i32:16", "N": "i32:16", "K": "i32:16"}
    constexprs: dict[str, object] = {"GROUP_M": GROUP_ROWS, **blocks}
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
    return AotKernel(
        label=f"grouped_gemm {mode} {dtype} {label(one)}",
        kernel=wgrad_kernel if mode == "wgrad" else rows_kernel,
        signature=signature | dict.fromkeys(constexprs, "constexpr"),
        constexprs=constexprs,
        num_warps=one.num_warps,
        num_stages=one.num_stages,
        tunable="" if dtype == "fp32" else f"grouped_gemm.{mode}",
        small=("offsets_ptr",),
        families=families,
    )


def _descriptor_aot(mode: str, one: Config, *families: str) -> AotKernel:
    rows, columns, depth = (one[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K"))
    is_nk = mode == "forward"
    block = f"{columns},{depth}" if is_nk else f"{depth},{columns}"
    constexprs: dict[str, object] = {
        "B_IS_NK": is_nk,
        "BLOCK_E": 128,
        "GROUP_M": GROUP_ROWS,
        **dict(one.blocks),
    }
    return AotKernel(
        label=f"grouped_gemm {mode} descriptor bf16 {label(one)}",
        kernel=descriptor_kernel,
        signature={
            "a": f"tensordesc<bf16[{rows},{depth}]>",
            "b": f"tensordesc<bf16[1,{block}]>",
            "c_ptr": "*bf16:16",
            "offsets_ptr": "*i32:16",
            **dict.fromkeys(("E", "N", "K"), "i32:16"),
            **dict.fromkeys(constexprs, "constexpr"),
        },
        constexprs=constexprs,
        num_warps=one.num_warps,
        num_stages=one.num_stages,
        small=("offsets_ptr",),
        tunable=f"grouped_gemm.{mode}.descriptor",
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
    *(
        _descriptor_aot(mode, one, *_BY_ARCHITECTURE)
        for mode in ("forward", "dgrad")
        for one in _CONFIGS_DESCRIPTOR
    ),
    *(_aot("forward", "fp16", configs[0], family) for family, configs in _BY_FAMILY.items()),
    *(_aot(mode, "fp32", _CONFIGS_32_BIT[0], *_BY_FAMILY) for mode in _MODES),
)
