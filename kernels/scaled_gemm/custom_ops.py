"""With which tiles the kernels of a scaled product are launched, and its custom op."""

import torch

from kernels import triton_support, tuning
from kernels.scaled_gemm.triton_kernels import scaled_descriptor_kernel, scaled_matmul_kernel
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
from kernels.triton_support import AotKernel, cdiv, require_contiguous, require_matrices
from kernels.tuning import Config, Tunable

GROUP = 128
"""Neighbours along K that share a scale of x in blocks; a scale of w has as many rows besides."""

_NVIDIA = (
    tile_config(8, 4, 128, 256, 64),
    tile_config(8, 3, 128, 128, 128),
    tile_config(4, 4, 64, 64, 128),
    tile_config(4, 4, 16, 64, 128),
)
_AMD = (
    tile_config(8, 2, 256, 256, 64),
    tile_config(8, 2, 128, 128, 128),
    tile_config(4, 2, 64, 64, 128),
    tile_config(4, 2, 16, 64, 128),
)
# In blocks a tile has two sums, of which 128 x 128 by eight warps would spill 8 bytes on sm_89.
_NVIDIA_BLOCK = (
    tile_config(4, 3, 64, 128, 128),
    tile_config(4, 4, 64, 64, 128),
    tile_config(4, 4, 16, 64, 128),
)
_AMD_BLOCK = _AMD[1:]

TUNABLES = (
    Tunable(kernel="scaled_gemm", configs={"cuda": _NVIDIA, "cuda_99k": _NVIDIA, "hip": _AMD}),
    Tunable(
        kernel="scaled_gemm.block",
        configs={"cuda": _NVIDIA_BLOCK, "cuda_99k": _NVIDIA_BLOCK, "hip": _AMD_BLOCK},
    ),
    # Tiles as of gemm, twice as deep. On sm_100 four warps hold no scaled tile of 128 x 256
    # (1536 bytes spilled), and eight leave room for three stages.
    Tunable(
        kernel="scaled_gemm.descriptor",
        configs={
            "sm_90": (
                pipelined(8, 4, 128, 256, 128),
                pipelined(8, 4, 128, 128, 128),
                pipelined(4, 4, 64, 128, 128),
                specialized(3, 128, 256, 128, stores=1, flatten=0),
            ),
            "sm_100": (
                specialized(6, 128, 128, 128, stores=2, flatten=1),
                pipelined(8, 3, 128, 256, 128),
            ),
        },
    ),
    Tunable(
        kernel="scaled_gemm.descriptor.block",
        configs={
            "sm_90": (
                pipelined(8, 4, 128, 128, 128),
                pipelined(4, 4, 64, 128, 128),
                specialized(4, 128, 128, 128, stores=1, flatten=0),
            ),
            "sm_100": (pipelined(8, 4, 128, 128, 128),),
        },
    ),
)
_CONFIGS = {tunable.kernel: tunable.configs for tunable in TUNABLES}


def _variant(x: torch.Tensor, w: torch.Tensor, x_scale: torch.Tensor, w_scale: torch.Tensor) -> str:
    """Where the scales are, by their shapes; those that fit two variants mean the same in both."""
    (M, K), N = x.shape, w.shape[0]
    groups = cdiv(K, GROUP)
    expected = {
        "tensor": ((1, 1), (1, 1)),
        "row": ((M, 1), (N, 1)),
        "block": ((M, groups), (cdiv(N, GROUP), groups)),
    }
    found = (tuple(x_scale.shape), tuple(w_scale.shape))
    for variant, shapes in expected.items():
        if found == shapes:
            return variant
    raise ValueError(
        f"scaled_gemm: x_scale of shape {found[0]} and w_scale of shape {found[1]} fit no variant; "
        + ", ".join(f"{name} has {one} and {other}" for name, (one, other) in expected.items())
        + "."
    )


def _check(**tensors: torch.Tensor) -> None:
    require_matrices("scaled_gemm", **tensors)
    require_contiguous("scaled_gemm", **tensors)
    x, w = tensors["x"], tensors["w"]
    if x.dtype not in (torch.float8_e4m3fn, torch.int8):
        raise ValueError(f"scaled_gemm: x is {x.dtype}, but must be float8_e4m3fn or int8.")
    types = {"w": x.dtype, "x_scale": torch.float32, "w_scale": torch.float32}
    for name, dtype in types.items():
        if tensors[name].dtype != dtype:
            raise ValueError(f"scaled_gemm: {name} is {tensors[name].dtype}, but must be {dtype}.")
    if x.shape[1] != w.shape[1]:
        raise ValueError(
            f"scaled_gemm: x of shape {tuple(x.shape)} and w of shape {tuple(w.shape)} differ in K."
        )


@torch.library.custom_op("chipscale::scaled_gemm", mutates_args=())
def scaled_gemm(
    x: torch.Tensor, w: torch.Tensor, x_scale: torch.Tensor, w_scale: torch.Tensor
) -> torch.Tensor:
    """y[M,N] in bf16 from 8-bit x[M,K] and w[N,K] and their fp32 scales.

    The shapes of the scales are [1,1] and [1,1], [M,1] and [N,1], or [M,K/128] and [N/128,K/128],
    rounded up.
    """
    _check(x=x, w=w, x_scale=x_scale, w_scale=w_scale)
    variant = _variant(x, w, x_scale, w_scale)
    (M, K), N = x.shape, w.shape[0]
    y = x.new_empty(M, N, dtype=torch.bfloat16)
    suffix = ".block" if variant == "block" else ""
    num_multiprocessors = triton_support.num_multiprocessors(x.device)
    architecture = descriptor_architecture(x.device)
    # Triton multiplies int8 on sm_100 as on sm_80.
    has_products = x.dtype != torch.int8 or architecture == "sm_90"
    sizes = {"M": M, "N": N, "K": K}
    if architecture and has_products and M >= DESCRIPTOR_ROWS and takes_descriptors(x, w, y):
        kernel = "scaled_gemm.descriptor" + suffix
        best = heuristic(_CONFIGS[kernel][architecture], M, N, num_multiprocessors)
        tile = tuning.choose(kernel, x.dtype, best, variant, **sizes)
        num_tiles = cdiv(M, tile["BLOCK_M"]) * cdiv(N, tile["BLOCK_N"])
        triton_support.provide_scratch(x.device)
        scaled_descriptor_kernel[(min(num_tiles, num_multiprocessors),)](
            x, w, x_scale, w_scale, y, M, N, K, VARIANT=variant, GROUP_M=GROUP_ROWS, **tile.launch
        )
        return y
    kernel = "scaled_gemm" + suffix
    family = "hip" if triton_support.is_amd() else "cuda"
    best = heuristic(_CONFIGS[kernel][family], M, N, num_multiprocessors)
    tile = tuning.choose(kernel, x.dtype, best, variant, **sizes)
    scaled_matmul_kernel[(cdiv(M, tile["BLOCK_M"]) * cdiv(N, tile["BLOCK_N"]),)](
        x, w, x_scale, w_scale, y, M, N, K, VARIANT=variant, GROUP_M=GROUP_ROWS, **tile.launch
    )
    return y


@scaled_gemm.register_fake
def _(
    x: torch.Tensor, w: torch.Tensor, x_scale: torch.Tensor, w_scale: torch.Tensor
) -> torch.Tensor:
    del x_scale, w_scale
    return x.new_empty(x.shape[0], w.shape[0], dtype=torch.bfloat16)


# sm_80 has no fp8, gfx942 only of another form.
_FP8_TARGETS = {"cuda": ("sm_90", "sm_100"), "hip": ("gfx950",)}
# What Triton multiplies int8 with on sm_100 is slower than the kernel by pointers.
_INT8_ARCHITECTURES = ("cuda", "cuda_99k", "hip", "sm_90")


def _aot(kernel: str, variant: str, dtype: str, tile: Config, *families: str) -> AotKernel:
    is_descriptor = "descriptor" in kernel
    constexprs: dict[str, object] = {"VARIANT": variant, "GROUP_M": GROUP_ROWS, **dict(tile.blocks)}
    return AotKernel(
        label=f"{kernel} {variant} {dtype} {label(tile)}",
        kernel=scaled_descriptor_kernel if is_descriptor else scaled_matmul_kernel,
        signature={
            "x_ptr": f"*{dtype}:16",
            "w_ptr": f"*{dtype}:16",
            "x_scale_ptr": "*fp32:16",
            "w_scale_ptr": "*fp32:16",
            "y_ptr": "*bf16:16",
            **dict.fromkeys("MNK", "i32:16"),
            **dict.fromkeys(constexprs, "constexpr"),
        },
        constexprs=constexprs,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        tunable=kernel,
        families=families,
    )


def _aot_of(tunable: Tunable) -> list[AotKernel]:
    """Every configuration in both types, the first for one scale a tensor as well."""
    found = []
    for tile, families in tunable.families.items():
        fp8 = [target for name in families for target in _FP8_TARGETS.get(name, (name,))]
        int8 = [name for name in families if name in _INT8_ARCHITECTURES]
        variants = ("row", "tensor") if tile in tunable.first else ("row",)
        if tunable.kernel.endswith(".block"):
            variants = ("block",)
        for dtype, targets in (("fp8e4nv", fp8), ("i8", int8)):
            if targets:
                found += [_aot(tunable.kernel, one, dtype, tile, *targets) for one in variants]
    return found


AOT = tuple(one for tunable in TUNABLES for one in _aot_of(tunable))
