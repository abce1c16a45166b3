"""What the model takes from elsewhere as it is: each constant with its spread and its source.

Those that published runs calibrate, per chip and software generation, are in `constants`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """A constant, how far from it the truth may be (as a ratio, 90 %), and where it is from."""

    value: float
    spread: float
    source: str


BEST_SHARE_OF_PEAK = Prior(
    value=0.776,
    spread=1.25,
    source="median of 11 chips in stas00/ml-engineering@744d01e, from 0.51 (MI300X) to 0.97 "
    "(Gaudi2)",
)
"""Best matrix product over the data sheet's peak, for chips where nobody published it."""
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
CONTEXT_BYTES = 2 * 2**30
"""Memory of the driver, the collectives' buffers and the libraries' work space; assumed."""
FRAGMENTATION = 0.05
"""Share of tensor memory lost between tensors by the caching allocator; 3 to 8 %, assumed."""
GRADIENT_BYTES_ON_WIRE = 2
"""Gradients of 16-bit training are reduced in 16 bits, as MLPerf's GPT-3 and Llama runs are."""
