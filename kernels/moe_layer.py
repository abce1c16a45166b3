"""Transformer layer with experts: h = x + attention(norm(x)), y = h + mixture(norm(h)).

Shape letters: B sequences, S tokens of each, or keys when decoding, the new one's among them; H
hidden, A query heads, G key-value heads, D head dim; E experts of this chip, K experts of each
token, F width of an expert; T = B S tokens, or B when decoding. As of `dense_layer` they are the
sizes of one chip's shard, and its modes and masks are those of this one.
It is Qwen3's layer: RMS norms, also of each query and key head, rotary positions, and experts with
SwiGLU. Which K experts a token has is given by routing[T,E], random logits in fp32, as Megatron
forces a balanced load for a benchmark: otherwise the rounding of the router's product would decide,
and two right results could differ by whole experts. All experts get as many tokens. The weights of
those chosen are the softmax of their entries in the router's product, through which the router has
its gradient; so `moe_route` is computed for its choice, and its own weights are left unused.
The torch implementation is written with `torch._grouped_mm` as that of `grouped_gemm` is, with a
loop over experts for what that does not take, and only the former can be compiled.
Counted: FLOPs are the sum over its parts, as `gemm`, `grouped_gemm`, `attention`, `moe_route` and
the others count theirs; the softmax of K weights of a token is left out. Bytes are those of the
whole layer, as if it were one kernel: x, dy, routing, tables of angles, weights, optimizer state
and caches read once, except in prefill and decode the experts that no token goes to, E - T K if any
are; y, dx, state, weights and what the cache keeps of new tokens written once.
Source: Qwen3, section 2, https://arxiv.org/abs/2505.09388; Shazeer et al. 2017,
https://arxiv.org/abs/1701.06538; weights of the chosen as in Mixtral, Jiang et al. 2024, section
2.1, https://arxiv.org/abs/2401.04088.
"""

from kernels import dtypes
from kernels.layer.block import FIXED, STATE, Block
from kernels.layer.parts import (
    grouped_query_attention,
    key_value_caches,
    mixture,
    num_tokens,
    residual_layer,
)
from kernels.layer.runs import impls
from kernels.op import Mode, Op, Problem


def _weights(problem: Problem) -> dict[str, tuple[int, ...]]:
    H, A, G, D, E, F = (problem[axis] for axis in "HAGDEF")
    return {
        "attention_norm": (H,),
        "qkv": ((A + 2 * G) * D, H),
        "query_norm": (D,),
        "key_norm": (D,),
        "out": (H, A * D),
        "network_norm": (H,),
        "router": (E, H),
        "expert_gate_up": (E, 2 * F, H),
        "expert_down": (E, H, F),
    }


def _pieces(problem: Problem) -> dict[str, tuple[int, ...]]:
    A, G, D, F = (problem[axis] for axis in "AGDF")
    return {"qkv": (A * D, G * D, G * D), "expert_gate_up": (F, F)}


def _choices(problem: Problem) -> dict[str, tuple[int, ...]]:
    return {"routing": (num_tokens(problem), problem["E"])}


BLOCK = Block(
    weights=_weights,
    pieces=_pieces,
    caches=key_value_caches,
    rope_size=lambda problem: problem["D"],
    choices=_choices,
    forward=residual_layer(grouped_query_attention, mixture),
)

OP = Op(
    name="moe_layer",
    formula="y[T,H] = h + the K of E experts_F(norm(h)), h = x[T,H] + attention_A,G,D(norm(x)), "
    "T = B S",
    source="Qwen3, section 2, https://arxiv.org/abs/2505.09388",
    axes=("B", "S", "H", "A", "G", "D", "E", "K", "F"),
    dtypes=dtypes.ALL,
    modes=(Mode.TRAINING, Mode.PREFILL, Mode.DECODE),
    make_inputs=BLOCK.make_inputs,
    reference=BLOCK.reference,
    cost=BLOCK.cost,
    tolerance=BLOCK.tolerance,
    impls=impls(BLOCK),
    mutates=(*STATE, "k_cache", "v_cache"),
    is_block=True,
    fixed=FIXED,
)
