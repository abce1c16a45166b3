"""Draws of a step: around the step itself, and taken apart by their inputs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.specs import load_chip, load_cluster, load_model, load_parallel
from harness.extrapolate.calibration import Residual
from harness.extrapolate.constants import SPREADS
from harness.extrapolate.drawn import CONTENTION_OF_BOTH, OF_SOURCE, drawn_seconds
from harness.extrapolate.lookup import CONFIDENCE_SIGMAS, SPREAD_OF, Lookup
from harness.extrapolate.plan_step import step_time
from harness.extrapolate.priors import CONTENTION
from harness.extrapolate.step import StepModel
from harness.extrapolate.uncertainty import (
    BEYOND_CHECKED,
    MODEL_ERROR,
    NETWORK_SPREADS,
    P10,
    TOLD,
    Uncertainty,
    model_error,
    uncertainty,
)
from harness.projection import PlanChoice
from harness.workload.cost import step_cost

STEPS = StepModel.of(
    load_model("llama3_70b"),
    load_cluster("h100_16k"),
    Lookup(load_chip("h100_sxm"), step_cost),
    load_parallel("search"),
)
PLAN = PlanChoice(tensor=8, pipeline=4, data=64, num_microbatches=16, zero_stage=1)
LARGE = PlanChoice(tensor=8, pipeline=4, data=2048, num_microbatches=16, zero_stage=1)
RESIDUAL = Residual(low=0.9, high=1.2)
KNOWN = {**SPREAD_OF, **SPREADS, **NETWORK_SPREADS, CONTENTION_OF_BOTH: CONTENTION.spread}
EVERY = [*KNOWN, *dict.fromkeys(OF_SOURCE.values())]


def drawn(plan: PlanChoice = PLAN, residual: Residual = RESIDUAL, **wider: float) -> Uncertainty:
    return uncertainty(STEPS, plan, {**SPREADS, **wider}, residual, num_draws=512)


@pytest.fixture(scope="module")
def usual() -> Uncertainty:
    return drawn()


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([1, 2, 8]),
    st.sampled_from([1, 4, 8]),
    st.sampled_from([1, 8, 64]),
    st.integers(1, 12),
    st.sampled_from([0, 1, 2]),
)
def test_draws_of_zero_are_the_step_itself(
    tensor: int, pipeline: int, data: int, num_microbatches: int, zero_stage: int
) -> None:
    plan = PlanChoice(
        tensor=tensor,
        pipeline=pipeline,
        data=data,
        num_microbatches=num_microbatches,
        zero_stage=zero_stage,
    )
    found = drawn_seconds(STEPS, plan, dict.fromkeys(EVERY, np.zeros(3)), KNOWN)
    assert found.shape == (3,)
    assert found == pytest.approx(step_time(STEPS, plan).seconds, rel=1e-9)


@pytest.mark.parametrize("name", ["matrix_share", "attention_forward_share", "memory_share"])
def test_a_higher_rate_makes_no_step_longer(name: str) -> None:
    found = drawn_seconds(STEPS, PLAN, {name: np.linspace(-2, 2, 9)}, KNOWN)
    assert (np.diff(found) <= 0).all()


@pytest.mark.parametrize("name", ["host_s_per_step", "growth_per_doubling"])
def test_more_time_makes_no_step_shorter(name: str) -> None:
    found = drawn_seconds(STEPS, PLAN, {name: np.linspace(-2, 2, 9)}, KNOWN)
    assert (np.diff(found) >= 0).all()


def test_a_draw_of_one_input_leaves_the_others() -> None:
    # Host time per step is added, so that its draw adds as much as it moves.
    sigma = math.log(SPREADS["host_s_per_step"]) / CONFIDENCE_SIGMAS
    constant = STEPS.lookup.constants.host_s_per_step
    found = drawn_seconds(STEPS, PLAN, {"host_s_per_step": np.array([1.0])}, KNOWN)
    added = found[0] - step_time(STEPS, PLAN).seconds
    assert added == pytest.approx(constant * (math.exp(sigma) - 1), rel=0.1)


def test_quantiles_are_in_order_around_the_step(usual: Uncertainty) -> None:
    low, middle, high = usual.quantiles(usual.seconds)
    assert low < middle < high
    assert low < step_time(STEPS, PLAN).seconds < high


def test_the_same_projection_has_the_same_draws(usual: Uncertainty) -> None:
    assert (drawn().seconds == usual.seconds).all()


def test_shares_of_the_variance_sum_to_no_more_than_one(usual: Uncertainty) -> None:
    # What is missing is interaction, and inputs too small to be listed.
    shares = [cause.share for cause in usual.causes]
    assert 0.85 < sum(shares) < 1.05
    assert shares == sorted(shares, reverse=True)


def test_the_ends_of_each_input_are_around_the_step(usual: Uncertainty) -> None:
    middle = step_time(STEPS, PLAN).seconds
    assert all(
        cause.low_s <= middle * (1 + 1e-9) and middle * (1 - 1e-9) <= cause.high_s
        for cause in usual.causes
    )


def test_an_input_of_a_larger_share_has_a_longer_bar(usual: Uncertainty) -> None:
    bars = {cause.name: math.log(cause.high_s / cause.low_s) for cause in usual.causes}
    large = [cause.name for cause in usual.causes if cause.share > 0.1]
    small = [cause.name for cause in usual.causes if cause.share < 0.01]
    assert large
    assert small
    assert min(bars[name] for name in large) > max(bars[name] for name in small)


@pytest.mark.parametrize("name", ["matrix_share", "host_s_per_layer", "tensor_exchange_factor"])
def test_a_wider_constant_has_a_larger_share(name: str, usual: Uncertainty) -> None:
    wide = drawn(**{name: SPREADS[name] ** 2})
    shares = [
        next((cause.share for cause in found.causes if cause.name == name), 0.0)
        for found in (usual, wide)
    ]
    assert shares[1] >= shares[0]
    assert wide.seconds.std() >= usual.seconds.std()
    if name == "matrix_share":
        assert shares[1] > 1.5 * shares[0] > 0


def test_without_an_error_of_its_own_the_model_is_no_cause() -> None:
    exact = drawn(residual=Residual(low=1.0, high=1.0))
    assert MODEL_ERROR not in {cause.name for cause in exact.causes}


def test_beyond_the_largest_run_checked_the_size_itself_is_uncertain(usual: Uncertainty) -> None:
    assert LARGE.num_chips > 4 * PLAN.num_chips
    assert BEYOND_CHECKED not in {cause.name for cause in usual.causes}
    assert BEYOND_CHECKED in {cause.name for cause in drawn(LARGE).causes}


def test_the_error_of_the_model_has_the_residuals_deciles() -> None:
    factors = model_error(np.array([P10, 0.0, -P10]), RESIDUAL)
    assert factors == pytest.approx([RESIDUAL.low, 1.0, RESIDUAL.high])


def test_every_input_says_what_it_is_and_what_to_measure() -> None:
    assert {*EVERY, MODEL_ERROR, BEYOND_CHECKED} <= TOLD.keys()
    assert all(title and advice for title, advice in TOLD.values())
