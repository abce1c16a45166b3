import dataclasses
from dataclasses import replace

import pytest

from harness.cases import Case
from harness.device.base import POWER_CAP
from harness.record import Status, Window
from harness.results import (
    ResultRow,
    Roofs,
    best_rows,
    headline,
    projection_headline,
    result_rows,
    roofs_text,
    short_text,
    status_counts,
)
from harness.roofs import measured_roofs
from kernels.op import problem
from tests.harness.sample_run import (
    failed_record,
    ok_record,
    sample_projection,
    sample_records,
)


def test_roofs_are_the_best_median_rates_of_the_roof_cases() -> None:
    roofs = measured_roofs(sample_records())
    bf16 = roofs.peak("bf16")
    assert bf16 is not None
    assert bf16 == pytest.approx(400e12 * 0.94, rel=0.02)
    assert roofs.bytes_per_s == pytest.approx(3e12 * 0.94, rel=0.05)
    assert roofs.peak("fp16") is None


def test_cases_without_the_roof_role_never_set_a_roof() -> None:
    record = ok_record(Case(problem=problem("gemm", "bf16", M=64, N=64, K=64), impl="torch"))
    assert measured_roofs([record]) == Roofs()


def test_a_share_above_one_is_kept_and_flagged() -> None:
    (row, *_) = result_rows(sample_records(), Roofs(flops_per_s=(("bf16", 1e12),), bytes_per_s=1e9))
    assert row.roof_share is not None
    assert row.roof_share > 1
    assert row.is_above_roof


def test_a_failed_case_has_its_reason_and_no_numbers() -> None:
    rows = [row for row in result_rows(sample_records()) if not row.is_ok]
    assert {row.status for row in rows} == set(Status) - {Status.OK, Status.SKIPPED}
    assert all(row.median_s is None and row.roof_share is None and row.reason for row in rows)


def test_the_last_record_of_a_case_counts() -> None:
    record = sample_records()[0]
    retried = failed_record(record.case, Status.TIMEOUT, "Not done after 60 s.")
    (row,) = result_rows([retried, record])
    assert row.is_ok


def test_the_fastest_implementation_stands_for_its_problem() -> None:
    rows = best_rows(result_rows(sample_records()))
    assert len({row.problem_id for row in rows}) == len(rows)
    assert {row.impl for row in rows if row.group == "gemm.bf16.forward"} == {"triton"}


def test_rates_are_flops_where_the_matrix_binds_and_bytes_elsewhere() -> None:
    rows = result_rows(sample_records())
    assert rows[0].rate.endswith("TFLOP/s")
    assert next(row for row in rows if row.op == "copy").rate.endswith("TB/s")
    assert next(row for row in rows if row.op == "rms_norm").rate.endswith("B/s")


def test_the_headline_names_failures_before_successes() -> None:
    rows = result_rows(sample_records())
    text = headline("quick", "imaginary_x1", rows)
    assert text.startswith("quick on imaginary_x1: 5 of ")
    assert "% of the measured roof" in text
    assert status_counts(rows).endswith("1 crashed, 1 timeout")


def test_the_headline_of_a_run_without_times_says_so() -> None:
    failed = [record for record in sample_records() if record.status is not Status.OK]
    assert "nothing could be measured" in headline("quick", "x", result_rows(failed))
    assert "nothing could be measured (no cases)" in headline("quick", "x", ())


def test_roofs_are_written_with_their_units() -> None:
    roofs = Roofs(flops_per_s=(("bf16", 100e12),), bytes_per_s=1e12)
    assert roofs_text(roofs) == "bf16 100 TFLOP/s, memory 1.00 TB/s"
    assert roofs_text(Roofs()).startswith("none")


def test_a_case_that_lowered_its_clocks_is_marked() -> None:
    record = sample_records()[0]
    assert record.measurement is not None
    reasons = ("hardware thermal slowdown",)
    state = dataclasses.replace(record.measurement.state_after, throttle_reasons=reasons)
    measurement = dataclasses.replace(record.measurement, state_after=state)
    (row,) = result_rows([dataclasses.replace(record, measurement=measurement)])
    assert row.is_throttled
    assert not row.is_power_capped


def test_a_chip_at_its_power_limit_is_marked_but_not_as_throttled() -> None:
    record = sample_records()[0]
    assert record.measurement is not None
    state = dataclasses.replace(record.measurement.state_after, throttle_reasons=(POWER_CAP,))
    measurement = dataclasses.replace(record.measurement, state_after=state)
    (row,) = result_rows([dataclasses.replace(record, measurement=measurement)])
    assert row.is_power_capped
    assert not row.is_throttled


def test_throttled_samples_are_counted_and_left_out_of_the_median() -> None:
    record = sample_records()[0]
    assert record.measurement is not None
    quick, slow = (1e-3,) * 10, (2e-3,) * 15
    hot = dataclasses.replace(
        record.measurement.state_after, throttle_reasons=("hardware slowdown",)
    )
    measurement = dataclasses.replace(
        record.measurement,
        samples_s=slow + quick,
        windows=(
            Window(num_samples=15, seconds=0.1, state=hot),
            Window(num_samples=10, seconds=0.1, state=record.measurement.state_after),
        ),
    )
    (row,) = result_rows([dataclasses.replace(record, measurement=measurement)])
    assert row.median_s == 1e-3
    assert row.num_throttled == 15
    assert not row.is_throttled


def test_a_wide_interval_makes_a_case_noisy() -> None:
    quiet, *_ = result_rows(sample_records())
    assert not quiet.is_noisy
    assert quiet.median_s is not None
    noisy = replace(quiet, low_s=0.8 * quiet.median_s, high_s=1.1 * quiet.median_s)
    assert noisy.is_noisy
    assert not replace(noisy, median_s=None).is_noisy


def test_a_headline_tells_when_many_chips_are_idle() -> None:
    projection = sample_projection()
    point = projection.headline
    assert f"on {point.num_chips:,} x" in projection_headline(projection)
    partial = replace(projection, headline=replace(point, num_chips_used=16_384))
    assert f"on 16,384 of {point.num_chips:,} x" in projection_headline(partial)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (0.4, "short: under 1 step of the timer"),
        (1.0, "short: 1 step of the timer"),
        (3.04, "short: 3 steps of the timer"),
        (12.4, "short: 12 steps of the timer"),
    ],
)
def test_how_short_a_time_is_is_said_in_steps(steps: float, words: str) -> None:
    assert short_text(steps) == words


def test_a_median_under_twenty_steps_is_short_and_one_of_twenty_is_not() -> None:
    record = sample_records()[0]
    assert record.measurement is not None

    def row(num_steps: float) -> ResultRow:
        assert record.measurement is not None
        samples_s = (num_steps * 1e-6,) * 9
        measurement = dataclasses.replace(
            record.measurement, samples_s=samples_s, timer_resolution_s=1e-6, launch="held"
        )
        (found,) = result_rows([dataclasses.replace(record, measurement=measurement)])
        return found

    assert row(19.9).is_short
    assert row(19.9).remarks == ("short: 19 steps of the timer",)
    assert not row(20.1).is_short
    assert row(20.1).remarks == ()
    assert row(20.1).launch == "held"
