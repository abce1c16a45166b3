"""The difference of one op as causes: they add up, whatever the numbers, and have no order."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.compare.attribution import OpOnChip, Rates, attribute, log_mean
from harness.comparison import Cause
from kernels.op import Cost

times = st.floats(1e-7, 1e3)
rates = st.builds(
    Rates,
    flops_per_s=st.none() | st.floats(1e9, 1e16),
    bytes_per_s=st.none() | st.floats(1e8, 1e14),
    launch_s=st.none() | st.floats(1e-7, 1e-3),
)
chips = st.builds(OpOnChip, seconds=times, rates=rates, fallback=st.floats(1.0, 50.0))
costs = st.builds(
    Cost,
    flops=st.integers(0, 10**16),
    bytes_read=st.integers(1, 10**13),
    bytes_written=st.integers(0, 10**13),
)
GEMM = Cost(flops=10**12, bytes_read=10**9, bytes_written=0)
COPY = Cost(flops=0, bytes_read=10**9, bytes_written=10**9)


def chip(seconds: float, flops: float = 1e14, memory: float = 1e12) -> OpOnChip:
    return OpOnChip(seconds=seconds, rates=Rates(flops_per_s=flops, bytes_per_s=memory))


@given(costs, chips, chips)
def test_the_causes_add_up_to_the_whole_difference(
    cost: Cost, first: OpOnChip, second: OpOnChip
) -> None:
    found = attribute(cost, first, second)
    whole = second.seconds - first.seconds
    assert abs(math.fsum(found.values()) - whole) <= 1e-9 * max(first.seconds, second.seconds)


@given(costs, chips, chips)
def test_the_other_way_round_each_cause_has_the_other_sign(
    cost: Cost, first: OpOnChip, second: OpOnChip
) -> None:
    there, back = attribute(cost, first, second), attribute(cost, second, first)
    longest = max(first.seconds, second.seconds)
    for cause, seconds in there.items():
        assert back[cause] == pytest.approx(-seconds, rel=1e-6, abs=1e-9 * longest)


@given(costs, chips)
def test_a_chip_does_not_differ_from_itself(cost: Cost, one: OpOnChip) -> None:
    assert all(abs(seconds) <= 1e-12 for seconds in attribute(cost, one, one).values())


@given(times, times)
def test_the_logarithmic_mean_lies_between_the_geometric_and_the_arithmetic_one(
    x: float, y: float
) -> None:
    assert math.sqrt(x * y) * (1 - 1e-9) <= log_mean(x, y) <= (x + y) / 2 * (1 + 1e-9)


def test_twice_the_matrix_rate_at_equal_efficiency_is_the_matrix_rate_alone() -> None:
    found = attribute(GEMM, chip(0.02), chip(0.01, flops=2e14))
    assert found[Cause.MATRIX_RATE] == pytest.approx(-0.01)
    assert sum(abs(seconds) for seconds in found.values()) == pytest.approx(0.01)


def test_twice_the_bandwidth_at_equal_efficiency_is_the_bandwidth_alone() -> None:
    found = attribute(COPY, chip(0.004), chip(0.002, memory=2e12))
    assert found[Cause.BANDWIDTH] == pytest.approx(-0.002)
    assert sum(abs(seconds) for seconds in found.values()) == pytest.approx(0.002)


def test_equal_rates_leave_the_efficiency_of_the_roof_that_binds() -> None:
    assert attribute(GEMM, chip(0.01), chip(0.02))[Cause.MATRIX_EFFICIENCY] == pytest.approx(0.01)
    assert attribute(COPY, chip(0.002), chip(0.003))[Cause.MEMORY_EFFICIENCY] == pytest.approx(1e-3)


def test_a_rate_that_does_not_bind_explains_nothing() -> None:
    found = attribute(GEMM, chip(0.02), chip(0.02, memory=9e12))
    assert found[Cause.BANDWIDTH] == 0.0


def test_where_the_roofs_change_places_both_rates_have_a_share() -> None:
    # 10 ms of matrix rate and 1 ms of memory, then 0.5 ms and 1 ms.
    found = attribute(GEMM, chip(0.02), chip(0.002, flops=2e15))
    assert found[Cause.MATRIX_RATE] == pytest.approx(-0.018)
    both = attribute(GEMM, chip(0.02), chip(0.004, flops=2e15, memory=0.5e12))
    assert both[Cause.MATRIX_RATE] < 0 < both[Cause.BANDWIDTH]


def test_launch_explains_no_more_than_what_is_above_the_roof() -> None:
    small = Cost(flops=0, bytes_read=10**6, bytes_written=0)
    quick = Rates(flops_per_s=1e14, bytes_per_s=1e12, launch_s=5e-6)
    slow = Rates(flops_per_s=1e14, bytes_per_s=1e12, launch_s=9e-6)
    found = attribute(
        small, OpOnChip(seconds=6e-6, rates=quick), OpOnChip(seconds=10e-6, rates=slow)
    )
    assert found[Cause.LAUNCH] == pytest.approx(4e-6)
    at_roof = attribute(
        small, OpOnChip(seconds=1e-6, rates=quick), OpOnChip(seconds=10e-6, rates=slow)
    )
    assert at_roof[Cause.LAUNCH] == pytest.approx(9e-6)


def test_without_a_roof_on_one_chip_the_rest_is_unexplained() -> None:
    unknown = OpOnChip(seconds=0.01, rates=Rates(flops_per_s=None, bytes_per_s=1e12))
    found = attribute(GEMM, chip(0.02), unknown)
    assert found[Cause.UNEXPLAINED] == pytest.approx(-0.01)
    assert Cause.MATRIX_RATE not in found


def test_a_fallback_twice_as_slow_is_a_cause_of_its_own() -> None:
    slow = OpOnChip(seconds=0.02, rates=Rates(flops_per_s=1e14, bytes_per_s=1e12), fallback=2.0)
    found = attribute(GEMM, chip(0.01), slow)
    assert found[Cause.FALLBACK] == pytest.approx(0.01)
