import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.specs import load_chip
from harness.roofline import Bound, Roofline, data_sheet_roofline
from kernels.op import Cost

CHIP = Roofline(flops_per_s=(("bf16", 400e12),), bytes_per_s=2e12)


def cost(flops: int, num_bytes: int) -> Cost:
    return Cost(flops=flops, bytes_read=num_bytes, bytes_written=0)


def test_the_knee_is_where_both_rates_take_equal_time() -> None:
    assert CHIP.knee("bf16") == 200
    assert CHIP.bound(cost(199, 1), "bf16") is Bound.MEMORY
    assert CHIP.bound(cost(201, 1), "bf16") is Bound.MATRIX


def test_attainable_time_is_the_longer_of_the_two() -> None:
    assert CHIP.attainable_time_s(cost(400 * 10**12, 1), "bf16") == pytest.approx(1.0)
    assert CHIP.attainable_time_s(cost(0, 2 * 10**12), "bf16") == pytest.approx(1.0)


@given(st.integers(0, 10**15), st.integers(1, 10**13))
def test_attainable_time_never_beats_either_rate(flops: int, num_bytes: int) -> None:
    seconds = CHIP.attainable_time_s(cost(flops, num_bytes), "bf16")
    assert seconds is not None
    assert seconds >= num_bytes / 2e12 * (1 - 1e-12)
    assert seconds >= min(flops / 400e12, num_bytes / 2e12) * (1 - 1e-12)


def test_an_unknown_rate_gives_no_time() -> None:
    assert CHIP.attainable_time_s(cost(10**12, 1), "fp32") is None
    without_memory = Roofline(flops_per_s=(("bf16", 1e12),))
    assert without_memory.attainable_time_s(cost(0, 1), "bf16") is None


def test_memory_traffic_needs_no_matrix_rate() -> None:
    assert CHIP.attainable_time_s(cost(0, 2 * 10**12), "fp32") == pytest.approx(1.0)


def test_an_optimizer_has_a_memory_roof_in_any_type() -> None:
    assert CHIP.bound(cost(12, 28), "fp32") is Bound.MEMORY


def test_the_data_sheet_of_an_h100_gives_its_knee() -> None:
    roofline = data_sheet_roofline(load_chip("h100_sxm"))
    assert roofline.title == "H100-SXM data sheet"
    assert roofline.knee("bf16") == pytest.approx(989e12 / 3350e9)


def test_efficiency_is_attainable_over_actual_time() -> None:
    assert CHIP.efficiency(cost(0, 2 * 10**12), "bf16", 2.0) == pytest.approx(0.5)
