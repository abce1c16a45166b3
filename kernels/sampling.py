"""Sampling: ids[T] drawn from softmax(logits[T,V]) restricted to likely tokens, by u[T] in [0, 1).

Shape letters: T tokens to draw, one for each sequence, V vocabulary. The temperature is 1. Kept
are, by variant,
    top_k        the k = 50 largest logits,
    top_p        the fewest largest logits with at least p = 0.9 of the probability,
    top_k_top_p  those of the k = 50 largest with at least p = 0.9 of their probability;
logits equal to the least one kept are kept too. ids[t] is the first index at which the sum of the
kept probabilities, in the order of the indices, passes u[t] of their total. ids are int64.
An index is right or wrong, so inputs are made such that rounding does not decide: the tokens kept
stand apart from the others, and u is in the middle half of the interval of a token drawn among
them, computed in fp64.
The Triton implementation sorts nothing. A row is read once for its extremes, a few times for the
least logit kept, whose bits, in an order that is the numbers', are searched eight parts at a time,
and twice to draw; after the first time from the L2 cache where it fits.
All sums have a fixed order. One program takes a row, so few rows do not fill a chip.
Counted: 4 FLOPs per logit (maximum, subtract, exp, add), comparisons not. Bytes: logits and u read,
ids written.
Source: top-p of Holtzman et al. 2019, https://arxiv.org/abs/1904.09751; top-k of Fan et al. 2018,
https://arxiv.org/abs/1805.04833; a threshold in place of a sort as in FlashInfer, Ye et al. 2025,
https://arxiv.org/abs/2501.01005.
"""

import torch

from kernels import dtypes
from kernels.compiled import compile_unsupported, prepare_compiled
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run, Tolerance
from kernels.triton_support import (
    AotKernel,
    next_power_of_2,
    require_contiguous,
    require_dtype,
    tl,
    triton,
    triton_unsupported,
)

TOP_K = 50
TOP_P = 0.9

_VARIANTS = ("top_k", "top_p", "top_k_top_p")

# A row has one program, so it has many warps. The search holds eight sums for each logit of a
# block: 32 registers of a thread at 2048 logits and 512 threads.
_MAX_BLOCK_V = 2048
_NUM_WARPS = 16
# Parts of the range in one step of the search: 3 bits, so 6 steps for a 16-bit type and 11 for
# fp32, in place of 16 and 32 by halves.
_PARTS = tl.constexpr(8)

# Low bits that a type leaves zero when it is widened to fp32.
_UNUSED_BITS = {torch.float32: 0, torch.float16: 13, torch.bfloat16: 16}


@triton.jit
def _ordered(x, UNUSED_BITS: tl.constexpr):
    # Integers in the order of the fp32 numbers: all bits but the sign of negative ones are flipped.
    bits = x.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> UNUSED_BITS


@triton.jit
def _least_kept(
    row_ptr, V, peak, low, high, wanted, IS_COUNT: tl.constexpr, UNUSED_BITS: tl.constexpr,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    # The largest key in [low, high] such that the logits from it on have at least the wanted
    # weight: one each, or their mass. Those below low, the least logit that counts, have none.
    floor = low
    end = high + 1
    columns = tl.arange(0, BLOCK_V)[None, :]
    parts = tl.arange(0, _PARTS)
    while end - low > 1:
        step = (end - low + _PARTS - 1) // _PARTS
        pivots = low + parts * step
        weights = tl.zeros([_PARTS, BLOCK_V], dtype=tl.float32)
        for first in range(0, V, BLOCK_V):
            mask = columns < V - first
            x = tl.load(row_ptr + first + columns, mask=mask, other=-float("inf")).to(tl.float32)
            keys = _ordered(x, UNUSED_BITS).to(tl.int64)
            weight = tl.where(mask, 1.0, 0.0) if IS_COUNT else tl.exp(x - peak)
            weight = tl.where(keys >= floor, weight, 0.0)
            weights += tl.where(keys >= pivots[:, None], weight, 0.0)
        # The first part reaches the wanted weight by what low is, whatever rounding says.
        is_enough = (tl.sum(weights, axis=1) >= wanted) | (parts == 0)
        low = tl.max(tl.where(is_enough, pivots, low), axis=0)
        end = tl.minimum(end, low + step)
    return low


@triton.jit
def _mass_from(row_ptr, V, peak, least, UNUSED_BITS: tl.constexpr, BLOCK_V: tl.constexpr):
    columns = tl.arange(0, BLOCK_V)
    masses = tl.zeros([BLOCK_V], dtype=tl.float32)
    for first in range(0, V, BLOCK_V):
        mask = columns < V - first
        x = tl.load(row_ptr + first + columns, mask=mask, other=-float("inf")).to(tl.float32)
        masses += tl.where(_ordered(x, UNUSED_BITS) >= least, tl.exp(x - peak), 0.0)
    return tl.sum(masses, axis=0)


@triton.jit
def _sampling_kernel(
    logits_ptr, u_ptr, ids_ptr, V, top_k, top_p, HAS_K: tl.constexpr, HAS_P: tl.constexpr,
    UNUSED_BITS: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * V
    columns = tl.arange(0, BLOCK_V)
    peaks = tl.full([BLOCK_V], -float("inf"), dtype=tl.float32)
    lows = tl.full([BLOCK_V], float("inf"), dtype=tl.float32)
    for first in range(0, V, BLOCK_V):
        mask = columns < V - first
        x = tl.load(row_ptr + first + columns, mask=mask, other=-float("inf")).to(tl.float32)
        peaks = tl.maximum(peaks, x)
        lows = tl.minimum(lows, tl.where(mask, x, float("inf")))
    peak = tl.max(peaks, axis=0)
    high = _ordered(peak, UNUSED_BITS).to(tl.int64)
    least = _ordered(tl.min(lows, axis=0), UNUSED_BITS).to(tl.int64)
    if HAS_K:
        least = _least_kept(row_ptr, V, peak, least, high, top_k, True, UNUSED_BITS, BLOCK_V)
    if HAS_P:
        wanted = top_p * _mass_from(row_ptr, V, peak, least, UNUSED_BITS, BLOCK_V)
        least = _least_kept(row_ptr, V, peak, least, high, wanted, False, UNUSED_BITS, BLOCK_V)

    wanted = tl.load(u_ptr + row) * _mass_from(row_ptr, V, peak, least, UNUSED_BITS, BLOCK_V)
    before = 0.0
    num_passed = 0
    last_kept = 0
    for first in range(0, V, BLOCK_V):
        mask = columns < V - first
        x = tl.load(row_ptr + first + columns, mask=mask, other=-float("inf")).to(tl.float32)
        is_kept = mask & (_ordered(x, UNUSED_BITS) >= least)
        mass = tl.where(is_kept, tl.exp(x - peak), 0.0)
        is_passed = mask & (before + tl.cumsum(mass, axis=0) <= wanted)
        num_passed += tl.sum(is_passed.to(tl.int32), axis=0)
        last_kept = tl.maximum(last_kept, tl.max(tl.where(is_kept, first + columns, 0), axis=0))
        before += tl.sum(mass, axis=0)
    # A sum that rounds below u of the total would pass them all.
    tl.store(ids_ptr + row, tl.minimum(num_passed, last_kept).to(tl.int64))


@torch.library.custom_op("chipscale::sampling", mutates_args=())
def sampling(logits: torch.Tensor, u: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """ids[T] from logits[T,V] and u[T] in fp32; top_k = 0 and top_p = 1 keep all."""
    require_contiguous("sampling", logits=logits, u=u)
    require_dtype("sampling", logits.dtype)
    require_dtype("sampling", torch.float32, u=u)
    if logits.ndim != 2 or u.shape != logits.shape[:1]:
        raise ValueError(
            "sampling: logits[T,V] and u[T] are expected, "
            f"not {tuple(logits.shape)} and {tuple(u.shape)}."
        )
    if top_k < 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"sampling: top_k >= 0 and 0 < top_p <= 1 are expected, not {top_k} and {top_p}."
        )
    T, V = logits.shape
    ids = logits.new_empty(T, dtype=torch.int64)
    _sampling_kernel[(T,)](
        logits, u, ids, V, float(top_k), top_p, HAS_K=0 < top_k < V, HAS_P=top_p < 1,
        UNUSED_BITS=_UNUSED_BITS[logits.dtype], BLOCK_V=min(next_power_of_2(V), _MAX_BLOCK_V),
        num_warps=_NUM_WARPS,
    )  # fmt: skip
    return ids


@sampling.register_fake
def _(logits: torch.Tensor, u: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    del u, top_k, top_p
    return logits.new_empty(logits.shape[0], dtype=torch.int64)


def _draw(logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    sums = logits.softmax(dim=1).cumsum(dim=1)
    wanted = u[:, None] * sums[:, -1:]
    return torch.searchsorted(sums, wanted, right=True)[:, 0]


def _within_k(logits: torch.Tensor) -> torch.Tensor:
    least = logits.topk(min(TOP_K, logits.shape[1]), dim=1).values[:, -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def _within_p(logits: torch.Tensor) -> torch.Tensor:
    ordered = logits.sort(dim=1, descending=True).values
    probabilities = ordered.softmax(dim=1)
    # Kept while what comes before is below p: the first always is.
    is_kept = probabilities.cumsum(dim=1) - probabilities < TOP_P
    least = ordered.masked_fill(~is_kept, torch.inf).amin(dim=1, keepdim=True)
    return logits.masked_fill(logits < least, -torch.inf)


def _formula_top_k(logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return _draw(_within_k(logits), u)


def _formula_top_p(logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return _draw(_within_p(logits), u)


def _formula_top_k_top_p(logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return _draw(_within_p(_within_k(logits)), u)


_FORMULAS = dict(
    zip(_VARIANTS, (_formula_top_k, _formula_top_p, _formula_top_k_top_p), strict=True)
)


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """(ids,), computed in the type of the logits, fp32 at least."""
    dtype = torch.promote_types(inputs["logits"].dtype, torch.float32)
    return (_FORMULAS[problem.variant](inputs["logits"].to(dtype), inputs["u"].to(dtype)),)


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    T = problem["T"]
    num_logits = T * problem["V"]
    return Cost(
        flops=4 * num_logits,
        bytes_read=num_logits * dtypes.size_bytes(problem.dtype) + 4 * T,
        bytes_written=8 * T,
    )


def _shift_to(logits: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """The logits of each row moved together, so that the exp of them sum to mass[T,1]."""
    return logits + mass.log() - logits.logsumexp(dim=1, keepdim=True)


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """logits[T,V] and u[T] whose ids no rounding changes, as the head of this file says.

    Kept tokens are uniform in [8, 10) and at random indices. Of those with p, the other candidates
    have so much mass that all kept ones are needed, by half of the least of them.
    """
    T, V = problem["T"], problem["V"]
    device = generator.device
    dtype = dtypes.torch_dtype(problem.dtype)

    def uniform(*sizes: int) -> torch.Tensor:
        return torch.rand(*sizes, generator=generator, device=device, dtype=torch.float64)

    num_candidates = min(V, V if problem.variant == "top_p" else TOP_K)
    num_kept = num_candidates
    if problem.variant != "top_k":
        # As many as a model that is rather sure leaves, and a minority of the candidates, so that
        # each of the others is well below them.
        num_kept = max(1, min(24, num_candidates // 3))
    # Rounded first, since their masses decide about the others.
    kept = (8 + 2 * uniform(T, num_kept)).to(dtype).double()
    others = 3 * uniform(T, num_candidates - num_kept)
    if num_candidates > num_kept:
        masses = kept.exp()
        total = masses.sum(dim=1, keepdim=True)
        least = masses.amin(dim=1, keepdim=True)
        # Halfway between where p is all that are kept, and where it is all but the least of them.
        most = total / TOP_P - total
        fewest = ((total - least) / TOP_P - total).clamp(min=0)
        others = _shift_to(others, (fewest + most) / 2)
    # Below every candidate by 1 or more.
    rest = others.amin(dim=1, keepdim=True) if others.shape[1] else kept.amin(dim=1, keepdim=True)
    rest = rest - 1 - 6 * uniform(T, V - num_candidates)
    places = uniform(T, V).argsort(dim=1)
    logits = torch.empty(T, V, device=device, dtype=torch.float64)
    logits.scatter_(1, places, torch.cat((kept, others, rest), dim=1))
    logits = logits.to(dtype)

    is_kept = torch.zeros(T, V, device=device, dtype=torch.bool)
    is_kept.scatter_(1, places[:, :num_kept], torch.ones_like(kept, dtype=torch.bool))
    mass = logits.double().exp() * is_kept
    drawn = torch.randint(num_kept, (T, 1), generator=generator, device=device)
    token = places.gather(1, drawn)
    sums = mass.cumsum(dim=1)
    own = mass.gather(1, token)
    inside = own * (0.25 + 0.5 * uniform(T, 1))
    u = (sums.gather(1, token) - own + inside) / sums[:, -1:]
    return {"logits": logits, "u": u[:, 0].float()}


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """None: an index is right or wrong."""
    del problem
    return (Tolerance(dtype="int64", relative_error=0.0, max_error=0.0, row_error=0.0),)


def _prepare_torch(problem: Problem, inputs: Inputs) -> Run:
    formula = _FORMULAS[problem.variant]
    logits, u = inputs["logits"], inputs["u"]
    return lambda: (formula(logits.float(), u),)


def _prepare_compile(problem: Problem, inputs: Inputs) -> Run:
    formula = _FORMULAS[problem.variant]

    def function(logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return formula(logits.float(), u)

    return prepare_compiled(function, (inputs["logits"], inputs["u"]))


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    logits, u = inputs["logits"], inputs["u"]
    top_k = 0 if problem.variant == "top_p" else TOP_K
    top_p = 1.0 if problem.variant == "top_k" else TOP_P
    return lambda: (sampling(logits, u, top_k, top_p),)


AOT = tuple(
    AotKernel(
        label=f"sampling {variant} {dtype}",
        kernel=_sampling_kernel,
        signature={
            "logits_ptr": f"*{dtype}:16", "u_ptr": "*fp32:16", "ids_ptr": "*i64:16", "V": "i32:16",
            "top_k": "fp32", "top_p": "fp32", "HAS_K": "constexpr", "HAS_P": "constexpr",
            "UNUSED_BITS": "constexpr", "BLOCK_V": "constexpr",
        },
        constexprs={
            "HAS_K": "k" in variant, "HAS_P": variant.endswith("p"),
            "UNUSED_BITS": unused_bits, "BLOCK_V": _MAX_BLOCK_V,
        },
        num_warps=_NUM_WARPS,
        num_stages=3,
    )
    for dtype, unused_bits, variant in (
        ("fp32", 0, "top_k_top_p"), ("bf16", 16, "top_k"), ("bf16", 16, "top_p"),
    )
)  # fmt: skip

OP = Op(
    name="sampling",
    formula="ids[T] = first index where cumsum(kept softmax(logits[T,V])) > u[T]",
    source="Holtzman et al. 2019, https://arxiv.org/abs/1904.09751",
    axes=("T", "V"),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD,),
    variants=("top_k", "top_p", "top_k_top_p"),
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
