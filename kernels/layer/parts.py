"""The halves of a layer, written once in `Operations`: attention and feed-forward networks.

Tensors are found by name in one mapping: the weights, x, the tables of rotary angles where there
are any (cos, sin), and when decoding the caches.
"""

from collections.abc import Mapping

import torch

from kernels.layer.operations import Operations
from kernels.op import Mode, Problem

Tensor = torch.Tensor
Tensors = Mapping[str, Tensor]


def num_tokens(problem: Problem) -> int:
    """Tokens that pass through the layer: the newest of each sequence, or all."""
    return problem["B"] * (1 if problem.mode == Mode.DECODE else problem["S"])


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
    """(out[T,H], and the keys and values that were computed, [B,G,Q,D]) from normalised x[T,H].

    Decoding, the new keys and values are written at the end of k_cache and v_cache, [B,G,S,D].
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
    q, k, v = by_head(q, B), by_head(k, B), by_head(v, B)
    if problem.mode == Mode.DECODE:
        keys, values = tensors["k_cache"], tensors["v_cache"]
        keys[:, :, -1:].copy_(k)
        values[:, :, -1:].copy_(v)
        out = operations.attention(q, keys, values)
    else:
        if problem.mode == Mode.PREFILL:
            # In the order of the cache, which they are written to.
            k, v = k.contiguous(), v.contiguous()
        out = operations.attention(q, k, v)
    return linear(operations, by_token(out), tensors, "out"), k, v


def _norm_heads(operations: Operations, x: Tensor, w: Tensor) -> Tensor:
    return operations.norm(x.reshape(-1, x.shape[-1]), w, None).view(x.shape)


def network(operations: Operations, tensors: Tensors, x: Tensor) -> Tensor:
    """[T,H] from normalised x[T,H]: gated where there is a matrix for gate and up in one."""
    if "gate_up" in tensors:
        hidden = operations.swiglu(linear(operations, x, tensors, "gate_up"))
    else:
        hidden = operations.gelu(linear(operations, x, tensors, "up"))
    return linear(operations, hidden, tensors, "down")
