"""Dense transformer layer: h = x + attention(norm(x)), y = h + network(norm(h)).

Shape letters: B sequences, S tokens of each, or keys when decoding, the new one's among them; H
hidden, A query heads, G key-value heads, D head dim, F width of the feed-forward network; T = B S
tokens, or B when decoding. They are the sizes of one chip's shard: A, G and F are cut, nothing is
sent, and the sums that a group of chips would make are those of one chip.
Variants: `gated` is Llama's, with RMS norms, rotary positions and SwiGLU; `gated_qk_norm` is
Qwen3's, with an RMS norm of each query and key head too; `plain` is GPT-3's, with layer norms,
biases everywhere, GELU, and positions that are learned outside of the layer.
Modes: training is forward, backward and AdamW's update of every weight, from x and dy to y, dx and
the new state; prefill gives y, and k and v as the cache keeps them, [B,S,G,D]; decode writes k and
v of one new token at the end of the caches, and its query reads all S. The Triton implementation
reads them by `paged_decode`, as caches whose pages are in order.
No mask but the causal one, no dropout, nothing computed again: the backward pass finds what the
forward pass kept.
Counted: FLOPs are the sum over its parts, as `gemm`, `attention`, `paged_decode` and the others
count theirs, biases left out. Bytes are those of the whole layer, as if it were one kernel: x, dy,
tables of angles, weights, optimizer state and caches read once; y, dx, state, weights and what the
cache keeps of new tokens written once. What passes from part to part is in none of them.
Source: `gated`: Touvron et al. 2023, "LLaMA", section 2.2, https://arxiv.org/abs/2302.13971, and
grouped heads as in Llama 2, section 2.2, https://arxiv.org/abs/2307.09288; `gated_qk_norm`: Qwen3,
section 2, https://arxiv.org/abs/2505.09388; `plain`: Brown et al. 2020, section 2.1,
https://arxiv.org/abs/2005.14165, which is Radford et al. 2019, section 2.3.
"""

from kernels import dtypes
from kernels.layer.block import FIXED, STATE, Block
from kernels.layer.parts import grouped_query_attention, key_value_caches, network, residual_layer
from kernels.layer.runs import impls
from kernels.op import Mode, Op, Problem


def _weights(problem: Problem) -> dict[str, tuple[int, ...]]:
    H, A, G, D, F = (problem[axis] for axis in "HAGDF")
    qkv, out = (A + 2 * G) * D, A * D
    if problem.variant == "plain":
        return {
            "attention_norm": (H,),
            "attention_norm_bias": (H,),
            "qkv": (qkv, H),
            "qkv_bias": (qkv,),
            "out": (H, out),
            "out_bias": (H,),
            "network_norm": (H,),
            "network_norm_bias": (H,),
            "up": (F, H),
            "up_bias": (F,),
            "down": (H, F),
            "down_bias": (H,),
        }
    head_norms = {"query_norm": (D,), "key_norm": (D,)}
    return {
        "attention_norm": (H,),
        "qkv": (qkv, H),
        **(head_norms if problem.variant == "gated_qk_norm" else {}),
        "out": (H, out),
        "network_norm": (H,),
        "gate_up": (2 * F, H),
        "down": (H, F),
    }


def _pieces(problem: Problem) -> dict[str, tuple[int, ...]]:
    A, G, D, F = (problem[axis] for axis in "AGDF")
    # The gradient of the keys' bias is zero, as it moves every score of a query alike.
    biases = ((A + G) * D, G * D)
    return {"qkv": (A * D, G * D, G * D), "qkv_bias": biases, "gate_up": (F, F)}


def _rope_size(problem: Problem) -> int:
    return 0 if problem.variant == "plain" else problem["D"]


BLOCK = Block(
    weights=_weights,
    pieces=_pieces,
    caches=key_value_caches,
    rope_size=_rope_size,
    forward=residual_layer(grouped_query_attention, network),
)

OP = Op(
    name="dense_layer",
    formula="y[T,H] = h + network_F(norm(h)), h = x[T,H] + attention_A,G,D(norm(x)), T = B S",
    source="Touvron et al. 2023, section 2.2, https://arxiv.org/abs/2302.13971",
    axes=("B", "S", "H", "A", "G", "D", "F"),
    dtypes=dtypes.ALL,
    modes=(Mode.TRAINING, Mode.PREFILL, Mode.DECODE),
    make_inputs=BLOCK.make_inputs,
    reference=BLOCK.reference,
    cost=BLOCK.cost,
    tolerance=BLOCK.tolerance,
    impls=impls(BLOCK),
    variants=("gated", "gated_qk_norm", "plain"),
    mutates=(*STATE, "k_cache", "v_cache"),
    is_block=True,
    fixed=FIXED,
)
