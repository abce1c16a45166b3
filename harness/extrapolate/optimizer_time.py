"""The optimizer's time as a curve over the parameters it updates, from few lookups."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.extrapolate.lookup import Lookup, OpTime
from harness.extrapolate.plans import Floats
from harness.workload.step import optimizer_work

TOLERANCE = 2e-4
"""Relative error of the curve between its knots that ends their refinement."""
LEAST_STEP = 1.001
"""Knots are no closer than this ratio, also where the time jumps."""
PROBES = (0.25, 0.5, 0.75)
"""Where between two knots the curve is held against the lookup, as shares of their logarithm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerCurve:
    """Straight lines between looked-up sizes; all fields have shape (K,)."""

    num_parameters: Floats
    """Of one chip, rising."""
    seconds: Floats
    low: Floats
    high: Floats

    def at(self, num_parameters: Floats, values: Floats) -> Floats:
        """The values of the knots, one of this curve's fields, interpolated to those sizes."""
        if len(self.num_parameters) == 1:
            # Of a single size a value may be an array of draws, of shape (D, 1).
            shape = np.broadcast_shapes(values.shape, num_parameters.shape)
            return np.broadcast_to(values, shape)
        return np.interp(num_parameters, self.num_parameters, values)


def optimizer_curve(lookup: Lookup, dtype: str, least: float, most: float) -> OptimizerCurve:
    """The curve from the least to the most parameters, within TOLERANCE of each lookup.

    Where the time is bytes over a rate and a fixed time, as of a data sheet, two lookups give it;
    where it follows measured sizes, knots are added until their midpoints agree.
    """

    def time(size: int) -> OpTime:
        (item,) = optimizer_work(size, dtype)
        return lookup.time(item.problem)

    ends = sorted({max(1, math.floor(least)), max(1, math.floor(most))})
    knots = {size: time(size) for size in ends}
    if len(ends) == 2:
        _refine(time, knots, ends[0], ends[1])
    sizes = sorted(knots)
    return OptimizerCurve(
        num_parameters=np.array(sizes, dtype=np.float64),
        seconds=np.stack([np.asarray(knots[size].seconds) for size in sizes], axis=-1),
        low=np.array([knots[size].low for size in sizes]),
        high=np.array([knots[size].high for size in sizes]),
    )


def _refine(time: Callable[[int], OpTime], knots: dict[int, OpTime], least: int, most: int) -> None:
    """Add knots between two until the line between neighbours is the time."""
    if most / least < LEAST_STEP or most - least < 2:
        return
    for share in PROBES:
        size = round(least ** (1 - share) * most**share)
        if not least < size < most:
            continue
        weight = (size - least) / (most - least)
        exact = time(size)
        for name in ("seconds", "low", "high"):
            ends = getattr(knots[least], name), getattr(knots[most], name)
            line = ends[0] + weight * (ends[1] - ends[0])
            if abs(line - getattr(exact, name)) > TOLERANCE * getattr(exact, name):
                knots[size] = exact
                _refine(time, knots, least, size)
                _refine(time, knots, size, most)
                return
