"""The halves of a layer, written once in `Operations`: attention and feed-forward networks.

Tensors are found by name in one mapping: the weights, x, the tables of rotary angles where there
are any (cos, sin), and when decoding the caches.
"""

from collections.abc import Callable, Mapping

import torch

from kernels import moe_route
from kernels.layer.operations import Operations
from kernels.op import Mode, Outputs, Problem

Tensor = torch.Tensor
Tensors = Mapping[str, Tensor]
Half = Callable[[Problem, Operations, Tensors, Tensor], Outputs]
"""(out[T,H], and what the cache keeps) from normalised x[T,H]."""


def num_tokens(problem: Problem) -> int:
    """Tokens that pass through the layer: the newest of each sequence, or all."""
    return problem["B"] * (1 if problem.mode == Mode.DECODE else problem["S"])


def residual_layer(
    attention: Half, feed_forward: Half
) -> Callable[[Problem, Operations, Tensors], Outputs]:
    """The forward pass of a layer of these halves, each added to what it is computed from."""

    def forward(problem: Problem, operations: Operations, tensors: Tensors) -> Outputs:
        x = tensors["x"]
        normed = operations.norm(x, tensors["attention_norm"], tensors.get("attention_norm_bias"))
        out, *kept = attention(problem, operations, tensors, normed)
        normed, h = operations.add_norm(
            out, x, tensors["network_norm"], tensors.get("network_norm_bias")
        )
        (out,) = feed_forward(problem, operations, tensors, normed)
        return operations.add(h, out), *kept

    return forward


def linear(operations: Operations, x: Tensor, tensors: Tensors, name: str) -> Tensor:
    """The matrix product of that name, with its bias if it has one."""
    return operations.linear(x, tensors[name], tensors.get(f"{name}_bias"))


def by_head(x: Tensor, batch: int) -> Tensor:
    """[B,H,S,D] from [B*S,H,D], a view."""
    return x.view(batch, -1, *x.shape[1:]).transpose(1, 2)


def by_token(x: Tensor) -> Tensor:
    """[B*S,H*D] from [B,H,S,D]."""
    B, _, S, _ = x.shape
    return x.transpose(1, 2).reshape(B * S, -1)


def grouped_query_attention(
    problem: Problem, operations: Operations, tensors: Tensors, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(out[T,H], and the keys and values that were computed, [B,S,G,D]) from normalised x[T,H].

    Decoding, the new keys and values are written at the end of k_cache and v_cache, [B,S,G,D].
    """
    B, A, G, D = (problem[axis] for axis in "BAGD")
    qkv = linear(operations, x, tensors, "qkv").view(-1, A + 2 * G, D)
    q, k, v = qkv.split((A, G, G), dim=1)
    if "query_norm" in tensors:
        q = _norm_heads(operations, q, tensors["query_norm"])
        k = _norm_heads(operations, k, tensors["key_norm"])
    if "cos" in tensors:
        q = operations.rope(q, tensors["cos"], tensors["sin"])
        k = operations.rope(k, tensors["cos"], tensors["sin"])
    kept_k, kept_v = k.reshape(B, -1, G, D), v.reshape(B, -1, G, D)
    if problem.mode == Mode.DECODE:
        keys, values = tensors["k_cache"], tensors["v_cache"]
        keys[:, -1:].copy_(kept_k)
        values[:, -1:].copy_(kept_v)
        out = operations.cached_attention(q, keys, values).flatten(1)
    else:
        if problem.mode == Mode.PREFILL:
            # As rows of the cache, which they are written to, and not of the product.
            kept_k, kept_v = kept_k.contiguous(), kept_v.contiguous()
        heads = by_head(q, B), kept_k.transpose(1, 2), kept_v.transpose(1, 2)
        out = by_token(operations.attention(*heads))
    return linear(operations, out, tensors, "out"), kept_k, kept_v


def key_value_caches(problem: Problem) -> dict[str, tuple[int, ...]]:
    """The caches of `grouped_query_attention`."""
    shape = tuple(problem[axis] for axis in "BSGD")
    return {"k_cache": shape, "v_cache": shape}


def latent_attention(
    problem: Problem, operations: Operations, tensors: Tensors, x: Tensor
) -> tuple[Tensor, Tensor]:
    """(out[T,H], and latent and rotated keys that were computed, [B,S,C+R]) from normalised x[T,H].

    Decoding, they are written at the end of latent_cache[B,S,C+R], and keys and values are never
    expanded: the matrices that would do so are multiplied with the queries and the result.
    """
    B, A, C, N, R = (problem[axis] for axis in "BACNR")
    q = operations.norm(linear(operations, x, tensors, "query_down"), tensors["query_norm"], None)
    q = linear(operations, q, tensors, "query_up").view(-1, A, N + R)
    q_nope, q_rope = q.split((N, R), dim=-1)
    q_rope = operations.rope(q_rope, tensors["cos"], tensors["sin"])
    latent, k_rope = linear(operations, x, tensors, "latent_down").split((C, R), dim=-1)
    latent = operations.norm(latent, tensors["latent_norm"], None)
    k_rope = operations.rope(k_rope[:, None], tensors["cos"], tensors["sin"])
    key_up, value_up = tensors["key_up"], tensors["value_up"]
    kept = torch.cat((latent, k_rope[:, 0]), dim=-1).view(B, -1, C + R)
    if problem.mode == Mode.DECODE:
        cache = tensors["latent_cache"]
        cache[:, -1:].copy_(kept)
        absorbed = operations.by_head(q_nope.transpose(0, 1), key_up).transpose(0, 1)
        out = operations.latent_attention(absorbed, q_rope, cache, (N + R) ** -0.5)
        out = operations.by_head(out.transpose(0, 1), value_up.mT).transpose(0, 1).flatten(1)
    else:
        k_nope = operations.linear(latent, key_up.flatten(0, 1), None).view(-1, A, N)
        v = operations.linear(latent, value_up.flatten(0, 1), None).view(-1, A, value_up.shape[1])
        q = torch.cat((q_nope, q_rope), dim=-1)
        k = torch.cat((k_nope, k_rope.expand(-1, A, -1)), dim=-1)
        out = by_token(operations.attention(by_head(q, B), by_head(k, B), by_head(v, B)))
    return linear(operations, out, tensors, "out"), kept


LATENT_ERROR_GROWTH = 1.4
"""Of a layer with `latent_attention`, by two more norms and products from x to a query: up to 1.1
times the bounds of `dense_layer`, of a row, were measured in bf16 with 40 seeds and 40 tokens."""


def latent_weights(problem: Problem) -> dict[str, tuple[int, ...]]:
    """The weights of `latent_attention` and the norms of a layer with it."""
    H, A, Q, C, N, R, V = (problem[axis] for axis in "HAQCNRV")
    return {
        "attention_norm": (H,),
        "query_down": (Q, H),
        "query_norm": (Q,),
        "query_up": (A * (N + R), Q),
        "latent_down": (C + R, H),
        "latent_norm": (C,),
        "key_up": (A, N, C),
        "value_up": (A, V, C),
        "out": (H, A * V),
        "network_norm": (H,),
    }


def latent_caches(problem: Problem) -> dict[str, tuple[int, ...]]:
    """The cache of `latent_attention`."""
    B, S, C, R = (problem[axis] for axis in "BSCR")
    return {"latent_cache": (B, S, C + R)}


def _norm_heads(operations: Operations, x: Tensor, w: Tensor) -> Tensor:
    return operations.norm(x.reshape(-1, x.shape[-1]), w, None).view(x.shape)


def network(problem: Problem, operations: Operations, tensors: Tensors, x: Tensor) -> tuple[Tensor]:
    """(out[T,H],) from normalised x[T,H]: gated where there is a matrix for gate and up in one."""
    del problem
    if "gate_up" in tensors:
        hidden = operations.swiglu(linear(operations, x, tensors, "gate_up"))
    else:
        hidden = operations.gelu(linear(operations, x, tensors, "up"))
    return (linear(operations, hidden, tensors, "down"),)


def mixture(problem: Problem, operations: Operations, tensors: Tensors, x: Tensor) -> tuple[Tensor]:
    """(out[T,H],) from normalised x[T,H] by the experts of each token, and a shared one if any.

    Experts are chosen by routing[T,E], and by routing_bias[E] too where there is one. The weights
    of those chosen follow from the router's product: their softmax, or with a bias their sigmoids
    divided by the sum, times a constant.
    """
    bias = tensors.get("routing_bias")
    ids, positions, offsets = operations.route(tensors["routing"], bias, problem["K"])
    logits = linear(operations, x, tensors, "router").gather(1, ids.long())
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if bias is None:
        weights = logits.softmax(-1)
    else:
        scores = logits.sigmoid()
        weights = moe_route.SCALE * scores / scores.sum(-1, keepdim=True)
    rows = operations.permute(x, positions)
    hidden = operations.swiglu(operations.experts(rows, tensors["expert_gate_up"], offsets))
    rows = operations.experts(hidden, tensors["expert_down"], offsets)
    out = operations.unpermute(rows, weights, positions)
    if "gate_up" in tensors:
        out = operations.add(out, *network(problem, operations, tensors, x))
    return (out,)
