"""Routing of a mixture of experts: the top K of E experts for each token, and where its rows go.

Shape letters: T tokens, E experts, K experts of each token, R = T K rows.
    softmax         weights = softmax(logits) over all E, of which the K largest, scaled to sum 1
    sigmoid_groups  s = sigmoid(logits); experts are chosen by s + bias[E], in the 4 of 8 groups
                    whose two largest add up to most; weights = 2.5 s / (sum of the chosen s)
logits[T,E] are finite, of the problem's type, bias[E] fp32. Experts come by falling score; of equal
ones the lower index is chosen and comes first.
Outputs: weights[T,K] fp32; ids[T,K] int32; positions[T,K] int32, the row of each choice when rows
are sorted by expert, in the order of tokens within one; offsets[E+1] int32, the first row of each
expert. Of the weights there is no gradient here.
Counted: softmax E K comparisons and 3 K FLOPs a token; sigmoid_groups 7 E for scores and groups,
E K / 2 comparisons and 3 K. Bytes: logits and bias read, the four outputs written.
Source: Shazeer et al. 2017, https://arxiv.org/abs/1701.06538; weights as in Mixtral, Jiang et al.
2024, section 2.1, https://arxiv.org/abs/2401.04088, since a softmax over the chosen is a softmax
over all scaled to sum 1; sigmoid_groups: DeepSeek-V3, section 2.1.2,
https://arxiv.org/abs/2412.19437, with the groups and the scale of its published configuration.
"""

import math

import torch

from kernels import dtypes
from kernels.compiled import compile_unsupported, compiled
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run, Tolerance
from kernels.triton_support import (
    AotKernel,
    cdiv,
    next_power_of_2,
    require_contiguous,
    tl,
    triton,
    triton_unsupported,
)

NUM_GROUPS = 8
KEPT_GROUPS = 4
SCALE = 2.5
"""Of DeepSeek-V3, `n_group`, `topk_group` and `routed_scaling_factor` of its config.json."""

# Scores of one program: 16 for each of 128 threads.
_BLOCK_SCORES = 2048
# Choices of one program, each compared with each: 32 comparisons for each of 128 threads.
_BLOCK_CHOICES = 64
_CHOOSE_WARPS = 4
# A line of 64 bytes of counts, and as many blocks at once as 4 warps hold in 16 registers.
_SCAN_EXPERTS = 16
_SCAN_BLOCKS = 128
_PLACE_ROWS = 1024

_MAX_EXPERTS = 1024
_MAX_CHOICES = 64


@triton.jit
def _choose_kernel(
    logits_ptr, bias_ptr, weights_ptr, ids_ptr, ranks_ptr, counts_ptr, T, E, group_size, K,
    IS_SIGMOID: tl.constexpr, NUM_GROUPS: tl.constexpr, KEPT_GROUPS: tl.constexpr,
    SCALE: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # A row of scores is NUM_GROUPS groups, each padded to BLOCK_G.
    BLOCK_E: tl.constexpr = NUM_GROUPS * BLOCK_G
    block = tl.program_id(0).to(tl.int64)
    tokens = block * BLOCK_T + tl.arange(0, BLOCK_T)
    slots = tl.arange(0, BLOCK_E)
    experts = slots // BLOCK_G * group_size + slots % BLOCK_G
    is_expert = slots % BLOCK_G < group_size
    is_token = tokens < T
    scores = tl.load(
        logits_ptr + tokens[:, None] * E + experts[None, :],
        mask=is_token[:, None] & is_expert[None, :],
        other=0.0,
    ).to(tl.float32)
    choice = tl.where(is_expert[None, :], scores, float("-inf"))
    if IS_SIGMOID:
        scores = 1.0 / (1.0 + tl.exp(-scores))
        bias = tl.load(bias_ptr + experts, mask=is_expert, other=float("-inf"))
        grouped = tl.reshape(scores + bias[None, :], [BLOCK_T, NUM_GROUPS, BLOCK_G])
        best, best_at = tl.max(grouped, axis=2, return_indices=True)
        is_best = tl.arange(0, BLOCK_G)[None, None, :] == best_at[:, :, None]
        best += tl.max(tl.where(is_best, float("-inf"), grouped), axis=2)
        groups = tl.arange(0, NUM_GROUPS)
        # [token, group, other group]
        is_equal_and_lower = (best[:, None, :] == best[:, :, None]) & (
            groups[None, None, :] < groups[None, :, None]
        )
        is_ahead = (best[:, None, :] > best[:, :, None]) | is_equal_and_lower
        is_kept = tl.sum(is_ahead.to(tl.int32), axis=2) < KEPT_GROUPS
        choice = tl.where(is_kept[:, :, None], grouped, float("-inf"))
        choice = tl.reshape(choice, [BLOCK_T, BLOCK_E])

    k = tl.arange(0, BLOCK_K)
    chosen_scores = tl.zeros([BLOCK_T, BLOCK_K], dtype=tl.float32)
    chosen = tl.zeros([BLOCK_T, BLOCK_K], dtype=tl.int32)
    is_chosen = tl.zeros([BLOCK_T, BLOCK_E], dtype=tl.int32)
    for i in range(K):
        _, at = tl.max(choice, axis=1, return_indices=True)
        is_it = slots[None, :] == at[:, None]
        score = tl.sum(tl.where(is_it, scores, 0.0), axis=1)
        choice = tl.where(is_it, float("-inf"), choice)
        is_chosen += is_it.to(tl.int32)
        # A row of NaN must not lead outside.
        expert = tl.minimum(at // BLOCK_G * group_size + at % BLOCK_G, E - 1)
        chosen_scores = tl.where(k[None, :] == i, score[:, None], chosen_scores)
        chosen = tl.where(k[None, :] == i, expert[:, None].to(tl.int32), chosen)

    is_choice = is_token[:, None] & (k < K)[None, :]
    if not IS_SIGMOID:
        largest = tl.max(tl.where(k[None, :] == 0, chosen_scores, float("-inf")), axis=1)
        chosen_scores = tl.exp(chosen_scores - largest[:, None])
    chosen_scores = tl.where(is_choice, chosen_scores, 0.0)
    total = tl.where(is_token, tl.sum(chosen_scores, axis=1), 1.0)
    weights = chosen_scores / total[:, None]
    if IS_SIGMOID:
        weights *= SCALE
    rows = tokens[:, None] * K + k[None, :]
    tl.store(weights_ptr + rows, weights, mask=is_choice)
    tl.store(ids_ptr + rows, chosen, mask=is_choice)

    # How many choices of this block before each one are of the same expert.
    order = tl.arange(0, BLOCK_T * BLOCK_K)
    flat = tl.reshape(tl.where(is_choice, chosen, -1), [BLOCK_T * BLOCK_K])
    is_same = (flat[:, None] == flat[None, :]) & (order[None, :] < order[:, None])
    ranks = tl.reshape(tl.sum(is_same.to(tl.int32), axis=1), [BLOCK_T, BLOCK_K])
    tl.store(ranks_ptr + rows, ranks, mask=is_choice)
    counts = tl.sum(tl.where(is_token[:, None], is_chosen, 0), axis=0)
    tl.store(counts_ptr + block * E + experts, counts, mask=is_expert)


@triton.jit
def _scan_kernel(
    counts_ptr, firsts_ptr, totals_ptr, num_blocks, E,
    BLOCK_B: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    # firsts[b,e] = sum of counts[:b,e], and the totals of all blocks.
    experts = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    is_expert = experts < E
    carry = tl.zeros([BLOCK_E], dtype=tl.int32)
    for start in range(0, num_blocks, BLOCK_B):
        blocks = start + tl.arange(0, BLOCK_B)
        at = blocks[:, None].to(tl.int64) * E + experts[None, :]
        mask = (blocks < num_blocks)[:, None] & is_expert[None, :]
        counts = tl.load(counts_ptr + at, mask=mask, other=0)
        firsts = carry[None, :] + tl.cumsum(counts, 0) - counts
        tl.store(firsts_ptr + at, firsts, mask=mask)
        carry += tl.sum(counts, 0)
    tl.store(totals_ptr + experts, carry, mask=is_expert)


@triton.jit
def _offsets_kernel(totals_ptr, offsets_ptr, E, BLOCK_E: tl.constexpr):
    experts = tl.arange(0, BLOCK_E)
    totals = tl.load(totals_ptr + experts, mask=experts < E, other=0)
    # Entry E is the sum of all before it.
    tl.store(offsets_ptr + experts, tl.cumsum(totals, 0) - totals, mask=experts <= E)


@triton.jit
def _place_kernel(
    ids_ptr, ranks_ptr, firsts_ptr, offsets_ptr, positions_ptr, R, E, rows_of_block,
    BLOCK_R: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    mask = rows < R
    expert = tl.load(ids_ptr + rows, mask=mask, other=0)
    position = tl.load(ranks_ptr + rows, mask=mask, other=0)
    position += tl.load(firsts_ptr + rows // rows_of_block * E + expert, mask=mask, other=0)
    position += tl.load(offsets_ptr + expert.to(tl.int64), mask=mask, other=0)
    tl.store(positions_ptr + rows, position, mask=mask)


_Routed = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def _empty(logits: torch.Tensor, K: int) -> _Routed:
    T, E = logits.shape
    return (
        logits.new_empty(T, K, dtype=torch.float32),
        logits.new_empty(T, K, dtype=torch.int32),
        logits.new_empty(T, K, dtype=torch.int32),
        logits.new_empty(E + 1, dtype=torch.int32),
    )


def _launch(logits: torch.Tensor, bias: torch.Tensor | None, K: int) -> _Routed:
    (T, E), num_groups = logits.shape, 1 if bias is None else NUM_GROUPS
    weights, ids, positions, offsets = routed = _empty(logits, K)
    block_g, block_k = next_power_of_2(E // num_groups), next_power_of_2(K)
    block_t = max(1, min(_BLOCK_SCORES // (num_groups * block_g), _BLOCK_CHOICES // block_k))
    num_blocks = cdiv(T, block_t)
    ranks = torch.empty_like(ids)
    counts, firsts = ids.new_empty(2, num_blocks, E).unbind()
    totals = ids.new_empty(E)
    _choose_kernel[(num_blocks,)](
        logits, logits if bias is None else bias, weights, ids, ranks, counts,
        T, E, E // num_groups, K,
        IS_SIGMOID=bias is not None, NUM_GROUPS=num_groups, KEPT_GROUPS=KEPT_GROUPS, SCALE=SCALE,
        BLOCK_T=block_t, BLOCK_G=block_g, BLOCK_K=block_k, num_warps=_CHOOSE_WARPS,
    )  # fmt: skip
    _scan_kernel[(cdiv(E, _SCAN_EXPERTS),)](
        counts, firsts, totals, num_blocks, E, BLOCK_B=_SCAN_BLOCKS, BLOCK_E=_SCAN_EXPERTS
    )
    _offsets_kernel[(1,)](totals, offsets, E, BLOCK_E=next_power_of_2(E + 1))
    _place_kernel[(cdiv(T * K, _PLACE_ROWS),)](
        ids, ranks, firsts, offsets, positions, T * K, E, block_t * K, BLOCK_R=_PLACE_ROWS
    )
    return routed


def _check(logits: torch.Tensor, K: int, num_candidates: int) -> None:
    if logits.ndim != 2 or not logits.numel():
        raise ValueError(f"moe_route: logits[T,E] are expected, not {tuple(logits.shape)}.")
    if logits.dtype not in (torch.bfloat16, torch.float32):
        raise ValueError(f"moe_route: logits are {logits.dtype}; use bfloat16 or float32.")
    if logits.shape[1] > _MAX_EXPERTS:
        raise ValueError(
            f"moe_route: logits[T,E] of E={logits.shape[1]} experts; at most {_MAX_EXPERTS}."
        )
    if not 1 <= K <= min(num_candidates, _MAX_CHOICES):
        raise ValueError(
            f"moe_route: K={K} of {num_candidates} experts cannot be chosen; "
            f"K must be from 1 to {min(num_candidates, _MAX_CHOICES)}."
        )
    require_contiguous("moe_route", logits=logits)


@torch.library.custom_op("chipscale::moe_route_softmax", mutates_args=())
def moe_route_softmax(
    logits: torch.Tensor, K: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """weights[T,K], ids[T,K], positions[T,K] and offsets[E+1] from logits[T,E]."""
    _check(logits, K, logits.shape[-1])
    return _launch(logits, None, K)


@moe_route_softmax.register_fake
def _(logits: torch.Tensor, K: int) -> _Routed:
    return _empty(logits, K)


@torch.library.custom_op("chipscale::moe_route_sigmoid_groups", mutates_args=())
def moe_route_sigmoid_groups(
    logits: torch.Tensor, bias: torch.Tensor, K: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """weights[T,K], ids[T,K], positions[T,K] and offsets[E+1] from logits[T,E] and bias[E]."""
    E = logits.shape[-1]
    if E % NUM_GROUPS or E // NUM_GROUPS < 2:
        raise ValueError(
            f"moe_route: logits[T,E] of E={E} experts; {NUM_GROUPS} groups of at least two are "
            f"expected, a multiple of {NUM_GROUPS}."
        )
    _check(logits, K, E // NUM_GROUPS * KEPT_GROUPS)
    if bias.shape != (E,) or bias.dtype != torch.float32:
        raise ValueError(
            f"moe_route: bias[{E}] of torch.float32 is expected, "
            f"not {tuple(bias.shape)} of {bias.dtype}."
        )
    require_contiguous("moe_route", bias=bias)
    return _launch(logits, bias, K)


@moe_route_sigmoid_groups.register_fake
def _(logits: torch.Tensor, bias: torch.Tensor, K: int) -> _Routed:
    del bias
    return _empty(logits, K)


def _choice(scores: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """What experts are chosen by, -inf for those of a group that is not kept."""
    if bias is None:
        return scores
    grouped = (scores + bias).unflatten(-1, (NUM_GROUPS, -1))
    strength = grouped.topk(2, dim=-1).values.sum(-1)
    kept = strength.sort(dim=-1, descending=True, stable=True).indices[:, :KEPT_GROUPS]
    is_left = torch.ones_like(strength, dtype=torch.bool).scatter(1, kept, False)
    choice: torch.Tensor = grouped.masked_fill(is_left[..., None], -math.inf)
    return choice.flatten(1)


def _scores(logits: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits if bias is None else logits.sigmoid()


def _routed(
    scores: torch.Tensor, ids: torch.Tensor, is_sigmoid: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The outputs from the scores [T,E] and the chosen ids [T,K]."""
    chosen = scores.gather(1, ids)
    total = chosen.sum(-1, keepdim=True)
    weights = SCALE * chosen / total if is_sigmoid else chosen.softmax(-1)
    flat, order = ids.flatten().sort(stable=True)
    rows = torch.arange(len(flat), device=ids.device)
    positions = torch.empty_like(rows).scatter(0, order, rows).view_as(ids)
    bounds = torch.arange(scores.shape[1] + 1, device=ids.device)
    offsets = torch.searchsorted(flat, bounds, out_int32=True)
    return weights, ids.int(), positions.int(), offsets


def eager(
    logits: torch.Tensor, bias: torch.Tensor | None, K: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(weights, ids, positions, offsets) from logits[T,E], and bias[E] for sigmoid_groups."""
    scores = _scores(logits, bias)
    # In any order among equals, of which `make_inputs` gives none.
    ids = _choice(scores, bias).topk(K, dim=-1).indices
    return _routed(scores, ids, bias is not None)


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """(weights, ids, positions, offsets), of equal scores the lower index."""
    bias = inputs.get("bias")
    scores = _scores(inputs["logits"], bias)
    order = _choice(scores, bias).sort(dim=-1, descending=True, stable=True).indices
    return _routed(scores, order[:, : problem["K"]], bias is not None)


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    T, E, K = problem["T"], problem["E"], problem["K"]
    is_sigmoid = problem.variant == "sigmoid_groups"
    flops = 7 * E + E * K // 2 if is_sigmoid else E * K
    return Cost(
        flops=T * (flops + 3 * K),
        bytes_read=T * E * dtypes.size_bytes(problem.dtype) + (4 * E if is_sigmoid else 0),
        bytes_written=4 * (3 * T * K + E + 1),
    )


# Scores nearer than this may be ordered otherwise by another sigmoid or by torch.topk: fp32 rounds
# a sum of two scores and biases by 2^-22.
_NEAR = 2.0**-16


def _is_near(logits: torch.Tensor, bias: torch.Tensor | None, K: int) -> torch.Tensor:
    """Whether two scores that decide are nearly equal, for each token."""
    scores = _scores(logits, bias)
    choice = _choice(scores, bias)
    best = choice.topk(min(K + 1, choice.shape[1]), dim=-1).values
    is_near = (-best.diff(dim=-1) < _NEAR).any(-1)
    if bias is not None:
        strength = (scores + bias).unflatten(-1, (NUM_GROUPS, -1)).topk(2, dim=-1).values.sum(-1)
        best = strength.topk(KEPT_GROUPS + 1, dim=-1).values
        is_near |= best[:, -2] - best[:, -1] < _NEAR
    return is_near


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Standard normal logits[T,E], and bias[E] in fp32 a tenth of that.

    Tokens between whose scores rounding would decide are drawn again.
    """
    T, E, K = problem["T"], problem["E"], problem["K"]
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device

    def draw(num_tokens: int) -> torch.Tensor:
        return torch.randn(num_tokens, E, generator=generator, device=device, dtype=dtype)

    inputs = {}
    bias = None
    if problem.variant == "sigmoid_groups":
        bias = inputs["bias"] = torch.randn(E, generator=generator, device=device) / 10
    logits = inputs["logits"] = draw(T)
    near = _is_near(logits, bias, K).nonzero().flatten()
    while len(near):
        logits[near] = draw(len(near))
        near = near[_is_near(logits[near], bias, K)]
    return inputs


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """Weights: an exponential and a division of fp32; what is chosen, and in which order, is exact.

    exp in fp32 is right to 2 units in the last place, and its argument, up to 8, rounds to 2^-21.
    """
    del problem
    error = 16 * dtypes.epsilon("fp32")
    index = Tolerance(dtype="int32", relative_error=0.0, max_error=0.0, row_error=0.0)
    return (
        Tolerance(dtype="fp32", relative_error=error, max_error=8 * error, row_error=4 * error),
        index,
        index,
        index,
    )


def _prepare_torch(problem: Problem, inputs: Inputs) -> Run:
    logits, bias, K = inputs["logits"], inputs.get("bias"), problem["K"]
    return lambda: eager(logits, bias, K)


def _prepare_compile(problem: Problem, inputs: Inputs) -> Run:
    logits, bias, K = inputs["logits"], inputs.get("bias"), problem["K"]
    function = compiled(eager)
    function(logits, bias, K)
    return lambda: function(logits, bias, K)


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    logits, K = inputs["logits"], problem["K"]
    if problem.variant == "softmax":
        return lambda: moe_route_softmax(logits, K)
    bias = inputs["bias"]
    return lambda: moe_route_sigmoid_groups(logits, bias, K)


def _choose_aot(variant: str, dtype: str, experts: int, block_t: int, block_k: int) -> AotKernel:
    is_sigmoid = variant == "sigmoid_groups"
    num_groups = NUM_GROUPS if is_sigmoid else 1
    constexprs: dict[str, object] = {
        "IS_SIGMOID": is_sigmoid,
        "NUM_GROUPS": num_groups,
        "KEPT_GROUPS": KEPT_GROUPS,
        "SCALE": SCALE,
        "BLOCK_T": block_t,
        "BLOCK_G": experts // num_groups,
        "BLOCK_K": block_k,
    }
    return AotKernel(
        label=f"moe_route {variant} {dtype} {experts}",
        kernel=_choose_kernel,
        signature={
            "logits_ptr": f"*{dtype}:16",
            "bias_ptr": "*fp32:16" if is_sigmoid else f"*{dtype}:16",
            "weights_ptr": "*fp32:16",
            "ids_ptr": "*i32:16",
            "ranks_ptr": "*i32:16",
            "counts_ptr": "*i32:16",
            "T": "i32:16",
            "E": "i32:16",
            "group_size": "i32:16",
            "K": "i32",
            **dict.fromkeys(constexprs, "constexpr"),
        },
        constexprs=constexprs,
        num_warps=_CHOOSE_WARPS,
        num_stages=3,
    )


AOT = (
    # Qwen3, DeepSeek-V3, Mixtral, and the most experts there may be.
    _choose_aot("softmax", "bf16", 128, 8, 8),
    _choose_aot("softmax", "fp32", 128, 8, 8),
    _choose_aot("sigmoid_groups", "fp32", 256, 8, 8),
    _choose_aot("softmax", "fp32", 8, 32, 2),
    _choose_aot("softmax", "fp32", _MAX_EXPERTS, 2, 8),
    AotKernel(
        label="moe_route scan",
        kernel=_scan_kernel,
        signature={
            "counts_ptr": "*i32:16",
            "firsts_ptr": "*i32:16",
            "totals_ptr": "*i32:16",
            "num_blocks": "i32",
            "E": "i32:16",
            "BLOCK_B": "constexpr",
            "BLOCK_E": "constexpr",
        },
        constexprs={"BLOCK_B": _SCAN_BLOCKS, "BLOCK_E": _SCAN_EXPERTS},
        num_warps=4,
        num_stages=3,
        small=("totals_ptr",),
    ),
    AotKernel(
        label="moe_route offsets",
        kernel=_offsets_kernel,
        signature={
            "totals_ptr": "*i32:16",
            "offsets_ptr": "*i32:16",
            "E": "i32:16",
            "BLOCK_E": "constexpr",
        },
        constexprs={"BLOCK_E": 512},
        num_warps=4,
        num_stages=3,
    ),
    AotKernel(
        label="moe_route place",
        kernel=_place_kernel,
        signature={
            "ids_ptr": "*i32:16",
            "ranks_ptr": "*i32:16",
            "firsts_ptr": "*i32:16",
            "offsets_ptr": "*i32:16",
            "positions_ptr": "*i32:16",
            "R": "i32:16",
            "E": "i32:16",
            "rows_of_block": "i32:16",
            "BLOCK_R": "constexpr",
        },
        constexprs={"BLOCK_R": _PLACE_ROWS},
        num_warps=4,
        num_stages=3,
    ),
)

OP = Op(
    name="moe_route",
    formula="weights[T,K], ids[T,K] = the K best of E experts by logits[T,E]",
    source="Shazeer et al. 2017, https://arxiv.org/abs/1701.06538; DeepSeek-V3, section 2.1.2, "
    "https://arxiv.org/abs/2412.19437",
    axes=("T", "E", "K"),
    dtypes=("bf16", "fp32"),
    modes=(Mode.FORWARD,),
    variants=("softmax", "sigmoid_groups"),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        Impl("torch", _prepare_torch),
        Impl("compile", _prepare_compile, compile_unsupported),
        Impl("triton", _prepare_triton, triton_unsupported),
    ),
    only_normal=("what is chosen follows from which logits are largest, and zeros are all alike."),
)
