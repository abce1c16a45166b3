"""The constants of a whole plan as one value, so that they can be other numbers or arrays."""

from dataclasses import dataclass
from typing import TypeAlias

from harness.extrapolate.plans import Floats
from harness.extrapolate.priors import (
    CONTENTION,
    CONTEXT_BYTES,
    FRAGMENTATION,
    GRADIENT_BYTES_ON_WIRE,
    GROWTH_PER_DOUBLING,
    HOST_S_PER_STEP,
)

Rate: TypeAlias = float | Floats
"""One value for all plans, or draws of it: an array of shape (D, 1), which makes the results of N
plans arrays of shape (D, N)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRates:
    """What a step and its memory take from `priors`, beside the times of layers and networks."""

    contention: Rate = CONTENTION.value
    """Seconds that computation loses per second of communication hidden behind it."""
    growth_per_doubling: Rate = GROWTH_PER_DOUBLING.value
    """Share of the busy time lost per doubling of the chips beyond a scale-up domain."""
    host_s_per_step: Rate = HOST_S_PER_STEP.value
    gradient_bytes_on_wire: float = GRADIENT_BYTES_ON_WIRE
    fragmentation: Rate = FRAGMENTATION
    """Share of the tensors' memory lost between them."""
    context_bytes: Rate = CONTEXT_BYTES
    """Memory of the driver, the collectives and the libraries."""


PRIOR_RATES = PlanRates()
"""The priors' own values."""
