"""The custom ops of attention, the tiles they launch with, and what can be built ahead."""

import math
from typing import Any, NamedTuple

import torch

from kernels import dtypes, triton_support
from kernels.attention.triton_kernels import (
    delta_kernel,
    dkdv_kernel,
    dq_kernel,
    forward_kernel,
)
from kernels.triton_support import (
    AotKernel,
    cdiv,
    next_power_of_2,
    require_contiguous,
    require_dtype,
)


class _Tile(NamedTuple):
    """Queries and keys that one program multiplies at a time, and how."""

    queries: int
    keys: int
    num_warps: int
    num_stages: int


class _Tiles(NamedTuple):
    """Tiles of the three large kernels, for heads padded up to a size."""

    forward: _Tile
    dkdv: _Tile
    dq: _Tile


# The widest head whose accumulators (queries x E in fp32) and operands fit a multiprocessor.
MAX_HEAD = 256

# By padded head size. 16 bits: a program keeps its queries and the fp32 accumulator in registers,
# keys and values pass through shared memory, num_stages of them at once. The tiles of dk and dv are
# the largest that ptxas compiles for sm_90 without spilling (64 x 128 spills 120 bytes a thread).
_TILES_16_BIT = {
    64: _Tiles(_Tile(128, 128, 8, 3), _Tile(64, 128, 8, 2), _Tile(128, 64, 8, 2)),
    128: _Tiles(_Tile(128, 64, 8, 3), _Tile(32, 128, 8, 2), _Tile(128, 64, 8, 2)),
    256: _Tiles(_Tile(64, 64, 8, 2), _Tile(64, 32, 8, 1), _Tile(64, 32, 8, 2)),
}
# Of these, only heads of 256 take more than the 99 KiB that a block may use on sm_86, sm_89 and
# sm_120: up to 128 KiB on sm_80 and 160 KiB on sm_90.
_TILES_16_BIT_99K = _TILES_16_BIT | {
    256: _Tiles(_Tile(64, 32, 8, 2), _Tile(32, 32, 8, 1), _Tile(64, 32, 8, 1)),
}
_LEAST_SHARED_BYTES = 160 * 1024
# AMD has 64 KiB of LDS per workgroup on gfx942, and its pipeline of 2 stages keeps one copy there.
_TILES_16_BIT_AMD = {
    64: _Tiles(_Tile(128, 64, 4, 2), _Tile(32, 128, 4, 1), _Tile(128, 32, 4, 1)),
    128: _Tiles(_Tile(128, 64, 4, 1), _Tile(32, 64, 4, 1), _Tile(64, 32, 4, 1)),
    256: _Tiles(_Tile(64, 32, 4, 1), _Tile(16, 32, 4, 1), _Tile(32, 16, 4, 1)),
}
# fp32 is multiplied without tensor cores on NVIDIA and passes entirely through registers.
_TILES_32_BIT = {
    64: _Tiles(_Tile(32, 32, 4, 1), _Tile(32, 32, 4, 1), _Tile(32, 32, 4, 1)),
    128: _Tiles(_Tile(32, 32, 8, 1), _Tile(16, 32, 8, 1), _Tile(32, 16, 8, 1)),
    256: _Tiles(_Tile(16, 16, 8, 1), _Tile(16, 16, 8, 1), _Tile(16, 16, 8, 1)),
}

# The least number of rows of a tensor-core product.
_MIN_ROWS = 16

# Rows of the pre-pass of the backward mode, which only reads: of 128 16-bit values each, they are
# eight 16-byte loads for each of 128 threads.
_DELTA_ROWS = 64

_LOG2_E = math.log2(math.e)


def _tiles(head_size: int, dtype: torch.dtype, is_amd: bool, shared_bytes: int) -> _Tiles:
    """The tiles for a padded head size, where a block may use that much shared memory."""
    table = _TILES_16_BIT if shared_bytes >= _LEAST_SHARED_BYTES else _TILES_16_BIT_99K
    if is_amd:
        table = _TILES_16_BIT_AMD
    if dtype == torch.float32:
        table = _TILES_32_BIT
    return next(tiles for largest, tiles in table.items() if head_size <= largest)


def _tiles_on(device: torch.device, head_size: int, dtype: torch.dtype) -> _Tiles:
    shared_bytes = triton_support.shared_memory_bytes(device)
    return _tiles(head_size, dtype, triton_support.is_amd(), shared_bytes)


def padded(head_size: int) -> int:
    """The power of two that a head is padded to, and at least a tensor core's least size."""
    return max(next_power_of_2(head_size), _MIN_ROWS)


def _check(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **others: torch.Tensor
) -> tuple[int, int, int, int, int, int, int]:
    """The sizes (B, Q, S, H, G, D, E) of operands that fit together."""
    require_contiguous("attention", q=q, k=k, v=v, **others)
    require_dtype("attention", q.dtype, k=k, v=v)
    B, H, Q, D = q.shape
    _, G, S, E = v.shape
    if k.shape != (B, G, S, D) or v.shape[0] != B or H % G or Q > S:
        raise ValueError(
            "attention: q[B,H,Q,D], k[B,G,S,D] and v[B,G,S,E] with H a multiple of G and Q <= S "
            f"are expected, not {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}."
        )
    return B, Q, S, H, G, D, E


@torch.library.custom_op("chipscale::attention", mutates_args=())
def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out[B,H,Q,E], lse[B,H,Q] in fp32); only out has a gradient."""
    B, Q, S, H, G, D, E = _check(q, k, v)
    out = q.new_empty(B, H, Q, E)
    lse = q.new_empty(B, H, Q, dtype=torch.float32)
    block_d, block_e = padded(D), padded(E)
    tile = _tiles_on(q.device, max(block_d, block_e), q.dtype).forward
    # A decode step has one query per head. Those of a group read the same keys, so they become
    # the rows of one product instead of one row each of as many.
    is_packed = Q < _MIN_ROWS
    heads, num_rows = (G, H // G * Q) if is_packed else (H, Q)
    block_m = min(tile.queries, padded(num_rows))
    forward_kernel[(B * heads, cdiv(num_rows, block_m))](
        q, k, v, out, lse, num_rows, Q, S, heads // G, D**-0.5 * _LOG2_E,
        D=D, E=E, BLOCK_M=block_m, BLOCK_N=tile.keys, BLOCK_D=block_d, BLOCK_E=block_e,
        PACKED=is_packed, num_warps=tile.num_warps if block_m == tile.queries else 4,
        num_stages=tile.num_stages,
    )  # fmt: skip
    return out, lse


@attention.register_fake
def _(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    del k
    B, H, Q, _ = q.shape
    return q.new_empty(B, H, Q, v.shape[3]), q.new_empty(B, H, Q, dtype=torch.float32)


@torch.library.custom_op("chipscale::attention_backward", mutates_args=())
def attention_backward(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dq, dk, dv) from dout, the operands, and out and lse of the forward pass."""
    B, Q, S, H, G, D, E = _check(q, k, v, dout=dout, out=out, lse=lse)
    require_dtype("attention", q.dtype, dout=dout, out=out)
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    delta = torch.empty_like(lse)
    block_d, block_e = padded(D), padded(E)
    tiles = _tiles_on(q.device, max(block_d, block_e), q.dtype)
    scale = D**-0.5
    num_rows = B * H * Q
    delta_kernel[(cdiv(num_rows, _DELTA_ROWS),)](
        dout, out, delta, num_rows, E=E, BLOCK_M=_DELTA_ROWS, BLOCK_E=block_e, num_warps=4
    )
    tile = tiles.dkdv
    dkdv_kernel[(B * G, cdiv(S, tile.keys))](
        q, k, v, dout, lse, delta, dk, dv, Q, S, H // G, scale, scale * _LOG2_E,
        D=D, E=E, BLOCK_M=tile.queries, BLOCK_N=tile.keys, BLOCK_D=block_d, BLOCK_E=block_e,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    tile = tiles.dq
    dq_kernel[(B * H, cdiv(Q, tile.queries))](
        q, k, v, dout, lse, delta, dq, Q, S, H // G, scale, scale * _LOG2_E,
        D=D, E=E, BLOCK_M=tile.queries, BLOCK_N=tile.keys, BLOCK_D=block_d, BLOCK_E=block_e,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return dq, dk, dv


@attention_backward.register_fake
def _(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    del dout, out, lse
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _save(
    ctx: Any,
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    output: tuple[torch.Tensor, torch.Tensor],
) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs, *output)


def _backward(
    ctx: Any, dout: torch.Tensor, dlse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    del dlse
    dq, dk, dv = attention_backward(dout.contiguous(), *ctx.saved_tensors)
    return dq, dk, dv


attention.register_autograd(_backward, setup_context=_save)


def _aot(dtype: str, D: int, E: int, *families: str) -> tuple[AotKernel, ...]:
    torch_dtype = dtypes.torch_dtype(dtype)
    block_d, block_e = padded(D), padded(E)
    shared_bytes = 99 * 1024 if families == ("cuda_99k",) else _LEAST_SHARED_BYTES
    tiles = _tiles(max(block_d, block_e), torch_dtype, families == ("hip",), shared_bytes)
    pointer = f"*{dtype}:16"
    sizes = {"D": D, "E": E, "BLOCK_D": block_d, "BLOCK_E": block_e}
    constexpr = dict.fromkeys(("D", "E", "BLOCK_M", "BLOCK_N", "BLOCK_D", "BLOCK_E"), "constexpr")
    backward = {
        "q_ptr": pointer,
        "k_ptr": pointer,
        "v_ptr": pointer,
        "dout_ptr": pointer,
        "lse_ptr": "*fp32:16",
        "delta_ptr": "*fp32:16",
    }
    scalars = {"Q": "i32:16", "S": "i32:16", "heads_per_group": "i32", "scale": "fp32"}
    scalars["scale_log2"] = "fp32"

    def describe(
        label: str, kernel: object, tile: _Tile, signature: dict[str, str], **more: object
    ) -> AotKernel:
        return AotKernel(
            label=f"attention {label} {dtype} D={D} E={E}",
            kernel=kernel,
            signature={**signature, **constexpr, **dict.fromkeys(more, "constexpr")},
            constexprs={**sizes, "BLOCK_M": tile.queries, "BLOCK_N": tile.keys, **more},
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
            families=families,
        )

    forward = {
        "q_ptr": pointer,
        "k_ptr": pointer,
        "v_ptr": pointer,
        "out_ptr": pointer,
        "lse_ptr": "*fp32:16",
        "num_rows": "i32:16",
        "Q": "i32:16",
        "S": "i32:16",
        "heads_per_group": "i32",
        "scale_log2": "fp32",
    }
    decode = _Tile(_MIN_ROWS, tiles.forward.keys, 4, tiles.forward.num_stages)
    return (
        describe("forward", forward_kernel, tiles.forward, forward, PACKED=False),
        describe("decode", forward_kernel, decode, forward, PACKED=True),
        describe(
            "dkdv",
            dkdv_kernel,
            tiles.dkdv,
            {**backward, "dk_ptr": pointer, "dv_ptr": pointer, **scalars},
        ),
        describe("dq", dq_kernel, tiles.dq, {**backward, "dq_ptr": pointer, **scalars}),
    )


AOT = (
    AotKernel(
        label="attention delta bf16 E=128",
        kernel=delta_kernel,
        signature={
            "dout_ptr": "*bf16:16",
            "out_ptr": "*bf16:16",
            "delta_ptr": "*fp32:16",
            "num_rows": "i64:16",
            "E": "constexpr",
            "BLOCK_M": "constexpr",
            "BLOCK_E": "constexpr",
        },
        constexprs={"E": 128, "BLOCK_M": _DELTA_ROWS, "BLOCK_E": 128},
        num_warps=4,
        num_stages=3,
    ),
    *_aot("bf16", 128, 128, "cuda", "cuda_99k"),
    *_aot("bf16", 128, 128, "hip"),
    *_aot("bf16", 192, 128, "cuda"),
    *_aot("bf16", 192, 128, "cuda_99k"),
    *_aot("bf16", 192, 128, "hip"),
    *_aot("bf16", 256, 256, "cuda"),
    *_aot("bf16", 256, 256, "cuda_99k"),
    *_aot("bf16", 256, 256, "hip"),
    *_aot("fp16", 64, 64, "cuda", "cuda_99k"),
    *_aot("fp16", 64, 64, "hip"),
    *_aot("fp32", 128, 128, "cuda", "cuda_99k", "hip"),
)
