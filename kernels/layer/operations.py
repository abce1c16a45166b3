"""The functions a layer is written in, and what may stand behind them.

One definition of a layer then serves as its implementations, its reference and its count of work.
Shape letters are those of the ops; a tensor of tokens is [T,...].
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from kernels import (
    adamw,
    add,
    add_layer_norm,
    add_rms_norm,
    attention,
    gelu,
    gemm,
    grouped_gemm,
    layer_norm,
    mla_decode,
    moe_permute,
    moe_route,
    moe_unpermute,
    paged_decode,
    rms_norm,
    rope,
    swiglu,
)
from kernels.op import Cost, Inputs, Mode, Outputs, Problem, problem

Tensor = torch.Tensor

PAGE = 64
"""Most positions of a page that `mla_decode` and `paged_decode` read whole sequences in, as
FlashMLA has them."""


def attention_problem(
    q: Tensor, k: Tensor, v: Tensor, mode: Mode = Mode.FORWARD, dtype: str = "fp32"
) -> Problem:
    """The causal problem of q[B,H,Q,D], k[B,G,S,D] and v[B,G,S,E]."""
    B, H, Q, D = q.shape
    _, G, S, E = v.shape
    return problem("attention", dtype, mode, "causal", B=B, Q=Q, S=S, H=H, G=G, D=D, E=E)


@dataclass(frozen=True, kw_only=True)
class Operations:
    """One way to compute each operation of a layer, differentiable where a layer needs it."""

    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """y[T,N] from x[T,K], w[N,K] and a bias[N] or None."""
    norm: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """y[T,H] from x[T,H] and w[H]: a layer norm where there is a bias[H], else an RMS norm."""
    add_norm: Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
    """(norm(h), h) with h = x + r, from x[T,H], r[T,H], w[H] and a bias[H] or None."""
    add: Callable[[Tensor, Tensor], Tensor]
    """The sum of two tensors of one shape."""
    rope: Callable[[Tensor, Tensor, Tensor], Tensor]
    """y[T,H,D] from x[T,H,D], cos[T,D/2] and sin[T,D/2]."""
    attention: Callable[[Tensor, Tensor, Tensor], Tensor]
    """out[B,H,S,E] from q[B,H,S,D], k[B,G,S,D] and v[B,G,S,E]."""
    cached_attention: Callable[[Tensor, Tensor, Tensor], Tensor]
    """out[B,H,D] of one query of each sequence, q[B,H,D], over k_cache and v_cache[B,S,G,D]."""
    latent_attention: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    """out[B,A,C] of one query of each sequence, q_latent[B,A,C] and q_rope[B,A,R].

    They see cache[B,S,C+R], whose first part are the values as well; the scale is the last.
    """
    by_head: Callable[[Tensor, Tensor], Tensor]
    """y[A,T,O] = x[A,T,I] @ w[A,I,O], a product for each head; w or w.mT is contiguous."""
    swiglu: Callable[[Tensor], Tensor]
    """y[T,F] from gate_up[T,2F]."""
    gelu: Callable[[Tensor], Tensor]
    """y of the shape of x."""
    route: Callable[[Tensor, Tensor | None, int], Outputs]
    """(ids[T,K], positions[T,K], offsets[E+1]) of the K experts of each token by routing[T,E].

    With a bias[E] they are chosen as `sigmoid_groups` of `moe_route`, else as `softmax`.
    """
    permute: Callable[[Tensor, Tensor], Tensor]
    """rows[T*K,H] in the order of experts from x[T,H] and positions[T,K]."""
    experts: Callable[[Tensor, Tensor, Tensor], Tensor]
    """y[R,N] from x[R,K] in the order of experts, w[E,N,K] and offsets[E+1]."""
    unpermute: Callable[[Tensor, Tensor, Tensor], Tensor]
    """y[T,H] from rows[T*K,H], weights[T,K], at least fp32, and positions[T,K]."""


def _torch_norm(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    if b is None:
        return functional.rms_norm(x, w.shape, w, rms_norm.EPS)
    return functional.layer_norm(x, w.shape, w, b, layer_norm.EPS)


def _torch_add_norm(x: Tensor, r: Tensor, w: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor]:
    h = x + r
    return _torch_norm(h, w, b), h


def _torch_add(x: Tensor, y: Tensor) -> Tensor:
    return x + y


def _torch_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    is_grouped = q.shape[1] != k.shape[1]
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=is_grouped)


def _torch_cached_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    is_grouped = q.shape[1] != k.shape[2]
    out = functional.scaled_dot_product_attention(
        q[:, :, None], k.transpose(1, 2), v.transpose(1, 2), enable_gqa=is_grouped
    )
    return out[:, :, 0]


def _torch_latent_attention(
    q_latent: Tensor, q_rope: Tensor, cache: Tensor, scale: float
) -> Tensor:
    # One key for all heads: they are the rows of one product, and nothing is repeated.
    q = torch.cat((q_latent, q_rope), dim=-1)
    # With an axis for heads: without one, PyTorch multiplies 16-bit types in fp32.
    keys = cache[:, None]
    values = keys[..., : q_latent.shape[2]]
    out = functional.scaled_dot_product_attention(q[:, None], keys, values, scale=scale)
    return out[:, 0]


def _torch_swiglu(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


def _torch_gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def _torch_route(routing: Tensor, bias: Tensor | None, num_chosen: int) -> Outputs:
    return moe_route.eager(routing, bias, num_chosen)[1:]


TORCH = Operations(
    linear=functional.linear,
    norm=_torch_norm,
    add_norm=_torch_add_norm,
    add=_torch_add,
    rope=rope.eager,
    attention=_torch_attention,
    cached_attention=_torch_cached_attention,
    latent_attention=_torch_latent_attention,
    by_head=torch.bmm,
    swiglu=_torch_swiglu,
    gelu=_torch_gelu,
    route=_torch_route,
    permute=moe_permute.formula,
    experts=grouped_gemm.eager,
    unpermute=moe_unpermute.formula,
)
"""Eager torch, as a user would write it; `compile` compiles this."""


def _custom_linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    y: Tensor = gemm.gemm(x.contiguous(), w)
    # The kernel adds no bias; torch does, in another pass.
    return y if b is None else y + b


def _custom_norm(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    x = x.contiguous()
    y: Tensor = rms_norm.rms_norm(x, w) if b is None else layer_norm.layer_norm(x, w, b)
    return y


def _custom_add_norm(x: Tensor, r: Tensor, w: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor]:
    y, h = (
        add_rms_norm.add_rms_norm(x, r, w)
        if b is None
        else add_layer_norm.add_layer_norm(x, r, w, b)
    )
    return y, h


def _custom_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    y: Tensor = rope.rope(x.contiguous(), cos, sin)
    return y


def _custom_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out: Tensor = attention.attention(q.contiguous(), k.contiguous(), v.contiguous())[0]
    return out


def _custom_route(routing: Tensor, bias: Tensor | None, num_chosen: int) -> Outputs:
    routed: Outputs = (
        moe_route.moe_route_softmax(routing, num_chosen)
        if bias is None
        else moe_route.moe_route_sigmoid_groups(routing, bias, num_chosen)
    )
    return routed[1:]


def _pages(cache: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """cache[B,S,...] as pages, its page table and its lengths: sequences are pages in order."""
    B, S = cache.shape[:2]
    size = math.gcd(S, PAGE)
    table = torch.arange(B * S // size, dtype=torch.int32, device=cache.device).view(B, -1)
    lengths = torch.full((B,), S, dtype=torch.int32, device=cache.device)
    return cache.view(-1, size, *cache.shape[2:]), table, lengths


def _custom_cached_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k_pages, table, lengths = _pages(k)
    v_pages = v.view(k_pages.shape)
    out: Tensor = paged_decode.paged_decode(q.contiguous(), k_pages, v_pages, table, lengths)
    return out


def _custom_latent_attention(
    q_latent: Tensor, q_rope: Tensor, cache: Tensor, scale: float
) -> Tensor:
    # The op has the scale of the published head dim; others, as of tests, are in the queries.
    ratio = scale / mla_decode.scale(q_rope.shape[2])
    if not math.isclose(ratio, 1.0):
        q_latent, q_rope = q_latent * ratio, q_rope * ratio
    out: Tensor = mla_decode.mla_decode(q_latent.contiguous(), q_rope.contiguous(), *_pages(cache))
    return out


def _custom_by_head(x: Tensor, w: Tensor) -> Tensor:
    A, T, _ = x.shape
    # Heads are experts that have T rows each.
    offsets = torch.arange(A + 1, dtype=torch.int32, device=x.device) * T
    rows = x.contiguous().view(A * T, -1)
    y: Tensor = (
        grouped_gemm.grouped_gemm_dgrad(rows, w, offsets)
        if w.is_contiguous()
        else grouped_gemm.grouped_gemm(rows, w.mT, offsets)
    )
    return y.view(A, T, -1)


CUSTOM = Operations(
    linear=_custom_linear,
    norm=_custom_norm,
    add_norm=_custom_add_norm,
    add=add.add,
    rope=_custom_rope,
    attention=_custom_attention,
    cached_attention=_custom_cached_attention,
    latent_attention=_custom_latent_attention,
    by_head=_custom_by_head,
    swiglu=swiglu.swiglu,
    gelu=gelu.gelu,
    route=_custom_route,
    permute=moe_permute.moe_permute,
    experts=grouped_gemm.grouped_gemm,
    unpermute=moe_unpermute.moe_unpermute,
)
"""The Triton kernels of this package, one launch or a few for each operation.

They read contiguous operands, so a copy is made of what is not: of heads, between the order of
tokens and that of attention.
"""


def _referred(reference: Callable[[Problem, Inputs], Outputs], **inputs: Tensor) -> Tensor:
    # Of the problem, the references of these ops read the mode alone.
    return reference(Problem("", (), "fp32"), inputs)[0]


def _exact_linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    y = _referred(gemm.reference, x=x, w=w)
    return y if b is None else y + b


def _exact_norm(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    if b is None:
        return _referred(rms_norm.reference, x=x, w=w)
    return _referred(layer_norm.reference, x=x, w=w, b=b)


def _exact_add_norm(x: Tensor, r: Tensor, w: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor]:
    h = x + r
    return _exact_norm(h, w, b), h


class _ExactAttention(torch.autograd.Function):
    """The op's own reference both ways, which holds one Q x S matrix at a time."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        return attention.reference(attention_problem(q, k, v), {"q": q, "k": k, "v": v})[0]

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> Outputs:
        q, k, v = ctx.saved_tensors
        case = attention_problem(q, k, v, Mode.BACKWARD)
        with torch.enable_grad():
            return attention.reference(case, {"q": q, "k": k, "v": v, "dout": dout})


def _exact_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out: Tensor = _ExactAttention.apply(q, k, v)
    return out


def _exact_cached_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _exact_attention(q[:, :, None], k.transpose(1, 2), v.transpose(1, 2))[:, :, 0]


def _exact_latent_attention(
    q_latent: Tensor, q_rope: Tensor, cache: Tensor, scale: float
) -> Tensor:
    keys, turned = cache.split((q_latent.shape[2], q_rope.shape[2]), dim=-1)
    scores = q_latent @ keys.mT + q_rope @ turned.mT
    out: Tensor = torch.softmax(scores * scale, dim=-1) @ keys
    return out


def _exact_route(routing: Tensor, bias: Tensor | None, num_chosen: int) -> Outputs:
    inputs = {"logits": routing} if bias is None else {"logits": routing, "bias": bias}
    return moe_route.reference(problem("moe_route", "fp32", K=num_chosen), inputs)[1:]


EXACT = Operations(
    linear=_exact_linear,
    norm=_exact_norm,
    add_norm=_exact_add_norm,
    add=_torch_add,
    rope=lambda x, cos, sin: _referred(rope.reference, x=x, cos=cos, sin=sin),
    attention=_exact_attention,
    cached_attention=_exact_cached_attention,
    latent_attention=_exact_latent_attention,
    by_head=torch.matmul,
    swiglu=lambda gate_up: _referred(swiglu.reference, gate_up=gate_up),
    gelu=lambda x: _referred(gelu.reference, x=x),
    route=_exact_route,
    permute=lambda x, positions: _referred(moe_permute.reference, x=x, positions=positions),
    experts=grouped_gemm.eager,
    unpermute=lambda rows, weights, positions: _referred(
        moe_unpermute.reference, rows=rows, weights=weights, positions=positions
    ),
)
"""The references of the ops, for fp64."""

COSTS: Mapping[str, Callable[[Problem], Cost]] = {
    "adamw": adamw.cost,
    "add": add.cost,
    "add_layer_norm": add_layer_norm.cost,
    "add_rms_norm": add_rms_norm.cost,
    "attention": attention.cost,
    "gelu": gelu.cost,
    "gemm": gemm.cost,
    "grouped_gemm": grouped_gemm.cost,
    "layer_norm": layer_norm.cost,
    "mla_decode": mla_decode.cost,
    "moe_permute": moe_permute.cost,
    "moe_route": moe_route.cost,
    "moe_unpermute": moe_unpermute.cost,
    "paged_decode": paged_decode.cost,
    "rms_norm": rms_norm.cost,
    "rope": rope.cost,
    "swiglu": swiglu.cost,
}
"""How the ops count that a layer is composed of."""

BACKWARD_MODES: Mapping[str, tuple[Mode, ...]] = {
    "gemm": (Mode.DGRAD, Mode.WGRAD),
    "grouped_gemm": (Mode.DGRAD, Mode.WGRAD),
    "add": (),
    "moe_route": (),
}
"""The modes of an op in a backward pass, where they are not the backward mode."""


def counting(dtype: str) -> tuple[Operations, list[Problem]]:
    """Operations that compute nothing, for tensors on the device `meta`, and what was asked."""
    found: list[Problem] = []

    def note(op: str, **axes: int) -> None:
        found.append(problem(op, dtype, **axes))

    def linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        del b
        note("gemm", M=x.shape[0], N=w.shape[0], K=w.shape[1])
        return x.new_empty(x.shape[0], w.shape[0])

    def norm(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        del w
        note("rms_norm" if b is None else "layer_norm", T=x.shape[0], H=x.shape[1])
        return x

    def add_norm(x: Tensor, r: Tensor, w: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor]:
        del r, w
        note("add_rms_norm" if b is None else "add_layer_norm", T=x.shape[0], H=x.shape[1])
        return x, x

    def plus(x: Tensor, y: Tensor) -> Tensor:
        del y
        note("add", N=x.numel())
        return x

    def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        del cos, sin
        note("rope", T=x.shape[0], H=x.shape[1], D=x.shape[2])
        return x

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        found.append(attention_problem(q, k, v, dtype=dtype))
        return q.new_empty(*q.shape[:3], v.shape[3])

    def attend_cached(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        del v
        (B, H, D), S, G = q.shape, k.shape[1], k.shape[2]
        note("paged_decode", B=B, S=S, H=H, G=G, D=D, P=math.gcd(S, PAGE))
        return q

    def attend_latent(q_latent: Tensor, q_rope: Tensor, cache: Tensor, scale: float) -> Tensor:
        del scale
        (B, H, C), S, R = q_latent.shape, cache.shape[1], q_rope.shape[2]
        note("mla_decode", B=B, S=S, H=H, C=C, R=R, P=math.gcd(S, PAGE))
        return q_latent

    def by_head(x: Tensor, w: Tensor) -> Tensor:
        # One product with as many FLOPs and weights.
        (A, T, K), N = x.shape, w.shape[2]
        note("gemm", M=T, N=A * N, K=K)
        return x.new_empty(A, T, N)

    def gated(gate_up: Tensor) -> Tensor:
        note("swiglu", T=gate_up.shape[0], F=gate_up.shape[1] // 2)
        return gate_up[:, : gate_up.shape[1] // 2]

    def activate(x: Tensor) -> Tensor:
        note("gelu", N=x.numel())
        return x

    def route(routing: Tensor, bias: Tensor | None, num_chosen: int) -> Outputs:
        variant = "softmax" if bias is None else "sigmoid_groups"
        T, E = routing.shape
        # The choice is made in fp32 whatever the type of the layer is.
        case = problem("moe_route", "fp32", Mode.FORWARD, variant, T=T, E=E, K=num_chosen)
        found.append(case)
        ids = routing.new_empty(T, num_chosen, dtype=torch.int32)
        return ids, ids, ids.new_empty(E + 1)

    def num_experts() -> int:
        return next(part["E"] for part in reversed(found) if part.op == "moe_route")

    def permute(x: Tensor, positions: Tensor) -> Tensor:
        (T, K), H = positions.shape, x.shape[1]
        note("moe_permute", T=T, K=K, E=num_experts(), H=H)
        return x.new_empty(T * K, H)

    def experts(x: Tensor, w: Tensor, offsets: Tensor) -> Tensor:
        del offsets
        (R, K), (E, N, _) = x.shape, w.shape
        axes = {"R": R, "E": E, "N": N, "K": K}
        found.append(problem("grouped_gemm", dtype, Mode.FORWARD, "uniform", **axes))
        return x.new_empty(R, N)

    def unpermute(rows: Tensor, weights: Tensor, positions: Tensor) -> Tensor:
        del weights
        (T, K), H = positions.shape, rows.shape[1]
        note("moe_unpermute", T=T, K=K, E=num_experts(), H=H)
        return rows.new_empty(T, H)

    operations = Operations(
        linear=linear,
        norm=norm,
        add_norm=add_norm,
        add=plus,
        rope=rotate,
        attention=attend,
        cached_attention=attend_cached,
        latent_attention=attend_latent,
        by_head=by_head,
        swiglu=gated,
        gelu=activate,
        route=route,
        permute=permute,
        experts=experts,
        unpermute=unpermute,
    )
    return operations, found
