"""With which tiles the kernels of a matrix product are launched, and its three custom ops."""

from collections.abc import Mapping
from typing import Any

import torch

from kernels import triton_support, tuning
from kernels.gemm.triton_kernels import descriptor_kernel, matmul_kernel
from kernels.tiles import (
    DESCRIPTOR_ROWS,
    GROUP_ROWS,
    descriptor_architecture,
    heuristic,
    label,
    pipelined,
    specialized,
    takes_descriptors,
    tile_config,
)
from kernels.triton_support import (
    AotKernel,
    cdiv,
    require_contiguous,
    require_dtype,
    require_matrices,
)
from kernels.tuning import Config, Tunable

# The last of each is for a decode step, whose few rows wait for memory and not for tensor cores.
# Eight warps share a tile of 128 x 128 on sm_80, where four would spill 32 bytes each; of 128 x 256
# with a depth of 64 they would spill 40.
_NVIDIA = (
    tile_config(8, 4, 128, 256, 32),
    tile_config(8, 3, 128, 128, 64),
    tile_config(4, 4, 64, 128, 64),
    tile_config(4, 4, 64, 64, 64),
    tile_config(4, 5, 16, 64, 64),
)
# AMD: two stages hold one tile in LDS while the next is in registers, so (rows + columns) * depth
# * 2 bytes must fit 64 KiB; 256 threads of 64-wide wavefronts are 4 warps.
_AMD = (
    tile_config(8, 2, 256, 256, 32),
    tile_config(4, 2, 128, 128, 64),
    tile_config(4, 2, 64, 128, 64),
    tile_config(4, 2, 64, 64, 64),
    tile_config(4, 2, 16, 64, 128),
)
# 128 x 128 would spill 8 bytes on sm_100.
_TF32 = (
    tile_config(8, 3, 128, 64, 32),
    tile_config(4, 3, 64, 64, 32),
    tile_config(4, 3, 16, 64, 32),
)
# Without tf32 there is no tensor core for fp32 on NVIDIA: the accumulator and the operands of
# larger tiles would not fit the registers of plain multiply-adds.
_FP32 = (
    tile_config(8, 3, 128, 64, 16),
    tile_config(8, 3, 64, 64, 16),
    tile_config(4, 2, 16, 64, 32),
)

TUNABLES = (
    Tunable(kernel="gemm", configs={"cuda": _NVIDIA, "cuda_99k": _NVIDIA, "hip": _AMD}),
    Tunable(kernel="gemm.tf32", configs={"cuda": _TF32, "cuda_99k": _TF32}),
    Tunable(kernel="gemm.fp32", configs={"cuda": _FP32, "cuda_99k": _FP32, "hip": _FP32}),
    # sm_90: four stages of 128 x 256 x 64 and half a tile to be stored are 224 KiB of 227. Warps
    # are specialised in loops that are not flattened, and by Triton 3.6 only with a tile stored
    # whole, which leaves room for three stages. There each product is waited for, and the second
    # group of warps fills the gap; which of both is faster only a GPU can tell, so the older way
    # is the heuristic's.
    Tunable(
        kernel="gemm.descriptor",
        configs={
            "sm_90": (
                pipelined(8, 4, 128, 256, 64),
                pipelined(8, 4, 256, 128, 64),
                pipelined(8, 4, 128, 128, 64),
                pipelined(4, 4, 64, 128, 64),
                specialized(3, 128, 256, 64, stores=1, flatten=0),
                specialized(3, 256, 128, 64, stores=1, flatten=0),
                specialized(4, 128, 128, 64, stores=1, flatten=0),
            ),
            "sm_100": (
                specialized(4, 128, 256, 64, stores=2, flatten=1),
                specialized(6, 128, 128, 64, stores=2, flatten=1),
                specialized(4, 64, 128, 64, stores=2, flatten=1),
                pipelined(4, 4, 128, 256, 64),
            ),
        },
    ),
    # A product of fp32 operands that are not stored along K takes them through registers on sm_90,
    # which specialised warps cannot (the compiler fails).
    Tunable(
        kernel="gemm.descriptor.tf32",
        configs={
            "sm_90": (pipelined(8, 3, 128, 256, 32), pipelined(8, 4, 128, 128, 32)),
            "sm_100": (specialized(4, 128, 128, 32, stores=2, flatten=1),),
        },
    ),
)
_CONFIGS: Mapping[str, Mapping[str, tuple[Config, ...]]] = {
    tunable.kernel: tunable.configs for tunable in TUNABLES
}


def _matmul(a: torch.Tensor, b: torch.Tensor, allow_tf32: bool) -> torch.Tensor:
    """a[M,K] @ b[K,N] for contiguous matrices or their transposes."""
    (M, K), N = a.shape, b.shape[1]
    if b.shape[0] != K:
        raise ValueError(f"gemm: {tuple(a.shape)} @ {tuple(b.shape)} do not multiply.")
    c = a.new_empty(M, N)
    suffix = "" if a.dtype != torch.float32 else ".tf32" if allow_tf32 else ".fp32"
    precision = "tf32" if suffix == ".tf32" else "ieee"
    num_multiprocessors = triton_support.num_multiprocessors(a.device)
    architecture = descriptor_architecture(a.device)
    sizes = {"M": M, "N": N, "K": K}
    # Which operands lie along K decides how tiles are read.
    layouts = {(True, False): "forward", (True, True): "dgrad", (False, True): "wgrad"}
    layout = layouts[a.is_contiguous(), b.is_contiguous()]
    if architecture and suffix != ".fp32" and M >= DESCRIPTOR_ROWS and takes_descriptors(a, b, c):
        kernel = "gemm.descriptor" + suffix
        best = heuristic(_CONFIGS[kernel][architecture], M, N, num_multiprocessors)
        tile = tuning.choose(kernel, a.dtype, best, layout, **sizes)
        num_tiles = cdiv(M, tile["BLOCK_M"]) * cdiv(N, tile["BLOCK_N"])
        triton_support.provide_scratch(a.device)
        descriptor_kernel[(min(num_tiles, num_multiprocessors),)](
            a, b, c, M, N, K, A_IS_KM=a.stride(1) != 1, B_IS_NK=b.stride(1) != 1,
            GROUP_M=GROUP_ROWS, PRECISION=precision, **tile.launch,
        )  # fmt: skip
        return c
    kernel = "gemm" + suffix
    family = "hip" if triton_support.is_amd() else "cuda"
    best = heuristic(_CONFIGS[kernel][family], M, N, num_multiprocessors)
    tile = tuning.choose(kernel, a.dtype, best, layout, **sizes)
    matmul_kernel[(cdiv(M, tile["BLOCK_M"]) * cdiv(N, tile["BLOCK_N"]),)](
        a, b, c, M, N, K, a.stride(0), a.stride(1), b.stride(0), b.stride(1),
        GROUP_M=GROUP_ROWS, PRECISION=precision, **tile.launch,
    )  # fmt: skip
    return c


def _check(**tensors: torch.Tensor) -> None:
    require_matrices("gemm", **tensors)
    require_contiguous("gemm", **tensors)
    require_dtype("gemm", next(iter(tensors.values())).dtype, **tensors)


@torch.library.custom_op("chipscale::gemm", mutates_args=())
def gemm(x: torch.Tensor, w: torch.Tensor, allow_tf32: bool = False) -> torch.Tensor:
    """y[M,N] from x[M,K] and w[N,K]; fp32 operands may be multiplied in tf32."""
    _check(x=x, w=w)
    return _matmul(x, w.T, allow_tf32)


@gemm.register_fake
def _(x: torch.Tensor, w: torch.Tensor, allow_tf32: bool = False) -> torch.Tensor:
    del allow_tf32
    return x.new_empty(x.shape[0], w.shape[0])


@torch.library.custom_op("chipscale::gemm_dgrad", mutates_args=())
def gemm_dgrad(dy: torch.Tensor, w: torch.Tensor, allow_tf32: bool = False) -> torch.Tensor:
    """dx[M,K] from dy[M,N] and w[N,K]; fp32 operands may be multiplied in tf32."""
    _check(dy=dy, w=w)
    return _matmul(dy, w, allow_tf32)


@gemm_dgrad.register_fake
def _(dy: torch.Tensor, w: torch.Tensor, allow_tf32: bool = False) -> torch.Tensor:
    del allow_tf32
    return dy.new_empty(dy.shape[0], w.shape[1])


@torch.library.custom_op("chipscale::gemm_wgrad", mutates_args=())
def gemm_wgrad(dy: torch.Tensor, x: torch.Tensor, allow_tf32: bool = False) -> torch.Tensor:
    """dw[N,K] from dy[M,N] and x[M,K]; fp32 operands may be multiplied in tf32."""
    _check(dy=dy, x=x)
    return _matmul(dy.T, x, allow_tf32)


@gemm_wgrad.register_fake
def _(dy: torch.Tensor, x: torch.Tensor, allow_tf32: bool = False) -> torch.Tensor:
    del allow_tf32
    return dy.new_empty(dy.shape[1], x.shape[1])


def _save(
    ctx: Any,
    inputs: tuple[torch.Tensor, torch.Tensor, bool],
    output: torch.Tensor,
) -> None:
    del output
    x, w, ctx.allow_tf32 = inputs
    ctx.save_for_backward(x, w)


def _backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
    x, w = ctx.saved_tensors
    dy = dy.contiguous()
    return (
        gemm_dgrad(dy, w, ctx.allow_tf32) if ctx.needs_input_grad[0] else None,
        gemm_wgrad(dy, x, ctx.allow_tf32) if ctx.needs_input_grad[1] else None,
        None,
    )


gemm.register_autograd(_backward, setup_context=_save)

# Which strides are 1: forward takes w[N,K] as b[K,N], wgrad dy[M,N] as a of N rows.
_UNIT_STRIDES = {
    "forward": ("stride_ak", "stride_bk"),
    "dgrad": ("stride_ak", "stride_bn"),
    "wgrad": ("stride_am", "stride_bn"),
}


def _aot(kernel: str, mode: str, dtype: str, tile: Config, *families: str) -> AotKernel:
    is_descriptor = kernel.startswith("gemm.descriptor")
    blocks: dict[str, object] = dict(tile.blocks)
    constexprs = blocks | {
        "GROUP_M": GROUP_ROWS,
        "PRECISION": "tf32" if kernel.endswith(".tf32") else "ieee",
    }
    signature = {"a_ptr": f"*{dtype}:16", "b_ptr": f"*{dtype}:16", "c_ptr": f"*{dtype}:16"}
    signature |= dict.fromkeys("MNK", "i32:16")
    if is_descriptor:
        constexprs |= {"A_IS_KM": mode == "wgrad", "B_IS_NK": mode == "forward"}
    else:
        strides = ("stride_am", "stride_ak", "stride_bk", "stride_bn")
        signature |= dict.fromkeys(strides, "i32:16")
        constexprs |= dict.fromkeys(_UNIT_STRIDES[mode], 1)
    function = descriptor_kernel if is_descriptor else matmul_kernel
    return AotKernel(
        label=f"{kernel} {mode} {dtype} {label(tile)}",
        kernel=function,
        signature=signature | dict.fromkeys(constexprs, "constexpr"),
        constexprs=constexprs,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        tunable=kernel,
        families=families,
    )


def _aot_of(tunable: Tunable) -> list[AotKernel]:
    """Every configuration forward, the first also for both gradients and in the other type."""
    is_16_bit = not tunable.kernel.endswith("32")
    found = []
    for tile, names in tunable.families.items():
        dtype = "bf16" if is_16_bit else "fp32"
        is_first = tile in tunable.first
        modes = _UNIT_STRIDES if is_first or "descriptor" in tunable.kernel else ("forward",)
        found += [_aot(tunable.kernel, mode, dtype, tile, *names) for mode in modes]
        if is_16_bit and is_first:
            found.append(_aot(tunable.kernel, "forward", "fp16", tile, *names))
    return found


AOT = tuple(one for tunable in TUNABLES for one in _aot_of(tunable))
