import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from harness.gate.estimate import (
    hodges_lehmann,
    log_ratios,
    shift_of,
    signed_rank_cdf,
    walsh_averages,
    widest_confidence,
)

VALUES = st.lists(st.floats(-0.5, 0.5), min_size=1, max_size=12)
SECONDS = st.lists(st.tuples(st.floats(1e-6, 1e-2), st.floats(1e-6, 1e-2)), min_size=1, max_size=12)


def test_walsh_averages_are_the_means_of_all_pairs_and_of_each_value_with_itself() -> None:
    assert walsh_averages([3.0, 1.0, 2.0]).tolist() == [1.0, 1.5, 2.0, 2.0, 2.5, 3.0]


def test_the_estimate_is_the_median_of_the_walsh_averages() -> None:
    # They are 0 1 2 2 3 4 50 51 52 100.
    assert hodges_lehmann([0.0, 2.0, 4.0, 100.0]) == pytest.approx((3 + 4) / 2)


def test_one_wild_pair_of_five_moves_the_estimate_by_little() -> None:
    assert abs(hodges_lehmann([0.001, -0.002, 0.0005, -0.001, 5.0])) < 0.001


def test_a_drift_that_meets_odd_and_even_pairs_alike_cancels() -> None:
    assert hodges_lehmann([0.05, -0.05, 0.05, -0.05, 0.05]) == 0


@pytest.mark.parametrize("size", range(1, 9))
def test_the_distribution_of_the_signed_rank_statistic_is_that_of_all_signs(size: int) -> None:
    sums = [
        sum(rank for rank, sign in zip(range(1, size + 1), signs, strict=True) if sign)
        for signs in itertools.product((0, 1), repeat=size)
    ]
    expected = [np.mean([one <= total for one in sums]) for total in range(max(sums) + 1)]
    assert signed_rank_cdf(size) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_the_interval_holds_the_shifts_that_the_exact_signed_rank_test_does_not_reject(
    seed: int,
) -> None:
    values = np.random.default_rng(seed).normal(0.02, 0.01, 5 + seed)
    shift = shift_of(tuple(values))
    just = 1e-9
    asked = 1 - shift.confidence
    for inside, outside in ((just, -just), (-just, just)):
        end = shift.low if inside > 0 else shift.high
        kept = wilcoxon(values - (end + inside), method="exact").pvalue
        rejected = wilcoxon(values - (end + outside), method="exact").pvalue
        assert rejected <= asked + 1e-9 < kept


def test_five_pairs_reach_no_95_percent_and_say_so() -> None:
    values = (0.01, 0.02, 0.03, 0.04, 0.05)
    shift = shift_of(values)
    assert (shift.low, shift.high) == (0.01, 0.05)
    assert shift.confidence == pytest.approx(1 - 2 / 32)
    assert widest_confidence(5) == shift.confidence


def test_ten_pairs_pass_95_percent_with_the_ninth_average_from_either_end() -> None:
    values = tuple(float(one) for one in np.random.default_rng(1).normal(size=10))
    shift = shift_of(values)
    averages = walsh_averages(values)
    assert (shift.low, shift.high) == (averages[8], averages[-9])
    # 25 of the 1024 ways to set ten signs have a sum of ranks up to 8.
    assert shift.confidence == pytest.approx(1 - 2 * 25 / 1024)


def test_a_single_pair_has_an_estimate_and_no_confidence() -> None:
    shift = shift_of((0.02,))
    assert (shift.value, shift.low, shift.high, shift.confidence) == (0.02, 0.02, 0.02, 0.0)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    for size, least in ((5, 0.9375), (10, 0.951)):
        held = [
            (shift := shift_of(tuple(generator.standard_t(2, size)))).low <= 0 <= shift.high
            for _ in range(2000)
        ]
        # Two deviations of a share of 2,000.
        assert np.mean(held) == pytest.approx(
            least, abs=2.5 * math.sqrt(least * (1 - least) / 2000)
        )


def test_a_shift_is_told_as_a_change() -> None:
    change = shift_of((math.log(1.05),) * 5).change
    assert (change.low, change.value, change.high) == pytest.approx((0.05, 0.05, 0.05))


@given(SECONDS)
def test_swapping_the_arms_negates_the_estimate_and_its_interval(
    pairs: list[tuple[float, float]],
) -> None:
    base_s, head_s = zip(*pairs, strict=True)
    there, back = shift_of(log_ratios(base_s, head_s)), shift_of(log_ratios(head_s, base_s))
    assert there.value == pytest.approx(-back.value, abs=1e-12)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-12)


@given(SECONDS, st.floats(1e-3, 1e3))
def test_another_unit_of_time_changes_nothing(
    pairs: list[tuple[float, float]], scale: float
) -> None:
    base_s, head_s = zip(*pairs, strict=True)
    scaled = shift_of(log_ratios([scale * one for one in base_s], [scale * one for one in head_s]))
    assert scaled.value == pytest.approx(shift_of(log_ratios(base_s, head_s)).value, abs=1e-9)


@given(VALUES, st.randoms())
def test_the_order_of_the_pairs_does_not_matter(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert shift_of(shuffled) == shift_of(values)


@given(VALUES, st.floats(-0.3, 0.3))
def test_a_shift_of_all_pairs_shifts_the_estimate_and_its_ends(
    values: list[float], by: float
) -> None:
    moved, shift = shift_of([value + by for value in values]), shift_of(values)
    assert moved.value == pytest.approx(shift.value + by, abs=1e-12)
    assert moved.low == pytest.approx(shift.low + by, abs=1e-12)
    assert moved.high == pytest.approx(shift.high + by, abs=1e-12)


@given(VALUES)
def test_the_estimate_lies_in_its_interval_and_that_among_the_values(values: list[float]) -> None:
    shift = shift_of(values)
    assert min(values) <= shift.low <= shift.value <= shift.high <= max(values)
