"""The constants of a whole plan as one value, so that they can be other numbers or arrays."""

from dataclasses import dataclass
from typing import TypeAlias

from harness.extrapolate.constants import PRIOR, Constants
from harness.extrapolate.plans import Floats
from harness.extrapolate.priors import (
    CONTENTION,
    CONTEXT_BYTES,
    FRAGMENTATION,
    GRADIENT_BYTES_ON_WIRE,
)

Rate: TypeAlias = float | Floats
"""One value for all plans, or draws of it: an array of shape (D, 1), which makes the results of N
plans arrays of shape (D, N)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRates:
    """What a step and its memory take from constants, beside the times of layers and networks."""

    growth_per_doubling: Rate
    """Share of the busy time lost per doubling of the chips beyond a scale-up domain."""
    host_s_per_step: Rate
    sharded_exchange_factor: Rate
    """Time of gathering sharded weights over that of a ring."""
    sharded_exposed_share: Rate
    """Share of it that is never hidden."""
    outer_slowdown: Rate = 1.0
    """Time of exchanges between stages and replicas over what the cluster says."""
    contention: Rate = CONTENTION.value
    """Seconds that computation loses per second of communication hidden behind it."""
    gradient_bytes_on_wire: float = GRADIENT_BYTES_ON_WIRE
    fragmentation: Rate = FRAGMENTATION
    """Share of the tensors' memory lost between them."""
    context_bytes: Rate = CONTEXT_BYTES
    """Memory of the driver, the collectives and the libraries."""

    @classmethod
    def of(cls, constants: Constants) -> "PlanRates":
        """Those of a chip under its software."""
        return cls(
            growth_per_doubling=constants.growth_per_doubling,
            host_s_per_step=constants.host_s_per_step,
            sharded_exchange_factor=constants.sharded_exchange_factor,
            sharded_exposed_share=constants.sharded_exposed_share,
        )


PRIOR_RATES = PlanRates.of(PRIOR)
"""Those of a chip and software that nothing is known of."""
