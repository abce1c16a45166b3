"""What the model takes from elsewhere: every constant with its spread and its source.

None is fitted to a single row. Those taken from published series name the series, and
`docs/extrapolation.md` says which checks are then not independent.
"""

from dataclasses import dataclass

from kernels.op import Mode, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """A constant, how far from it the truth may be (as a ratio, 90 %), and where it is from."""

    value: float
    spread: float
    source: str


MATRIX_SHARE_OF_BEST = Prior(
    value=0.82,
    spread=1.10,
    source="calibrated once on the dense bf16 runs of NVIDIA/dgxc-benchmarking on up to 512 H100; "
    "no other run enters it; 8192^3 alone on an A100 reaches 0.96 (FlagPerf, 259 of 271)",
)
"""Rate of the matrix products of a layer over the best matrix product published for the chip."""
BEST_SHARE_OF_PEAK = Prior(
    value=0.776,
    spread=1.25,
    source="median of 11 chips in stas00/ml-engineering@744d01e, from 0.51 (MI300X) to 0.97 "
    "(Gaudi2)",
)
"""Best matrix product over the data sheet's peak, for chips where nobody published it."""
ATTENTION_FORWARD_SHARE_OF_PEAK = Prior(
    value=0.60,
    spread=1.25,
    source="FlashAttention-2 on A100: 50 to 73 % (arXiv 2307.08691 section 4.1); FlashAttention-3 "
    "on H100: up to 75 %, causal less (arXiv 2407.08608 section 4.1)",
)
ATTENTION_BACKWARD_SHARE_OF_PEAK = Prior(
    value=0.40,
    spread=1.25,
    source="the same papers reach about 50 % backward, counting the 5 matrix products that are "
    "computed; the cost here counts the 4 that are needed",
)
MEMORY_SHARE_OF_PEAK = Prior(
    value=0.88,
    spread=1.08,
    source="BabelStream and FlagPerf on A100: 1328 to 1790 GB/s of 1555 and 2039 (85 to 88 %)",
)
ROOF_TO_KERNEL = Prior(
    value=0.85,
    spread=1.20,
    source="assumed: an op that was not measured runs at this share of the measured roof",
)
FIXED_S_PER_KERNEL = Prior(
    value=4e-6,
    spread=2.0,
    source="launch gap and drain of one kernel on current GPUs, 3 to 5 us; assumed",
)
HOST_S_PER_LAYER = Prior(
    value=1.0e-3,
    spread=3.0,
    source="assumed: about 100 launches of 10 us for a layer's forward and backward in eager "
    "PyTorch; a layer takes at least this",
)
HOST_S_PER_STEP = Prior(
    value=0.02,
    spread=2.0,
    source="assumed: gradient norm, data loading and logging that nothing hides",
)
COLLECTIVE_BASE_S = Prior(
    value=8.4e-6,
    spread=2.0,
    source="NCCL src/graph/tuning.cc, base latency of the Simple protocol",
)
PER_PEER_S = Prior(
    value=0.45e-6,
    spread=3.0,
    source="set-up per remote peer of an all-to-all in Primus, collective_args.py",
)
CONTENTION = Prior(
    value=0.189,
    spread=1.5,
    source="mean slow-down of computation beside communication on A100, H100, MI210 and MI250 "
    "(arXiv 2507.03114)",
)
"""Seconds that computation loses per second of communication hidden behind it."""
GROWTH_PER_DOUBLING = Prior(
    value=0.0053,
    spread=2.0,
    source="median over 20 bf16 weak-scaling series of NVIDIA/dgxc-benchmarking, 8 to 2304 chips",
)
"""Jitter: busy time lost per doubling of the chips beyond one scale-up domain."""

CONTEXT_BYTES = 2 * 2**30
"""Memory of the driver, the collectives' buffers and the libraries' work space; assumed."""
FRAGMENTATION = 0.05
"""Share of tensor memory lost between tensors by the caching allocator; 3 to 8 %, assumed."""
GRADIENT_BYTES_ON_WIRE = 2
"""Gradients of 16-bit training are reduced in 16 bits, as MLPerf's GPT-3 and Llama runs are."""


ATTENTION_OPS = frozenset(
    {
        "attention",
        "mla_decode",
        "mla_prefill",
        "paged_decode",
        "paged_prefill",
        "varlen_attention",
        "window_attention",
    }
)
"""Ops whose two products per tile are joined by a softmax, which no plain product waits for."""


def matrix_share(problem: Problem) -> tuple[Prior, bool]:
    """The prior of a problem's matrix rate, and whether it is a share of the data sheet's peak."""
    if problem.op not in ATTENTION_OPS:
        return MATRIX_SHARE_OF_BEST, False
    if problem.mode is Mode.FORWARD:
        return ATTENTION_FORWARD_SHARE_OF_PEAK, True
    return ATTENTION_BACKWARD_SHARE_OF_PEAK, True
