"""One plan with many draws of what its step rests on, all at once.

A draw moves every input by so many standard deviations of its logarithm; the arrays of draws take
the place of numbers in the same model, so that nothing is modelled twice.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np

from harness.extrapolate.constants import Constants
from harness.extrapolate.lookup import CONFIDENCE_SIGMAS, SPREAD_OF, Lookup, OpTime
from harness.extrapolate.memory import PlanCounts
from harness.extrapolate.plan_step import TimedPlans, step_times
from harness.extrapolate.plans import Floats, PlanTable
from harness.extrapolate.rates import PlanRates
from harness.extrapolate.step import StepModel
from harness.projection import PlanChoice, Source
from kernels.op import Problem

INNER_NETWORK, OUTER_NETWORK = "scale-up network", "scale-out network"
CONTENTION_OF_BOTH = "contention"
OF_SOURCE = {
    Source.MEASURED: "measured kernels",
    Source.INTERPOLATED: "kernels of other sizes",
    Source.EXTRAPOLATED: "kernels of other sizes",
}
"""The input that a time of that source rests on; ops are taken to err together."""

Draws = Mapping[str, Floats]
"""Standard deviations by input, each of shape (D,); an input that is not there is not moved."""


@dataclass(slots=True)
class DrawnLookup:
    """A lookup whose times and constants are arrays, one number for each draw."""

    base: Lookup
    draws: Draws
    spreads: Mapping[str, float]
    """The 90 % ratio of each calibrated constant."""

    @property
    def constants(self) -> Constants:
        """The base's, each moved by its draws."""
        moved = {
            one.name: getattr(self.base.constants, one.name) * self._factor(one.name)
            for one in fields(Constants)
            if one.name in self.draws
        }
        return replace(self.base.constants, **moved)

    def _factor(self, name: str) -> Floats:
        spread = self.spreads.get(name, SPREAD_OF.get(name, 1.0))
        return ratio(self.draws[name], spread)

    def time(self, problem: Problem) -> OpTime:
        """The time of the problem under each draw."""
        known = self.base.time(problem)
        factor: float | Floats = 1.0
        for name in known.causes:
            if name in self.draws:
                # Times grow with the one factor, and fall with every share of a rate.
                moved = self._factor(name)
                factor = factor * (moved if name == "quantize_factor" else 1 / moved)
        cause = OF_SOURCE.get(known.source)
        if cause is not None and cause in self.draws:
            sigma = math.log(known.high / known.low) / 2 / CONFIDENCE_SIGMAS
            factor = factor * np.exp(sigma * self.draws[cause])
        # Arrays take the place of numbers from here on.
        return replace(known, seconds=cast(float, known.seconds * factor))


def ratio(draws: Floats, spread: float) -> Floats:
    """The factor that so many standard deviations are, `spread` being the 95 % quantile."""
    found: Floats = np.exp(draws * (math.log(spread) / CONFIDENCE_SIGMAS))
    return found


def drawn_seconds(
    steps: StepModel, plan: PlanChoice, draws: Draws, spreads: Mapping[str, float]
) -> Floats:
    """The step of the plan under each draw, in seconds, shape (D,)."""
    lookup = DrawnLookup(steps.lookup, draws, spreads)

    def slowdown(name: str) -> float | Floats:
        return 1 / ratio(draws[name], spreads[name]) if name in draws else 1.0

    inner, outer = slowdown(INNER_NETWORK), slowdown(OUTER_NETWORK)
    drawn = replace(
        steps,
        lookup=cast(Lookup, lookup),
        inner_slowdown=cast(float, inner),
        outer_slowdown=cast(float, outer),
        _layers={},
        _works={},
        _ends={},
    )
    rates = PlanRates.of(lookup.constants)
    rates = replace(rates, outer_slowdown=outer)
    if CONTENTION_OF_BOTH in draws:
        moved = ratio(draws[CONTENTION_OF_BOTH], spreads[CONTENTION_OF_BOTH])
        rates = replace(rates, contention=rates.contention * moved)
    columns: dict[str, Any] = {
        one.name: value[:, None]
        for one in fields(PlanRates)
        if isinstance(value := getattr(rates, one.name), np.ndarray)
    }
    rates = replace(rates, **columns)
    counts = PlanCounts.of(steps.model, PlanTable.of(plan), steps.one_chip)
    seconds = step_times(TimedPlans.of(drawn, counts, rates)).seconds
    num_draws = len(next(iter(draws.values()))) if draws else 1
    return np.broadcast_to(seconds[..., 0], (num_draws,))
