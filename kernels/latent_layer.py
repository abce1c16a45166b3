"""Layer with latent attention: h = x + latent_attention(norm(x)), y = h + network(norm(h)).

Shape letters: B sequences, S tokens of each, or keys when decoding, the new one's among them; H
hidden, A heads, Q and C width of latent queries and of latent keys and values, N and R head dim of
queries and keys without and with rotation, V of values; F width of the feed-forward network; T =
B S tokens, or B when decoding. As of `dense_layer` they are the sizes of one chip's shard, of which
A and F are cut, and its modes and masks are those of this one.
It is the layer of DeepSeek-V3's first three: RMS norms, also of both latents, and SwiGLU.
Training and prefill expand keys and values, of N + R and V elements for each head, for `attention`;
prefill gives latents and rotated keys as the cache keeps them, [B,S,C+R]. Decoding stays with the
latent cache: queries are multiplied by what would expand the keys, and the results by what would
expand the values. The Triton implementation reads the cache by `mla_decode`, as one whose pages are
in order, and multiplies heads by `grouped_gemm`, as experts with as many rows.
Counted: FLOPs are the sum over its parts, as `gemm`, `attention`, `mla_decode`, `rms_norm` and the
others count theirs; the products of heads when decoding are counted as one `gemm`. Bytes are those
of the whole layer, as `dense_layer` counts them.
Source: DeepSeek-V2, section 2.1, https://arxiv.org/abs/2405.04434; DeepSeek-V3, sections 2.1.1 and
4.2, https://arxiv.org/abs/2412.19437.
"""

from kernels import dtypes
from kernels.layer.block import FIXED, STATE, Block
from kernels.layer.parts import (
    LATENT_ERROR_GROWTH,
    latent_attention,
    latent_caches,
    latent_weights,
    network,
    residual_layer,
)
from kernels.layer.runs import impls
from kernels.op import Mode, Op, Problem


def _weights(problem: Problem) -> dict[str, tuple[int, ...]]:
    H, F = problem["H"], problem["F"]
    return {**latent_weights(problem), "gate_up": (2 * F, H), "down": (H, F)}


def _pieces(problem: Problem) -> dict[str, tuple[int, ...]]:
    C, R, F = (problem[axis] for axis in "CRF")
    return {"latent_down": (C, R), "gate_up": (F, F)}


BLOCK = Block(
    weights=_weights,
    pieces=_pieces,
    caches=latent_caches,
    rope_size=lambda problem: problem["R"],
    error_growth=LATENT_ERROR_GROWTH,
    forward=residual_layer(latent_attention, network),
)

OP = Op(
    name="latent_layer",
    formula="y[T,H] = h + network_F(norm(h)), h = x[T,H] + latent_attention_A,Q,C,N,R,V(norm(x)), "
    "T = B S",
    source="DeepSeek-V3, section 2.1.1, https://arxiv.org/abs/2412.19437",
    axes=("B", "S", "H", "A", "Q", "C", "N", "R", "V", "F"),
    dtypes=dtypes.ALL,
    modes=(Mode.TRAINING, Mode.PREFILL, Mode.DECODE),
    make_inputs=BLOCK.make_inputs,
    reference=BLOCK.reference,
    cost=BLOCK.cost,
    tolerance=BLOCK.tolerance,
    impls=impls(BLOCK),
    mutates=(*STATE, "latent_cache"),
    is_block=True,
    fixed=FIXED,
)
