"""Layer with latent attention and experts: y = h + mixture(norm(h)) + shared expert(norm(h)).

h = x + latent_attention(norm(x)), as in `latent_layer`, whose shape letters are here: B S H A Q C N
R V. E experts of this chip, K experts of each token, F width of an expert, W of the shared one; A,
F and W are cut.
It is the layer of DeepSeek-V3 after the first three. Experts are chosen by routing[T,E] and
routing_bias[E], which are given in fp32 as in `moe_layer` and for its reason, in groups as
`moe_route` does in its variant `sigmoid_groups`; all get as many tokens where K is at most a
quarter of E. The weights of those chosen are 2.5 times the sigmoids of their entries in the
router's product, divided by their sum. The choice has no bias that is trained.
What cannot be compiled is what cannot in `moe_layer`.
Counted: FLOPs are the sum over its parts, as `gemm`, `grouped_gemm`, `attention`, `mla_decode`,
`moe_route` and the others count theirs; the sigmoids of K weights of a token are left out. Bytes
are those of the whole layer, as `moe_layer` counts them.
Source: DeepSeek-V3, sections 2.1 and 4.2, https://arxiv.org/abs/2412.19437.
"""

from kernels import dtypes
from kernels.layer.block import FIXED, STATE, Block
from kernels.layer.parts import (
    LATENT_ERROR_GROWTH,
    latent_attention,
    latent_caches,
    latent_weights,
    mixture,
    num_tokens,
    residual_layer,
)
from kernels.layer.runs import impls
from kernels.op import Mode, Op, Problem


def _weights(problem: Problem) -> dict[str, tuple[int, ...]]:
    H, E, F, W = (problem[axis] for axis in "HEFW")
    return {
        **latent_weights(problem),
        "router": (E, H),
        "expert_gate_up": (E, 2 * F, H),
        "expert_down": (E, H, F),
        "gate_up": (2 * W, H),
        "down": (H, W),
    }


def _pieces(problem: Problem) -> dict[str, tuple[int, ...]]:
    C, R, F, W = (problem[axis] for axis in "CRFW")
    return {"latent_down": (C, R), "expert_gate_up": (F, F), "gate_up": (W, W)}


def _choices(problem: Problem) -> dict[str, tuple[int, ...]]:
    E = problem["E"]
    return {"routing": (num_tokens(problem), E), "routing_bias": (E,)}


BLOCK = Block(
    weights=_weights,
    pieces=_pieces,
    caches=latent_caches,
    rope_size=lambda problem: problem["R"],
    choices=_choices,
    error_growth=LATENT_ERROR_GROWTH,
    forward=residual_layer(latent_attention, mixture),
)

OP = Op(
    name="latent_moe_layer",
    formula="y[T,H] = h + the K of E experts_F(norm(h)) + shared_W(norm(h)), "
    "h = x[T,H] + latent_attention_A,Q,C,N,R,V(norm(x)), T = B S",
    source="DeepSeek-V3, section 2.1, https://arxiv.org/abs/2412.19437",
    axes=("B", "S", "H", "A", "Q", "C", "N", "R", "V", "E", "K", "F", "W"),
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
