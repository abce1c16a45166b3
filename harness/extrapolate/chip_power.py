"""What one chip draws: idle, per FLOP by data type, per byte of its memory and per byte sent.

Where cases of this chip were measured with its own counter of energy, the constants are those that
fit them best. Otherwise, where a cluster's file gives none, a matrix product at the best rate
published for the chip draws what is left of its design power beside the idle chip and the
operands' traffic.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from harness.device.chip import ChipSpec
from harness.errors import ConfigError
from harness.extrapolate.cluster import Power
from harness.extrapolate.lookup import CostFunction
from harness.extrapolate.priors import BEST_SHARE_OF_PEAK, Prior
from harness.record import Record, Status
from harness.roofs import HOT

IDLE_SHARE_OF_DESIGN_POWER = Prior(
    value=0.23,
    spread=1.5,
    source="H100 draws 300 W of 700 W decoding one sequence (ML.ENERGY), of which some 140 W are "
    "memory traffic at 70 % of the bandwidth; with nothing running it is half of that",
)
"""Of a chip that waits with its clocks up, as it does between kernels."""
MATRIX_SHARE_OF_DYNAMIC_POWER = Prior(
    value=0.9,
    spread=1.1,
    source="assumed: large matrix products run into the design power of current chips, and their "
    "operands' traffic takes a tenth of what the idle chip leaves",
)
JOULES_PER_MEMORY_BYTE = Prior(
    value=60e-12,
    spread=1.5,
    source="HBM2 3.9 pJ/bit in the memory (O'Connor et al., Fine-Grained DRAM, MICRO 2017), and as "
    "much again for the interface and the way across the chip, assumed",
)
JOULES_PER_NETWORK_BYTE = Prior(
    value=80e-12,
    spread=2.0,
    source="assumed: 10 pJ/bit for both ends of a link and the copies on the chip; switches and "
    "optics draw alike whatever they carry and are counted by themselves",
)
MIN_ENERGY_CASES = 6
"""Twice as many as constants that are fitted to them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipPower:
    """What one chip draws and for what."""

    design_w: float
    limit_w: float
    idle_w: float
    joules_per_flop: tuple[tuple[str, float], ...]
    """By data type."""
    joules_per_memory_byte: float
    joules_per_network_byte: float
    num_measured_cases: int = 0
    """Cases whose measured energy the constants fit; 0 where they follow from the data sheet."""

    def flop_joules(self, dtype: str) -> float:
        """Of that type, or of the dearest one known."""
        known = dict(self.joules_per_flop)
        return known.get(dtype, max(known.values(), default=0.0))


def chip_power(chip: ChipSpec, power: Power) -> ChipPower | None:
    """The chip's power by the cluster's file and the data sheet; None where nobody tells it.

    Raises:
        ConfigError: for a limit that not even the idle chip can keep.
    """
    design = power.chip_w or chip.power_w
    if design is None:
        return None
    limit = min(design, power.chip_limit_w or design)
    idle = power.chip_idle_w or IDLE_SHARE_OF_DESIGN_POWER.value * design
    if limit <= idle:
        raise ConfigError(
            f"cluster.power.chip_limit_watts: {limit:g} is not greater than the {idle:g} W of the "
            f"idle chip. Set cluster.power.chip_limit_watts={math.ceil(1.2 * idle)} or more."
        )
    per_flop: dict[str, float] = {}
    for dtype in dict((*chip.peak_flops_per_s, *chip.achievable_flops_per_s)):
        rate = chip.achievable(dtype)
        peak = chip.peak(dtype)
        if rate is None:
            assert peak is not None
            rate = BEST_SHARE_OF_PEAK.value * peak
        per_flop[dtype] = MATRIX_SHARE_OF_DYNAMIC_POWER.value * (design - idle) / rate
    if power.joules_per_flop is not None:
        # The file's value is of 16 bits; other types keep their proportion to it.
        sixteen = per_flop.get("bf16") or per_flop.get("fp16")
        factor = power.joules_per_flop / sixteen if sixteen else 1.0
        per_flop = {dtype: factor * value for dtype, value in per_flop.items()}
        per_flop.setdefault("bf16", power.joules_per_flop)
    if not per_flop:
        return None
    return ChipPower(
        design_w=design,
        limit_w=limit,
        idle_w=idle,
        joules_per_flop=tuple(per_flop.items()),
        joules_per_memory_byte=power.joules_per_memory_byte or JOULES_PER_MEMORY_BYTE.value,
        joules_per_network_byte=power.joules_per_network_byte or JOULES_PER_NETWORK_BYTE.value,
    )


def fitted(known: ChipPower, records: Sequence[Record], cost: CostFunction) -> ChipPower:
    """The constants that fit the measured energy of the chip's own runs best.

    E = P_idle t + k e_F flops + e_M bytes for each case, errors relative, none below zero; k keeps
    the proportions of the data types. The constants known stay where fewer than MIN_ENERGY_CASES
    cases were measured, or those leave a constant without any say.

    Source: non-negative least squares, Lawson and Hanson 1974.
    """
    rows, joules = [], []
    for record in records:
        energy = None if record.measurement is None else record.measurement.energy
        if record.status is not Status.OK or energy is None or energy.is_host_bound:
            continue
        if record.case.cache == HOT or energy.joules_per_run <= 0:
            continue
        found = cost(record.case.problem)
        per_flop = known.flop_joules(record.case.problem.dtype)
        rows.append((energy.seconds / energy.num_runs, per_flop * found.flops, found.num_bytes))
        joules.append(energy.joules_per_run)
    if len(rows) < MIN_ENERGY_CASES:
        return known
    measured = np.array(joules)
    terms = np.array(rows, dtype=float) / measured[:, None]
    scale = terms.max(axis=0)
    if not scale.all():
        return known
    solution, _ = nnls(terms / scale, np.ones(len(rows)))
    idle_w, factor, per_byte = (float(one) for one in solution / scale)
    if not 0 < idle_w < known.limit_w or factor == 0 or per_byte == 0:
        return known
    return replace(
        known,
        idle_w=idle_w,
        joules_per_flop=tuple((dtype, factor * one) for dtype, one in known.joules_per_flop),
        joules_per_memory_byte=per_byte,
        num_measured_cases=len(rows),
    )
