"""Attention with grouped key/value heads, causal or full.

Shape letters: B batch, Q queries, S keys, H query heads, G key/value heads (H is a multiple of G),
D query/key head size, E value head size.
    out[B,H,Q,E] = softmax(q[B,H,Q,D] @ k[B,G,S,D]^T / sqrt(D), over visible keys) @ v[B,G,S,E]
Head h reads key/value head h // (H / G). Variant `causal`: queries are the last Q of S positions
and query i sees keys j <= i + S - Q, so Q = S is training and prefill, Q = 1 a decode step. Variant
`full`: every query sees all S keys, as in encoders and between two sequences.
Counted: 2 (D + E) FLOPs for each visible pair of query and key, of which each of the B H heads has
Q S - Q (Q - 1) / 2 if causal and Q S if full; softmax is not counted. The backward pass counts
twice that, for its four products on the same pairs; a kernel that does not keep the scores computes
them again and executes 2.5 times the forward pass. Bytes: q, k, v (and dout) read, out (or dq, dk,
dv) written; what an implementation keeps from its forward pass is its own.
Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; grouped heads: Ainslie et al. 2023,
https://arxiv.org/abs/2305.13245; the kernels follow Dao 2023, "FlashAttention-2", algorithms 1 and
2, https://arxiv.org/abs/2307.08691, with dq in a kernel of its own instead of atomic additions.
"""

import math

import torch
from torch.nn.functional import scaled_dot_product_attention

from kernels import dtypes, triton_support
from kernels.attention.custom_ops import AOT, TUNABLES, attention, attention_backward
from kernels.attention.tiles import MAX_HEAD, padded
from kernels.compiled import Preparer, prepare_eager, product_impls
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run, Tolerance

__all__ = ["AOT", "OP", "TUNABLES", "attention", "attention_backward"]


def _eager_causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    is_grouped = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=is_grouped)


def _eager_full(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    is_grouped = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(q, k, v, enable_gqa=is_grouped)


def _eager_masked(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    is_grouped = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=is_grouped)


def _is_causal(problem: Problem) -> bool:
    return problem.variant == "causal"


def _visible(problem: Problem, device: torch.device) -> torch.Tensor:
    """Whether query i sees key j, as [Q,S]."""
    Q, S = problem["Q"], problem["S"]
    seen = torch.ones(Q, S, dtype=torch.bool, device=device)
    return seen.tril(S - Q) if _is_causal(problem) else seen


def _head_formula(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    scores = (q @ k.T / math.sqrt(q.shape[-1])).masked_fill(~mask, -math.inf)
    return torch.softmax(scores, dim=-1) @ v


def by_head(problem: Problem, inputs: Inputs, mask: torch.Tensor) -> Outputs:
    """(out,) or (dq, dk, dv), one head at a time so that only one Q x S matrix is held."""
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    heads_per_group = problem["H"] // problem["G"]
    heads = [(b, h) for b in range(problem["B"]) for h in range(problem["H"])]
    if problem.mode == Mode.FORWARD:
        out = q.new_empty(*q.shape[:3], v.shape[3])
        for b, h in heads:
            g = h // heads_per_group
            out[b, h] = _head_formula(q[b, h], k[b, g], v[b, g], mask)
        return (out,)
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for b, h in heads:
        g = h // heads_per_group
        run = prepare_eager(_head_formula, (q[b, h], k[b, g], v[b, g], mask), inputs["dout"][b, h])
        dq[b, h], dk_head, dv_head = run()
        dk[b, g] += dk_head
        dv[b, g] += dv_head
    return dq, dk, dv


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """(out,) or (dq, dk, dv)."""
    return by_head(problem, inputs, _visible(problem, inputs["q"].device))


def counted(problem: Problem, pairs_per_head: int) -> Cost:
    """As the head of this file counts, with that many visible pairs in each of the B H heads."""
    B, Q, S, H, G, D, E = (problem[axis] for axis in "BQSHGDE")
    size = dtypes.size_bytes(problem.dtype)
    flops = 2 * (D + E) * B * H * pairs_per_head
    operands_bytes = B * (H * Q * D + G * S * (D + E)) * size
    out_bytes = B * H * Q * E * size
    if problem.mode == Mode.FORWARD:
        return Cost(flops=flops, bytes_read=operands_bytes, bytes_written=out_bytes)
    return Cost(
        flops=2 * flops, bytes_read=operands_bytes + out_bytes, bytes_written=operands_bytes
    )


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    Q, S = problem["Q"], problem["S"]
    return counted(problem, Q * S - Q * (Q - 1) // 2 if _is_causal(problem) else Q * S)


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """q, k and v, and for the backward mode dout; standard normal."""
    B, Q, S, H, G, D, E = (problem[axis] for axis in "BQSHGDE")
    shapes = {"q": (B, H, Q, D), "k": (B, G, S, D), "v": (B, G, S, E)}
    if problem.mode == Mode.BACKWARD:
        shapes["dout"] = (B, H, Q, E)
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device
    return {
        name: torch.randn(shape, generator=generator, device=device, dtype=dtype)
        for name, shape in shapes.items()
    }


def tolerances(problem: Problem, Q: int, S: int) -> tuple[Tolerance, ...]:
    """Probabilities, their gradients and each output are rounded; sums over S or D grow in fp32.

    The first queries average few values, and the first keys are seen by the most queries: both are
    up to sqrt(S) times larger than the typical row. In the rows of dq the terms dp - delta cancel;
    what is left keeps the rounding of the terms, and is compared with typical rows that are up to
    sqrt(S) times smaller than the first, where that happens: 12 epsilon in 32 heads at S = 512.
    """
    growth = dtypes.epsilon("fp32") * (S + problem["D"]) ** 0.5
    error = dtypes.epsilon(problem.dtype) + growth

    def bounds(relative: float, largest: float, row: float) -> Tolerance:
        return Tolerance(
            dtype=problem.dtype,
            relative_error=relative * error,
            max_error=largest * error,
            row_error=row * error,
        )

    if problem.mode == Mode.FORWARD:
        return (bounds(2, max(8.0, Q**0.5), 3),)
    largest = 8 * max(8.0, S**0.5)
    dkdv = bounds(4, largest, 6)
    return bounds(4, largest, 32), dkdv, dkdv


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """As above, for the queries and keys of the problem."""
    return tolerances(problem, problem["Q"], problem["S"])


def _prepare(problem: Problem, inputs: Inputs, prepare: Preparer) -> Run:
    gradient = inputs["dout"] if problem.mode == Mode.BACKWARD else None
    Q, S = problem["Q"], problem["S"]
    operands = (inputs["q"], inputs["k"], inputs["v"])
    if not _is_causal(problem) or Q == 1:
        return prepare(_eager_full, operands, gradient)
    if Q == S:
        return prepare(_eager_causal, operands, gradient)
    mask = _visible(problem, operands[0].device)
    return prepare(_eager_masked, (*operands, mask), gradient)


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    is_causal = _is_causal(problem)
    if problem.mode == Mode.FORWARD:
        return lambda: (attention(q, k, v, is_causal)[0],)
    dout = inputs["dout"]
    out, lse = attention(q, k, v, is_causal)
    return lambda: attention_backward(dout, q, k, v, out, lse, is_causal)


def kernel_unsupported(problem: Problem, device: torch.device) -> str | None:
    """Why the Triton kernels cannot run a problem with heads of D and E, or None if they can."""
    head_size = padded(max(problem["D"], problem["E"]))
    if head_size > MAX_HEAD:
        return (
            f"A head is held in registers, which ends at {MAX_HEAD} values; "
            f"D={problem['D']} E={problem['E']} is padded to {head_size}."
        )
    return triton_support.unsupported(device) or triton_support.bf16_dot_unsupported(problem.dtype)


OP = Op(
    name="attention",
    formula="out[B,H,Q,E] = softmax(q[B,H,Q,D] @ k[B,G,S,D]^T / sqrt(D)) @ v[B,G,S,E]",
    source="Dao 2023, algorithms 1 and 2, https://arxiv.org/abs/2307.08691",
    axes=("B", "Q", "S", "H", "G", "D", "E"),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD, Mode.BACKWARD),
    variants=("causal", "full"),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        *product_impls(_prepare),
        Impl("triton", _prepare_triton, kernel_unsupported),
    ),
)
