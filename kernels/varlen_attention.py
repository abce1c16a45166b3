"""Causal attention of packed sequences of different lengths.

Shape letters: T tokens of all sequences, B sequences, H query heads, G key/value heads (H is a
multiple of G), D query/key head size, E value head size.
    out[T,H,E] = softmax(q[T,H,D] @ k[T,G,D]^T / sqrt(D), over visible keys) @ v[T,G,E]
Sequence b is the tokens cu_seqlens[b] to cu_seqlens[b + 1] (int32, B + 1 of them); a token sees
itself and the earlier ones of its sequence. Head h reads key/value head h // (H / G).
Variant `even`: every sequence has T // B tokens, the first T % B of them one more. Variant
`skewed`: lengths fall as 1, 1/2, 1/3 ... 1/B of the first, rounded down, and what is left of T goes
to the first. Only the order of the lengths is drawn, so that the work is known.
Counted: 2 (D + E) FLOPs for each visible pair of query and key, of which each of the H heads has
the sum of n (n + 1) / 2 over the lengths n; softmax is not counted. The backward pass counts twice
that. Bytes: q, k, v, cu_seqlens (and dout) read, out (or dq, dk, dv) written.
Implementations `torch` and `compile` on a GPU are torch.nn.attention.varlen.varlen_attn, one
FlashAttention over all sequences, where D = E is a multiple of 8 up to 256, the type has 16 bits
and torch's release takes `window_size` (and `enable_gqa` if H > G). Elsewhere they are a loop of
scaled_dot_product_attention over the sequences. Nested tensors are neither: torch 2.13 refuses
causal ones without a fused kernel, and those of which a sequence is empty.
Source: Dao 2023, "FlashAttention-2", https://arxiv.org/abs/2307.08691, whose packed form this is;
packing without attention across sequences: Krell et al. 2021, https://arxiv.org/abs/2107.02027.
"""

import inspect
import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from kernels import attention, dtypes
from kernels.attention.custom_ops import (
    Sizes,
    described_all,
    described_delta,
    heads_of,
    launch_backward,
    launch_forward,
)
from kernels.attention.tiles import tunables
from kernels.attention.triton_kernels import (
    delta_kernel,
    dkdv_kernel,
    dq_kernel,
    forward_kernel,
)
from kernels.compiled import Eager, compile_unsupported, prepare_compiled, prepare_eager
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run, Tolerance, problem
from kernels.triton_support import require_contiguous, require_dtype

__all__ = ["AOT", "OP", "TUNABLES", "delta_kernel", "dkdv_kernel", "dq_kernel", "forward_kernel"]

# Inside a sequence the kernels count elements in 32 bits.
_MAX_ELEMENTS = 2**31

# Of the FlashAttention in torch.
_WIDEST_FLASH_HEAD = 256


def lengths(T: int, B: int, variant: str) -> list[int]:
    """The lengths of the sequences, longest first."""
    if variant == "even":
        return [T // B + (b < T % B) for b in range(B)]
    total = sum(1 / (b + 1) for b in range(B))
    found = [int(T / (b + 1) / total) for b in range(B)]
    found[0] += T - sum(found)
    return found


def _lengths(problem: Problem) -> list[int]:
    return lengths(problem["T"], problem["B"], problem.variant)


def _sizes(
    cu_seqlens: torch.Tensor,
    max_length: int,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    **others: torch.Tensor,
) -> Sizes:
    require_contiguous("varlen_attention", q=q, k=k, v=v, cu_seqlens=cu_seqlens, **others)
    require_dtype("varlen_attention", q.dtype, k=k, v=v)
    T, H, D = q.shape
    _, G, E = v.shape
    if k.shape != (T, G, D) or v.shape[0] != T or H % G:
        raise ValueError(
            "varlen_attention: q[T,H,D], k[T,G,D] and v[T,G,E] with H a multiple of G are "
            f"expected, not {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}."
        )
    if cu_seqlens.dtype != torch.int32 or cu_seqlens.ndim != 1 or len(cu_seqlens) < 2:
        raise ValueError(
            "varlen_attention: cu_seqlens[B+1] in int32 is expected, not "
            f"{tuple(cu_seqlens.shape)} in {cu_seqlens.dtype}."
        )
    if not 1 <= max_length <= T or max_length * H * max(D, E) >= _MAX_ELEMENTS:
        raise ValueError(
            f"varlen_attention: the longest of the sequences has {max_length} tokens, but must "
            f"have 1 to T = {T}, and fewer than 2^31 elements in H = {H} heads."
        )
    return Sizes(
        op="varlen_attention", B=len(cu_seqlens) - 1, Q=max_length, S=max_length, H=H, G=G, D=D,
        E=E, cu_seqlens=cu_seqlens, num_tokens=T,
    )  # fmt: skip


@torch.library.custom_op("chipscale::varlen_attention", mutates_args=())
def varlen_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, max_length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out[T,H,E], lse[H,T] in fp32); only out has a gradient. No sequence is over max_length."""
    return launch_forward(_sizes(cu_seqlens, max_length, q, k, v), q, k, v)


@varlen_attention.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, max_length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    del k, cu_seqlens, max_length
    T, H, _ = q.shape
    return q.new_empty(T, H, v.shape[2]), q.new_empty(H, T, dtype=torch.float32)


@torch.library.custom_op("chipscale::varlen_attention_backward", mutates_args=())
def varlen_attention_backward(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_length: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dq, dk, dv) from dout, the operands, and out and lse of the forward pass."""
    require_dtype("varlen_attention", q.dtype, dout=dout, out=out)
    sizes = _sizes(cu_seqlens, max_length, q, k, v, dout=dout, out=out, lse=lse)
    return launch_backward(sizes, dout, q, k, v, out, lse)


@varlen_attention_backward.register_fake
def _(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_length: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    del dout, out, lse, cu_seqlens, max_length
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _save(
    ctx: Any,
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int],
    output: tuple[torch.Tensor, torch.Tensor],
) -> None:
    q, k, v, cu_seqlens, ctx.max_length = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(q, k, v, *output, cu_seqlens)


def _backward(
    ctx: Any, dout: torch.Tensor, dlse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
    del dlse
    gradients = varlen_attention_backward(dout.contiguous(), *ctx.saved_tensors, ctx.max_length)
    return *gradients, None, None


varlen_attention.register_autograd(_backward, setup_context=_save)


def _dense(
    case: Problem, inputs: Inputs
) -> Iterator[tuple[slice, Problem, dict[str, torch.Tensor]]]:
    """Each sequence as a problem of `attention` of its own, with its tokens."""
    heads = {axis: case[axis] for axis in "HGDE"}
    bounds = inputs["cu_seqlens"].tolist()
    for start, end in itertools.pairwise(bounds):
        n = end - start
        tokens = slice(start, end)
        dense = {
            name: tensor[tokens].transpose(0, 1)[None]
            for name, tensor in inputs.items()
            if name != "cu_seqlens"
        }
        one = problem("attention", case.dtype, case.mode, "causal", B=1, Q=n, S=n, **heads)
        yield tokens, one, dense


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """(out,) or (dq, dk, dv), one sequence and head at a time."""
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    if problem.mode == Mode.FORWARD:
        outputs: Outputs = (q.new_empty(*q.shape[:2], v.shape[2]),)
    else:
        outputs = (torch.empty_like(q), torch.empty_like(k), torch.empty_like(v))
    for tokens, one, dense in _dense(problem, inputs):
        for output, found in zip(outputs, attention.reference(one, dense), strict=True):
            output[tokens] = found[0].transpose(0, 1)
    return outputs


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    T, B, H, G, D, E = (problem[axis] for axis in OP.axes)
    size = dtypes.size_bytes(problem.dtype)
    flops = 2 * (D + E) * H * sum(n * (n + 1) // 2 for n in _lengths(problem))
    operands_bytes = T * (H * D + G * (D + E)) * size
    out_bytes = T * H * E * size
    offsets_bytes = (B + 1) * dtypes.size_bytes("int32")
    if problem.mode == Mode.FORWARD:
        return Cost(flops=flops, bytes_read=operands_bytes + offsets_bytes, bytes_written=out_bytes)
    return Cost(
        flops=2 * flops,
        bytes_read=operands_bytes + out_bytes + offsets_bytes,
        bytes_written=operands_bytes,
    )


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """q, k, v and for the backward mode dout, standard normal; cu_seqlens in a drawn order."""
    T, B, H, G, D, E = (problem[axis] for axis in OP.axes)
    shapes = {"q": (T, H, D), "k": (T, G, D), "v": (T, G, E)}
    if problem.mode == Mode.BACKWARD:
        shapes["dout"] = (T, H, E)
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device
    inputs = {
        name: torch.randn(shape, generator=generator, device=device, dtype=dtype)
        for name, shape in shapes.items()
    }
    order = torch.randperm(B, generator=generator, device=device)
    cu_seqlens = torch.zeros(B + 1, dtype=torch.int32, device=device)
    cu_seqlens[1:] = torch.tensor(_lengths(problem), device=device)[order].cumsum(0)
    return inputs | {"cu_seqlens": cu_seqlens}


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """That of `attention` for the longest sequence."""
    longest = max(_lengths(problem))
    return attention.tolerances(problem, longest, longest)


@cache
def _varlen_attn_options() -> frozenset[str]:
    # `window_size` says what is causal from torch 2.11 on, `enable_gqa` came after it.
    return frozenset(inspect.signature(varlen_attn).parameters)


def _uses_varlen_attn(problem: Problem, device: torch.device) -> bool:
    """Whether the problem is one for torch's packed attention, as the head of this file tells."""
    needed = {"window_size"} | ({"enable_gqa"} if problem["H"] != problem["G"] else set())
    D = problem["D"]
    return (
        device.type == "cuda"
        and problem.dtype != "fp32"
        and problem["E"] == D
        and D % 8 == 0
        and D <= _WIDEST_FLASH_HEAD
        and needed <= _varlen_attn_options()
    )


def _packed(problem: Problem, inputs: Inputs) -> Eager:
    cu_seqlens, longest = inputs["cu_seqlens"], max(_lengths(problem))
    # Nothing to the left is hidden, everything to the right is.
    options: dict[str, Any] = {"window_size": (-1, 0)}
    if problem["H"] != problem["G"]:
        options["enable_gqa"] = True

    def eager(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = varlen_attn(q, k, v, cu_seqlens, cu_seqlens, longest, longest, **options)
        assert isinstance(out, torch.Tensor)
        return out

    return eager


def _looped(problem: Problem, inputs: Inputs) -> Eager:
    sizes = inputs["cu_seqlens"].diff().tolist()
    is_grouped = problem["H"] != problem["G"]

    def eager(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        # [tokens, heads, size] as [heads, tokens, size], a view.
        sequences = zip(
            *(tensor.transpose(0, 1).split(sizes, dim=1) for tensor in (q, k, v)), strict=True
        )
        outs = [
            scaled_dot_product_attention(
                one_q[None], one_k[None], one_v[None], is_causal=True, enable_gqa=is_grouped
            )[0].transpose(0, 1)
            for one_q, one_k, one_v in sequences
            if one_q.shape[1]
        ]
        return torch.cat(outs)

    return eager


def _prepare(problem: Problem, inputs: Inputs, *, is_compiled: bool) -> Run:
    # A library in the same process may have allowed tf32, and fp32 here means fp32.
    torch.set_float32_matmul_precision("highest")
    is_packed = _uses_varlen_attn(problem, inputs["q"].device)
    eager = (_packed if is_packed else _looped)(problem, inputs)
    prepare = prepare_compiled if is_compiled else prepare_eager
    gradient = inputs["dout"] if problem.mode == Mode.BACKWARD else None
    return prepare(eager, (inputs["q"], inputs["k"], inputs["v"]), gradient)


def _prepare_torch(problem: Problem, inputs: Inputs) -> Run:
    return _prepare(problem, inputs, is_compiled=False)


def _prepare_compile(problem: Problem, inputs: Inputs) -> Run:
    return _prepare(problem, inputs, is_compiled=True)


@cache
def _varlen_attn_fails(
    device: torch.device, dtype: str, mode: Mode, D: int, group_size: int
) -> str | None:
    """How varlen_attn fails on a small problem with heads of that kind, or None."""
    sizes = {"T": 200, "B": 3, "H": group_size, "G": 1, "D": D, "E": D}
    small = problem("varlen_attention", dtype, mode, "even", **sizes)
    try:
        _prepare_torch(small, OP.make_inputs(small, torch.Generator(device).manual_seed(0)))()
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise  # Nothing of the operator, but of the device.
    except Exception as error:  # a library may raise anything; it becomes the reason
        first_line = next(iter(str(error).strip().splitlines()), "no message")
        return f"varlen_attn fails on this device: {type(error).__name__}: {first_line}."
    return None


def _torch_unsupported(problem: Problem, device: torch.device) -> str | None:
    if not _uses_varlen_attn(problem, device):
        return None
    group_size = problem["H"] // problem["G"]
    return _varlen_attn_fails(device, problem.dtype, problem.mode, problem["D"], group_size)


def _compile_unsupported(problem: Problem, device: torch.device) -> str | None:
    return compile_unsupported(problem, device) or _torch_unsupported(problem, device)


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    q, k, v, cu_seqlens = (inputs[name] for name in ("q", "k", "v", "cu_seqlens"))
    longest = max(_lengths(problem))
    if problem.mode == Mode.FORWARD:
        return lambda: (varlen_attention(q, k, v, cu_seqlens, longest)[0],)
    dout = inputs["dout"]
    out, lse = varlen_attention(q, k, v, cu_seqlens, longest)
    return lambda: varlen_attention_backward(dout, q, k, v, out, lse, cu_seqlens, longest)


def _unsupported(problem: Problem, device: torch.device) -> str | None:
    longest = max(_lengths(problem))
    if longest * problem["H"] * max(problem["D"], problem["E"]) >= _MAX_ELEMENTS:
        return (
            f"A sequence of {longest} tokens has 2^31 elements or more in all heads, and the "
            "kernels count them in 32 bits."
        )
    return attention.kernel_unsupported(problem, device)


# 32 and 8 heads are those of Llama-3 8B; the distance of two tokens is a constant of the kernels.
_HEADS = {
    size: replace(
        heads_of("varlen_attention", size, size),
        H=32,
        G=8,
        cu_seqlens=torch.empty(0, dtype=torch.int32),
    )
    for size in (64, 128, 256)
}

AOT = (
    described_delta(_HEADS[128]),
    *described_all(_HEADS[64], "bf16"),
    *described_all(_HEADS[128], "bf16"),
    *described_all(_HEADS[256], "bf16"),
    *described_all(_HEADS[64], "fp16"),
    *described_all(_HEADS[128], "fp32"),
)

TUNABLES = tunables("varlen_attention")

OP = Op(
    name="varlen_attention",
    formula=(
        "out[T,H,E] = causal softmax(q[T,H,D] @ k[T,G,D]^T / sqrt(D)) @ v[T,G,E] in B sequences"
    ),
    source="Dao 2023, https://arxiv.org/abs/2307.08691",
    axes=("T", "B", "H", "G", "D", "E"),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD, Mode.BACKWARD),
    variants=("even", "skewed"),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        Impl("torch", _prepare_torch, _torch_unsupported),
        Impl("compile", _prepare_compile, _compile_unsupported),
        Impl("triton", _prepare_triton, _unsupported),
    ),
)
