"""What is faster than its chip can be has no time, and says why; what may be true is let pass."""

from dataclasses import replace

import pytest

from harness.cases import ROOF_ROLE, Case
from harness.record import Measurement, Record, Status
from harness.rejection import MARGIN, SHEET_MARGIN, through_memory_bytes
from harness.results import (
    accepted,
    best_rows,
    geomean_s,
    num_failed,
    result_row,
    result_rows,
    status_counts,
)
from harness.roofline import MIN_SEARCHED, Roof, Roofline
from harness.roofs import roofline_of
from kernels.op import Cost, problem
from tests.harness.sample_run import measurement_of

PRODUCT = Cost(flops=10**12, bytes_read=10**6, bytes_written=10**6)
COPY = Cost(flops=0, bytes_read=10**12, bytes_written=10**12)
FLUSH_BYTES = 10**8


def roof(what: str, value: float, **changes: object) -> Roof:
    made = Roof(
        what=what,
        unit="B/s" if what == "memory" else "FLOP/s",
        value=value,
        low=0.99 * value,
        high=1.01 * value,
        naive=1.02 * value,
        case_ids=("c",),
        shape="gemm M=1 torch",
        num_tried=MIN_SEARCHED,
        run_id="search",
    )
    return replace(made, **changes)


ROOFS = roofline_of([roof("bf16", 100e12), roof("memory", 1e12)])


def record(
    cost: Cost, seconds: float, op: str = "gemm", timer: str = "device_event", **changes: object
) -> Record:
    """Ten samples within a percent of that time."""
    case = Case(problem=problem(op, "bf16", N=1), impl="triton", roles=("training",))
    samples_s = tuple(seconds * (1 + 0.001 * (index % 10 - 5)) for index in range(20))
    measurement = replace(
        measurement_of(case, cost), samples_s=samples_s, timer=timer, flush_bytes=FLUSH_BYTES
    )
    made = Record(run_id="a", case=case, status=Status.OK, cost=cost, measurement=measurement)
    return replace(made, **changes)


def test_a_product_far_above_the_roof_is_rejected_with_the_reason() -> None:
    row = result_row(record(PRODUCT, 0.01 / 1.5), ROOFS)
    assert row.is_rejected
    assert not row.is_ok
    assert row.median_s is None
    assert row.status_word == "rejected"
    assert "48% above the measured bf16 roof, 100 TFLOP/s" in row.reason
    assert f"best of {MIN_SEARCHED} problems in search); 10% is let pass" in row.reason
    assert row.reason.endswith("the op's cost is wrong, or the roof is too low.")


def test_a_copy_that_was_faster_than_memory_points_to_the_cache() -> None:
    row = result_row(record(COPY, 1.0, op="copy"), ROOFS)
    assert row.is_rejected
    assert "above the measured memory roof" in row.reason
    assert "Either the cache was not flushed" in row.reason


@pytest.mark.parametrize(("over", "is_rejected"), [(0.9 * MARGIN, False), (1.3 * MARGIN, True)])
def test_only_what_is_beyond_the_margin_is_rejected(over: float, is_rejected: bool) -> None:
    row = result_row(record(PRODUCT, 0.01 / 1.01 / (1 + over)), ROOFS)
    assert row.is_rejected == is_rejected
    assert row.is_above_roof == (not is_rejected)


def test_an_interval_that_reaches_down_to_the_roof_is_let_pass() -> None:
    wide = record(PRODUCT, 0.005)
    assert wide.measurement is not None
    samples_s = (0.005, 0.0099) * 10
    measurement = replace(wide.measurement, samples_s=samples_s)
    assert not result_row(replace(wide, measurement=measurement), ROOFS).is_rejected


def test_a_shared_processor_is_held_against_its_data_sheet_alone() -> None:
    fast = record(PRODUCT, 0.001, timer="host_clock")
    row = result_row(fast, ROOFS)
    assert not row.is_rejected
    assert row.is_above_roof
    sheet = Roofline(title="X1 data sheet", flops_per_s=(("bf16", 100e12),), bytes_per_s=1e12)
    assert result_row(fast, replace(ROOFS, sheet=sheet)).is_rejected


def test_a_roof_of_one_or_two_cases_rejects_nothing() -> None:
    few = roofline_of([roof("bf16", 100e12, num_tried=2)])
    row = result_row(record(PRODUCT, 0.001), few)
    assert not row.is_rejected
    assert row.is_above_roof or row.roof_share is None


def test_a_case_of_the_search_is_not_held_against_its_own_find() -> None:
    case = record(PRODUCT, 0.005)
    mine = replace(case, run_id="search", case=replace(case.case, roles=(ROOF_ROLE,)))
    assert not result_row(mine, ROOFS).is_rejected
    assert result_row(replace(mine, run_id="another"), ROOFS).is_rejected


def test_the_data_sheet_bounds_where_nothing_was_searched() -> None:
    sheet = Roofline(title="X1 data sheet", flops_per_s=(("bf16", 100e12),), bytes_per_s=1e12)
    roofs = Roofline(sheet=sheet)
    assert not result_row(record(PRODUCT, 0.01 / (1 + 0.9 * SHEET_MARGIN)), roofs).is_rejected
    row = result_row(record(PRODUCT, 0.01 / (1 + 1.2 * SHEET_MARGIN)), roofs)
    assert row.is_rejected
    assert "above the bf16 peak of X1 data sheet, 100 TFLOP/s" in row.reason
    assert "or the data sheet is of another chip" in row.reason


def test_what_a_cache_may_hold_back_is_no_traffic_of_memory() -> None:
    measurement = record(COPY, 1.0).measurement
    assert isinstance(measurement, Measurement)
    small = Cost(flops=0, bytes_read=10**7, bytes_written=10**7)
    assert through_memory_bytes(small, measurement) == 10**7
    assert through_memory_bytes(COPY, measurement) == 2 * 10**12 - FLUSH_BYTES
    assert through_memory_bytes(COPY, replace(measurement, flush_bytes=0)) == 0


def test_a_sample_of_a_few_timer_steps_is_not_taken_at_its_word() -> None:
    short = record(replace(PRODUCT, flops=10**8, bytes_read=1, bytes_written=1), 0.6e-6)
    assert short.measurement is not None
    assert result_row(short, ROOFS).is_rejected
    coarse = replace(short.measurement, timer_resolution_s=0.5e-6)
    assert not result_row(replace(short, measurement=coarse), ROOFS).is_rejected


def test_a_rejected_case_is_in_no_mean_no_best_and_no_comparison() -> None:
    good, bad = record(PRODUCT, 0.02), record(PRODUCT, 0.001)
    bad = replace(bad, case=replace(bad.case, impl="torch"))
    rows = result_rows([good, bad], ROOFS)
    assert [row.impl for row in best_rows(rows)] == ["triton"]
    assert geomean_s(rows) == pytest.approx(0.02, rel=0.01)
    assert num_failed(rows) == 1
    assert status_counts(rows) == "1 ok, 1 rejected"
    assert accepted([good, bad], ROOFS) == (good,)
    assert bad.status is Status.OK


def test_links_hot_caches_and_launches_have_no_share_of_a_roof() -> None:
    link = record(COPY, 10.0, op="host_to_device")
    hot = record(COPY, 10.0, op="copy")
    hot = replace(hot, case=replace(hot.case, cache="hot"))
    nothing = record(Cost(flops=0, bytes_read=0, bytes_written=0), 1e-5, op="empty")
    rows = [result_row(one, ROOFS) for one in (link, hot, nothing)]
    assert [row.roof_share for row in rows] == [None, None, None]
    assert [row.is_ok for row in rows] == [True, True, True]
    assert rows[0].rate == "200 GB/s"
    assert rows[2].rate == ""


def test_a_hot_case_is_another_row_than_the_cold_one_of_its_problem() -> None:
    cold = record(COPY, 10.0, op="copy")
    hot = replace(cold, case=replace(cold.case, cache="hot"))
    rows = result_rows([cold, hot], ROOFS)
    assert len(best_rows(rows)) == 2
    assert rows[1].title == "copy forward hot"
