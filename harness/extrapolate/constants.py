"""Constants that published runs calibrate: how well a generation of software uses a chip.

Each has a prior from the literature, which holds where no published run says more, and a scope:
the chip, the software generation, both, or everything. `harness/validation/calibrate.py` finds
their values from a part of the published runs; none belongs to a single run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum


class Scope(StrEnum):
    """What one value of a constant holds for."""

    ALL = "all"
    CHIP = "chip"
    SOFTWARE = "software"
    BOTH = "software and architecture"


ARCHITECTURES = {
    "a100_40gb_sxm": "ampere",
    "a100_80gb_sxm": "ampere",
    "a800_80gb_sxm": "ampere",
    "h100_sxm": "hopper",
    "h100_sxm_96gb_hbm2e": "hopper",
    "h200_sxm": "hopper",
    "h20_sxm": "hopper",
    "h800_sxm": "hopper",
    "gh200_sxm": "hopper",
    "b200": "blackwell",
    "b300": "blackwell",
    "gb200": "blackwell",
    "gb300": "blackwell",
}
"""Chips that run the same attention kernels; another chip is an architecture of its own."""


def architecture(chip: str) -> str:
    """The name under which a chip shares its attention kernels with others."""
    return ARCHITECTURES.get(chip, chip)


def _prior(value: float, spread: float, scope: Scope, source: str) -> float:
    """A field whose default is the prior's middle."""
    made: float = field(
        default=value, metadata={"spread": spread, "scope": scope, "source": source}
    )
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """The constants of one chip under one generation of software."""

    matrix_share: float = _prior(
        0.85,
        1.12,
        Scope.CHIP,
        "a large product inside a layer over the best one published for the chip "
        "(stas00/ml-engineering@744d01e); clocks fall under a sustained load",
    )
    """Rate of large 16-bit products over the best published for the chip."""
    matrix_share_8bit: float = _prior(
        0.80, 1.28, Scope.CHIP, "the same for 8 bits, where scaling costs more"
    )
    half_wave_outputs: float = _prior(
        2.1e6,
        2.3,
        Scope.ALL,
        "half a wave of tiles: 132 multiprocessors of an H100, 128 x 256 elements each, over two",
    )
    """Elements of output that a 16-bit product loses to its last, partly filled wave of tiles."""
    half_wave_outputs_8bit: float = _prior(3.0e6, 2.3, Scope.ALL, "the same for 8 bits")
    grouped_share: float = _prior(
        0.75,
        1.6,
        Scope.SOFTWARE,
        "rate of the products of experts over that of one product as large; assumed",
    )
    scan_share: float = _prior(
        0.3,
        2.5,
        Scope.ALL,
        "rate of a state-space scan over that of a product with its FLOPs; its chunks are small "
        "products joined by exponentials (Dao and Gu, arXiv 2405.21060 section 6); assumed",
    )
    attention_forward_share: float = _prior(
        0.55,
        1.5,
        Scope.BOTH,
        "FlashAttention-2 on A100: 50 to 73 % of the peak (arXiv 2307.08691 section 4.1); "
        "FlashAttention-3 on H100: up to 75 %, causal less (arXiv 2407.08608 section 4.1)",
    )
    attention_backward_share: float = _prior(
        0.40,
        1.5,
        Scope.BOTH,
        "the same papers reach about 50 % backward, counting the 5 matrix products that are "
        "computed; the cost here counts the 4 that are needed",
    )
    memory_share: float = _prior(
        0.80,
        1.5,
        Scope.SOFTWARE,
        "BabelStream and FlagPerf on A100 reach 85 to 88 % of the sheet; less where ops that "
        "could be one kernel are several",
    )
    """Bytes per second of elementwise ops over the sheet's, each byte counted once."""
    permute_share: float = _prior(
        0.5, 2.0, Scope.SOFTWARE, "the same of routing and of the order of experts; assumed"
    )
    quantize_factor: float = _prior(
        0.6,
        1.9,
        Scope.SOFTWARE,
        "time of quantizing an input over a kernel of its own that reads and writes it; joined "
        "with the op before where below one (Transformer Engine); assumed",
    )
    host_s_per_layer: float = _prior(
        1.0e-3,
        3.7,
        Scope.SOFTWARE,
        "about 100 launches of 10 us for a layer's forward and backward pass in eager PyTorch; "
        "assumed, and 3.4 ms with recomputation in vTrain's runs on A100",
    )
    """A layer takes at least this, however short its kernels are."""
    host_s_per_expert_layer: float = _prior(
        5.0e-3,
        3.7,
        Scope.SOFTWARE,
        "what a layer with experts asks of the host beyond that: launches of routing and "
        "exchange, and the counts of tokens that it waits for; assumed",
    )
    host_s_per_step: float = _prior(
        0.05, 2.3, Scope.SOFTWARE, "gradient norm, data loading and logging; assumed"
    )
    tensor_exchange_factor: float = _prior(
        1.0,
        2.0,
        Scope.SOFTWARE,
        "exposed tensor-parallel exchange over one that hides nothing forward; below one where "
        "products are cut so that pieces travel beside them",
    )
    expert_exchange_factor: float = _prior(
        0.8,
        2.3,
        Scope.SOFTWARE,
        "exposed exchange of tokens over one all-to-all that hides nothing; assumed",
    )
    sharded_exchange_factor: float = _prior(
        1.0,
        1.7,
        Scope.SOFTWARE,
        "time to gather sharded weights over a ring on all ports; more where a parameter is "
        "broadcast by its owner alone",
    )
    sharded_exposed_share: float = _prior(
        0.1, 3.7, Scope.SOFTWARE, "share of that exchange that is never hidden; assumed"
    )
    growth_per_doubling: float = _prior(
        0.0053,
        2.3,
        Scope.ALL,
        "median over 20 bf16 weak-scaling series of NVIDIA/dgxc-benchmarking, 8 to 2304 chips",
    )
    """Jitter: busy time lost per doubling of the chips beyond one scale-up domain."""


NAMES = tuple(one.name for one in fields(Constants))
SPREADS: Mapping[str, float] = {
    one.name: float(one.metadata["spread"]) for one in fields(Constants)
}
"""How far from the prior the truth may be, as a ratio, 90 %."""
SCOPES: Mapping[str, Scope] = {one.name: one.metadata["scope"] for one in fields(Constants)}
SOURCES: Mapping[str, str] = {one.name: str(one.metadata["source"]) for one in fields(Constants)}
PRIOR = Constants()
"""The constants of a chip and a software generation that no published run is of."""


def subject(name: str, chip: str, software: str) -> str:
    """What a value of that constant is of, as a calibration writes it."""
    return {
        Scope.ALL: "",
        Scope.CHIP: chip,
        Scope.SOFTWARE: software,
        Scope.BOTH: f"{software} {architecture(chip)}",
    }[SCOPES[name]]
