"""What a projection's interval is made of: draws of every input, and each one's share.

    ln step = ln model(inputs) + e          inputs lognormal around their values, e the model's own
                                            error, as published runs left out of the fit show it

P10, P50 and P90 are quantiles of the draws. An input's share of the variance is the square of its
rank-free correlation with ln step over the sum of all such squares; what the sum leaves of 1 is
named as interaction. Its bar of the tornado chart is the step with that input alone at its own P10
and P90.

Source: Saltelli et al., Global Sensitivity Analysis, 2008, section 1.2.5 (standardized regression
coefficients); Latin hypercubes, McKay et al., Technometrics 21(2), 1979.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.stats import norm, qmc

from harness.extrapolate.calibration import Residual
from harness.extrapolate.drawn import (
    CONTENTION_OF_BOTH,
    INNER_NETWORK,
    OF_SOURCE,
    OUTER_NETWORK,
    drawn_seconds,
)
from harness.extrapolate.lookup import SPREAD_OF
from harness.extrapolate.plans import Floats
from harness.extrapolate.priors import CONTENTION
from harness.extrapolate.step import StepModel
from harness.projection import Cause, PlanChoice

NUM_DRAWS = 2048
SEED = 20210
"""Fixed, so that the same projection has the same interval."""
P10 = -1.2815515655446004
"""Standard deviations of a normal distribution's 10 % quantile."""
QUANTILES = (0.10, 0.50, 0.90)
LEAST_SHARE = 0.001
"""Inputs with less of the variance are not listed."""
MODEL_ERROR = "the model itself"
BEYOND_CHECKED = "beyond the largest run checked"
DISCREPANCY_PER_DOUBLING = 0.02
"""ln of what is added per doubling beyond CHECKED_CHIPS, where nothing is published; assumed."""
CHECKED_CHIPS = 16384
"""The most chips of a published run that was checked: Llama-3.1 405B (arXiv 2407.21783)."""
NETWORK_SPREADS: Mapping[str, float] = {
    INNER_NETWORK: 1.15,
    OUTER_NETWORK: 1.25,
}
"""90 % ratio of a network's rate over its file's: nccl-tests of one kind of cluster differ by 5 to
15 % inside a node and by 10 to 25 % between nodes (84.5 to 97 % of the rate with three ways of
spreading flows); no cluster's own collectives are measured."""

TOLD: Mapping[str, tuple[str, str]] = {
    "matrix_share": ("rate of large 16-bit products", "chipscale run suite=training"),
    "matrix_share_8bit": ("rate of large 8-bit products", "chipscale run suite=training"),
    "half_wave_outputs": ("last wave of 16-bit products", "chipscale run suite=training"),
    "half_wave_outputs_8bit": ("last wave of 8-bit products", "chipscale run suite=training"),
    "grouped_share": ("rate of the products of experts", "chipscale run suite=training"),
    "scan_share": ("rate of state-space scans", "chipscale run suite=training"),
    "attention_forward_share": ("rate of attention, forward", "chipscale run suite=training"),
    "attention_backward_share": ("rate of attention, backward", "chipscale run suite=training"),
    "memory_share": ("bandwidth of elementwise ops", "chipscale run suite=training"),
    "permute_share": ("routing and order of experts", "chipscale run suite=training"),
    "quantize_factor": ("quantizing to 8 bits", "chipscale run suite=training"),
    "memory_share_of_products": ("bandwidth of narrow products", "chipscale run suite=training"),
    "roof_to_kernel": ("ops that were not measured, of the roof", "chipscale run suite=training"),
    "best_share_of_peak": ("best product, which nobody published", "chipscale run suite=roofs"),
    "measured kernels": ("measured kernels", "chipscale run measure=careful suite=training"),
    "kernels of other sizes": ("kernels from other sizes", "chipscale run suite=training"),
    "host_s_per_layer": ("host time per layer", "chipscale run suite=layers"),
    "host_s_per_expert_layer": ("host time per layer with experts", "chipscale run suite=layers"),
    "host_s_per_step": ("host time per step", "a step of the training job"),
    "tensor_exchange_factor": ("overlap of tensor parallelism", "collectives beside products"),
    "expert_exchange_factor": ("overlap of expert parallelism", "all-to-all beside products"),
    "sharded_exchange_factor": ("gathering of sharded weights", "collectives of the cluster"),
    "sharded_exposed_share": ("overlap of sharded weights", "collectives of the cluster"),
    "growth_per_doubling": ("jitter across chips", "steps of two sizes of the cluster"),
    INNER_NETWORK: ("rate inside the scale-up domain", "collectives inside a node"),
    OUTER_NETWORK: ("rate between scale-up domains", "collectives between nodes"),
    CONTENTION_OF_BOTH: ("computation beside communication", "a product beside a copy"),
    MODEL_ERROR: ("the model itself", "whole layers beside their ops: suite=closure"),
    BEYOND_CHECKED: ("size beyond the largest run checked", "a run of more than 16,384 chips"),
}
"""What an input is, and what to measure so that its interval shrinks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertainty:
    """Draws of a step, and what makes them differ."""

    seconds: Floats
    """Of the step, shape (NUM_DRAWS,)."""
    causes: tuple[Cause, ...]
    """The largest share of the variance first."""

    def quantiles(self, values: Floats) -> tuple[float, float, float]:
        """P10, P50 and P90 of what has one value for each draw."""
        low, middle, high = np.quantile(values, QUANTILES)
        return float(low), float(middle), float(high)


def model_error(draws: Floats, residual: Residual) -> Floats:
    """Factors whose P10 and P90 are the residual's, lognormal on either side of 1."""
    below, above = math.log(residual.low) / P10, math.log(residual.high) / -P10
    found: Floats = np.exp(draws * np.where(draws < 0, below, above))
    return found


def _known(spreads: Mapping[str, float]) -> dict[str, float]:
    """The 90 % ratio of every input but the model's own error."""
    return {**SPREAD_OF, **spreads, **NETWORK_SPREADS, CONTENTION_OF_BOTH: CONTENTION.spread}


def input_names(spreads: Mapping[str, float]) -> tuple[str, ...]:
    """Everything that is drawn."""
    return (
        *_known(spreads),
        *dict.fromkeys(OF_SOURCE.values()),
        MODEL_ERROR,
        BEYOND_CHECKED,
    )


def drawn_step_s(
    steps: StepModel,
    plan: PlanChoice,
    draws: Mapping[str, Floats],
    spreads: Mapping[str, float],
    residual: Residual,
) -> Floats:
    """The plan's step under each draw of the inputs, in seconds, shape (D,)."""
    inside = {name: draws[name] for name in draws if name not in (MODEL_ERROR, BEYOND_CHECKED)}
    beyond = DISCREPANCY_PER_DOUBLING * max(0.0, math.log2(plan.num_chips / CHECKED_CHIPS))
    found = drawn_seconds(steps, plan, inside, _known(spreads))
    found = found * model_error(draws[MODEL_ERROR], residual)
    return found * np.exp(beyond * draws[BEYOND_CHECKED])


def uncertainty(
    steps: StepModel,
    plan: PlanChoice,
    spreads: Mapping[str, float],
    residual: Residual,
    num_draws: int = NUM_DRAWS,
) -> Uncertainty:
    """Draws of the plan's step.

    Args:
        steps: The model, at the values that the draws are around.
        plan: The plan whose step is drawn.
        spreads: The 90 % ratio of each calibrated constant.
        residual: How far published runs are from predictions.
        num_draws: Of all inputs together.
    """
    every = input_names(spreads)

    def seconds(draws: Mapping[str, Floats]) -> Floats:
        return drawn_step_s(steps, plan, draws, spreads, residual)

    normal = _draws(len(every), num_draws)
    drawn = seconds(dict(zip(every, normal.T, strict=True)))
    shares = _shares(normal, np.log(drawn))
    # Each input alone at its P10 and its P90: two draws for each.
    alone = np.zeros((2 * len(every), len(every)))
    for place in range(len(every)):
        alone[2 * place, place], alone[2 * place + 1, place] = P10, -P10
    ends = seconds(dict(zip(every, alone.T, strict=True))).reshape(-1, 2)
    causes = [
        Cause(
            name=name,
            title=TOLD[name][0],
            advice=TOLD[name][1],
            share=float(share),
            low_s=float(low_and_high.min()),
            high_s=float(low_and_high.max()),
        )
        for name, share, low_and_high in zip(every, shares, ends, strict=True)
        if share >= LEAST_SHARE
    ]
    return Uncertainty(seconds=drawn, causes=tuple(sorted(causes, key=lambda cause: -cause.share)))


@cache
def _draws(num_inputs: int, num_draws: int) -> Floats:
    """Standard deviations, shape (num_draws, num_inputs), evenly over the quantiles of each."""
    cube = qmc.LatinHypercube(num_inputs, rng=np.random.default_rng(SEED)).random(num_draws)
    found: Floats = norm.ppf(cube)
    return found


def _shares(draws: Floats, outputs: Floats) -> Sequence[float]:
    """Each input's part of the outputs' variance, by the inputs' regression coefficients."""
    centred = outputs - outputs.mean()
    if not centred.any():
        return [0.0] * draws.shape[1]
    inputs = draws - draws.mean(axis=0)
    # There are many times more draws than inputs, and the inputs are nearly independent.
    slopes = np.linalg.solve(inputs.T @ inputs, inputs.T @ centred)
    parts = (slopes * draws.std(axis=0)) ** 2 / centred.var()
    return [float(part) for part in parts]
