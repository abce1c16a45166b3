"""The custom ops of attention, and the launches that the other ops of its kernels share."""

import inspect
import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from kernels import dtypes, tuning
from kernels.attention.tiles import (
    MIN_ROWS,
    TILES,
    Tiles,
    family_of,
    more_of,
    padded,
    tiles_of,
    tunables,
)
from kernels.attention.triton_kernels import (
    delta_kernel,
    dkdv_kernel,
    dq_kernel,
    forward_kernel,
)
from kernels.triton_support import AotKernel, cdiv, require_contiguous, require_dtype
from kernels.tuning import Config, config

# Rows of the pre-pass of the backward mode, which only reads: of 128 16-bit values each, they are
# eight 16-byte loads for each of 128 threads.
_DELTA_ROWS = 64

_LOG2_E = math.log2(math.e)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a launch needs to know of its tensors."""

    op: str
    B: int
    Q: int
    """Queries of a sequence; of the longest where sequences are packed."""
    S: int
    H: int
    G: int
    D: int
    E: int
    is_causal: bool = True
    window: int = 0
    """Keys that a query sees, or 0 for no limit."""
    cu_seqlens: torch.Tensor | None = None
    """Where packed sequences begin and end, [B+1]; tensors are then [T,H,D] and lse is [H,T]."""
    num_tokens: int = 0
    """T of packed sequences."""

    @property
    def switches(self) -> dict[str, object]:
        """The constexpr arguments that all kernels have."""
        is_packed = self.cu_seqlens is not None
        return {
            "HEADS": self.H if is_packed else 1,
            "GROUPS": self.G if is_packed else 1,
            "CAUSAL": self.is_causal,
            "WINDOWED": self.window > 0,
            "VARLEN": is_packed,
        }

    @property
    def lengths(self) -> tuple[int, int]:
        """Arguments Q and S of the kernels."""
        if self.cu_seqlens is None:
            return self.Q, self.S
        return self.num_tokens, self.num_tokens

    def tiles(self, q: torch.Tensor) -> Tiles:
        """The usual tiles on the device of q."""
        head = padded(max(self.D, self.E))
        return tiles_of(self.op, family_of(q.device), head, q.dtype)

    def choose(
        self, part: str, dtype: torch.dtype, tile: Config, num_heads: int, num_rows: int
    ) -> Config:
        """The tile to launch a kernel with, for so many heads with so many rows of queries each."""
        # A head of another padded size needs other tiles, and another mask is another program.
        visible = "causal" if self.is_causal else "full"
        head = padded(max(self.D, self.E))
        sizes = {"ROWS": num_rows, "S": self.S, "HEADS": num_heads}
        if self.window:
            sizes["W"] = self.window
        return tuning.choose(f"{self.op}.{part}", dtype, tile, f"{visible} {head}", **sizes)


def launch_forward(
    sizes: Sizes, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, lse) of operands that were checked."""
    B, H, G, D, E = sizes.B, sizes.H, sizes.G, sizes.D, sizes.E
    out = q.new_empty(*q.shape[:-1], E)
    is_varlen = sizes.cu_seqlens is not None
    lse_shape = (H, sizes.num_tokens) if is_varlen else q.shape[:-1]
    lse = q.new_empty(lse_shape, dtype=torch.float32)
    block_d, block_e = padded(D), padded(E)
    # A decode step has one query per head. Those of a group read the same keys, so they become
    # the rows of one product instead of one row each of as many.
    is_packed = sizes.Q < MIN_ROWS and not is_varlen
    heads, num_rows = (G, H // G * sizes.Q) if is_packed else (H, sizes.Q)
    usual = sizes.tiles(q).forward
    if padded(num_rows) < usual["BLOCK_M"]:
        usual = config(4, usual.num_stages, BLOCK_M=padded(num_rows), BLOCK_N=usual["BLOCK_N"])
    tile = sizes.choose("forward", q.dtype, usual, B * heads, num_rows)
    forward_kernel[(B * heads, cdiv(num_rows, tile["BLOCK_M"]))](
        q, k, v, out, lse, sizes.cu_seqlens, num_rows, *sizes.lengths, heads // G, sizes.window,
        D**-0.5 * _LOG2_E,
        D=D, E=E, BLOCK_D=block_d, BLOCK_E=block_e, PACKED=is_packed, **sizes.switches,
        **tile.launch,
    )  # fmt: skip
    return out, lse


def launch_backward(
    sizes: Sizes,
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dq, dk, dv) of operands that were checked."""
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    delta = torch.empty_like(lse)
    D, E, heads_per_group = sizes.D, sizes.E, sizes.H // sizes.G
    blocks = {"D": D, "E": E, "BLOCK_D": padded(D), "BLOCK_E": padded(E)}
    tiles = sizes.tiles(q)
    scale = D**-0.5
    num_rows = lse.numel()
    delta_kernel[(cdiv(num_rows, _DELTA_ROWS),)](
        dout, out, delta, num_rows, sizes.num_tokens, E=E, HEADS=sizes.switches["HEADS"],
        BLOCK_M=_DELTA_ROWS, BLOCK_E=padded(E), num_warps=4,
    )  # fmt: skip
    tile = sizes.choose("dkdv", q.dtype, tiles.dkdv, sizes.B * sizes.H, sizes.Q)
    dkdv_kernel[(sizes.B * sizes.G, cdiv(sizes.S, tile["BLOCK_N"]))](
        q, k, v, dout, lse, delta, dk, dv, sizes.cu_seqlens, *sizes.lengths, heads_per_group,
        sizes.window, scale, scale * _LOG2_E, **blocks, **sizes.switches, **tile.launch,
    )  # fmt: skip
    tile = sizes.choose("dq", q.dtype, tiles.dq, sizes.B * sizes.H, sizes.Q)
    dq_kernel[(sizes.B * sizes.H, cdiv(sizes.Q, tile["BLOCK_M"]))](
        q, k, v, dout, lse, delta, dq, sizes.cu_seqlens, *sizes.lengths, heads_per_group,
        sizes.window, scale, scale * _LOG2_E, **blocks, **sizes.switches, **tile.launch,
    )  # fmt: skip
    return dq, dk, dv


def check(
    op: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **others: torch.Tensor
) -> Sizes:
    """The sizes of operands [B,heads,length,size] that fit together, causal and without window."""
    require_contiguous(op, q=q, k=k, v=v, **others)
    require_dtype(op, q.dtype, k=k, v=v)
    B, H, Q, D = q.shape
    _, G, S, E = v.shape
    if k.shape != (B, G, S, D) or v.shape[0] != B or H % G or Q > S:
        raise ValueError(
            f"{op}: q[B,H,Q,D], k[B,G,S,D] and v[B,G,S,E] with H a multiple of G and Q <= S "
            f"are expected, not {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}."
        )
    return Sizes(op=op, B=B, Q=Q, S=S, H=H, G=G, D=D, E=E)


def _sizes(
    is_causal: bool, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **others: torch.Tensor
) -> Sizes:
    return replace(check("attention", q, k, v, **others), is_causal=is_causal)


@torch.library.custom_op("chipscale::attention", mutates_args=())
def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out[B,H,Q,E], lse[B,H,Q] in fp32); only out has a gradient."""
    return launch_forward(_sizes(is_causal, q, k, v), q, k, v)


@attention.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    del k, is_causal
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
    is_causal: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dq, dk, dv) from dout, the operands, and out and lse of the forward pass."""
    require_dtype("attention", q.dtype, dout=dout, out=out)
    sizes = _sizes(is_causal, q, k, v, dout=dout, out=out, lse=lse)
    return launch_backward(sizes, dout, q, k, v, out, lse)


@attention_backward.register_fake
def _(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    is_causal: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    del dout, out, lse, is_causal
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _save(
    ctx: Any,
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool],
    output: tuple[torch.Tensor, torch.Tensor],
) -> None:
    *operands, ctx.is_causal = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*operands, *output)


def _backward(
    ctx: Any, dout: torch.Tensor, dlse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
    del dlse
    dq, dk, dv = attention_backward(dout.contiguous(), *ctx.saved_tensors, ctx.is_causal)
    return dq, dk, dv, None


attention.register_autograd(_backward, setup_context=_save)


_TENSORS = {
    "forward": ("q_ptr", "k_ptr", "v_ptr", "out_ptr"),
    "dkdv": ("q_ptr", "k_ptr", "v_ptr", "dout_ptr", "dk_ptr", "dv_ptr"),
    "dq": ("q_ptr", "k_ptr", "v_ptr", "dout_ptr", "dq_ptr"),
}


def described(
    part: str, sizes: Sizes, dtype: str, tile: Config, *families: str, tunable: str = ""
) -> AotKernel:
    """One of `forward`, `decode`, `dkdv` and `dq`; of `sizes` the head, switches and op count."""
    base = "forward" if part == "decode" else part
    kernel = {"forward": forward_kernel, "dkdv": dkdv_kernel, "dq": dq_kernel}[base]
    constexprs: dict[str, object] = {
        "D": sizes.D, "E": sizes.E, "BLOCK_D": padded(sizes.D), "BLOCK_E": padded(sizes.E),
        **dict(tile.blocks), **sizes.switches,
    }  # fmt: skip
    if base == "forward":
        constexprs["PACKED"] = part == "decode"
    pointers: dict[str, str] = dict.fromkeys(_TENSORS[base], f"*{dtype}:16")
    statistics = ("lse_ptr",) if base == "forward" else ("lse_ptr", "delta_ptr")
    types = pointers | dict.fromkeys(statistics, "*fp32:16")
    types |= {"cu_ptr": "*i32:16", "num_rows": "i32:16", "Q": "i32:16", "S": "i32:16"}
    types |= {"heads_per_group": "i32", "window": "i32:16", "scale": "fp32", "scale_log2": "fp32"}
    if sizes.cu_seqlens is None:
        constexprs["cu_ptr"] = None
    if not sizes.window:
        types["window"] = "i32"
    names = inspect.signature(getattr(kernel, "fn", kernel)).parameters
    return AotKernel(
        label=f"{sizes.op} {part} {dtype} D={sizes.D} E={sizes.E} {tile}"
        + ("" if sizes.is_causal else " full"),
        kernel=kernel,
        signature={name: "constexpr" if name in constexprs else types[name] for name in names},
        constexprs=constexprs,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        tunable=tunable,
        families=families,
    )


def described_all(sizes: Sizes, dtype: str) -> tuple[AotKernel, ...]:
    """All kernels of an op with the tiles that a head has by default on each family."""
    head = padded(max(sizes.D, sizes.E))
    descriptions = []
    for family in TILES:
        tiles = tiles_of(sizes.op, family, head, dtypes.torch_dtype(dtype))
        for part, tile in tiles._asdict().items():
            tunable = f"{sizes.op}.{part}" if dtype != "fp32" else ""
            descriptions.append(described(part, sizes, dtype, tile, family, tunable=tunable))
    return tuple(descriptions)


def _described_search(sizes: Sizes, dtype: str) -> tuple[AotKernel, ...]:
    # The tiles of a search that are no head's default, with heads of `sizes`.
    return tuple(
        described(part, sizes, dtype, tile, family, tunable=f"{sizes.op}.{part}")
        for family in TILES
        for part in Tiles._fields
        for tile in more_of(sizes.op, family, part)
    )


def _decode(sizes: Sizes, dtype: str, family: str) -> AotKernel:
    tiles = tiles_of(sizes.op, family, padded(sizes.D), dtypes.torch_dtype(dtype)).forward
    tile = config(4, tiles.num_stages, BLOCK_M=MIN_ROWS, BLOCK_N=tiles["BLOCK_N"])
    return described("decode", sizes, dtype, tile, family)


def described_delta(sizes: Sizes) -> AotKernel:
    """The pre-pass of the backward mode, for every family."""
    constexprs = {
        "E": sizes.E,
        "HEADS": sizes.switches["HEADS"],
        "BLOCK_M": _DELTA_ROWS,
        "BLOCK_E": padded(sizes.E),
    }
    return AotKernel(
        label=f"{sizes.op} delta bf16 E={sizes.E}",
        kernel=delta_kernel,
        signature={
            "dout_ptr": "*bf16:16",
            "out_ptr": "*bf16:16",
            "delta_ptr": "*fp32:16",
            "num_rows": "i64:16",
            "num_tokens": "i32:16",
            **dict.fromkeys(constexprs, "constexpr"),
        },
        constexprs=constexprs,
        num_warps=4,
        num_stages=3,
    )


def heads_of(op: str, D: int, E: int) -> Sizes:
    """An op with heads of that size, to describe its kernels by; other sizes are arguments."""
    return Sizes(op=op, B=1, Q=1, S=1, H=1, G=1, D=D, E=E)


_HEADS = {
    (D, E): heads_of("attention", D, E) for D, E in ((64, 64), (128, 128), (192, 128), (256, 256))
}

AOT = (
    described_delta(_HEADS[128, 128]),
    *described_all(_HEADS[64, 64], "bf16"),
    *described_all(_HEADS[128, 128], "bf16"),
    *described_all(_HEADS[256, 256], "bf16"),
    *described_all(_HEADS[192, 128], "bf16"),
    *described_all(replace(_HEADS[128, 128], is_causal=False), "bf16"),
    *described_all(_HEADS[64, 64], "fp16"),
    *described_all(_HEADS[128, 128], "fp32"),
    *(_decode(_HEADS[D, D], "bf16", family) for D in (128, 256) for family in TILES),
    *_described_search(_HEADS[128, 128], "bf16"),
)

TUNABLES = tunables("attention")
