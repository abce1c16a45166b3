"""How far two projections are apart: the ratio of their steps with what they share drawn once.

An input is common to two projections when it is of the same subject: a constant of the chip, of the
software, of both or of everything, the rates of a cluster's networks, the model's own error of one
kind of model under one software of one vendor; so the model's own error is common to an H100 and a
GB200, and not to an H100 and a TPU.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.extrapolate.calibration import Residual
from harness.extrapolate.constants import NAMES, SCOPES, Scope, architecture
from harness.extrapolate.drawn import INNER_NETWORK, OUTER_NETWORK
from harness.extrapolate.plans import Floats
from harness.extrapolate.project import Context
from harness.extrapolate.uncertainty import (
    BEYOND_CHECKED,
    MODEL_ERROR,
    NUM_DRAWS,
    QUANTILES,
    SEED,
    drawn_step_s,
    input_names,
    model_error,
)
from harness.projection import Interval, PlanChoice, Projection


@dataclass(frozen=True, slots=True)
class DrawnStep:
    """A step under draws, over the step as projected."""

    factors: Floats
    """Shape (NUM_DRAWS,)."""
    is_by_cause: bool
    """False where only the interval of the whole is known, taken for independent of all others."""


def subject_of(name: str, context: Context) -> str:
    """Whose input that is; what has the same name and subject is drawn once."""
    # No generation of software is the same one on chips of two vendors.
    software = f"{context.software} on {context.chip.vendor}"
    chip, kind = context.chip.name, "experts" if context.steps.model.experts else "dense"
    if name in NAMES:
        return {
            Scope.ALL: "",
            Scope.CHIP: chip,
            Scope.SOFTWARE: software,
            Scope.BOTH: f"{software} {architecture(chip)}",
        }[SCOPES[name]]
    if name in (INNER_NETWORK, OUTER_NETWORK):
        return context.steps.cluster.name
    if name == MODEL_ERROR:
        return f"{software} {kind}"
    return "" if name == BEYOND_CHECKED else chip


def step_by_cause(context: Context, plan: PlanChoice) -> DrawnStep:
    """The plan's step under draws of its inputs; another step's draws of a subject are the same."""
    names = input_names(context.spreads)
    # The last is the step with every input at its value.
    draws: Mapping[str, Floats] = {
        name: np.append(_normal(name, subject_of(name, context)), 0.0) for name in names
    }
    drawn = drawn_step_s(context.steps, plan, draws, context.spreads, context.residual)
    return DrawnStep(factors=drawn[:-1] / drawn[-1], is_by_cause=True)


def step_by_interval(projection: Projection) -> DrawnStep:
    """Draws that have the interval of the step, independent of those of any other."""
    step = projection.headline.step_time_s
    spread = Residual(low=step.low / step.value, high=step.high / step.value)
    draws = _normal("step", f"{projection.model} {projection.cluster}")
    return DrawnStep(factors=model_error(draws, spread), is_by_cause=False)


def throughput_ratio(
    one: Projection, one_drawn: DrawnStep, other: Projection, other_drawn: DrawnStep
) -> Interval:
    """Tokens per second of one over those of the other, with P10 and P90 of the common draws."""
    value = one.headline.tokens_per_second.value / other.headline.tokens_per_second.value
    drawn = value * other_drawn.factors / one_drawn.factors
    low, _, high = (float(end) for end in np.quantile(drawn, QUANTILES))
    return Interval(value=value, low=low, high=high)


def _normal(name: str, subject: str) -> Floats:
    """Standard deviations, the same for the same name and subject, shape (NUM_DRAWS,)."""
    seed = zlib.crc32(f"{SEED} {name} of {subject}".encode())
    found: Floats = np.random.default_rng(seed).standard_normal(NUM_DRAWS)
    return found
