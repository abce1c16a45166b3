"""Two runs of the same suite agree, and the harness takes little of a case's time."""

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from harness.record import Record
from harness.run import measure_run
from harness.wall_time import wall_time_of
from tests.benchmarks.self_check import MAX_OVERHEAD_S, check, table
from tests.harness.fake_runs import KeepingWatcher, fake_job
from tests.harness.sample_run import many_records


def measured(factor: float, noise: float, seed: int) -> list[Record]:
    generator = np.random.default_rng(seed)
    began = datetime(2026, 1, 2, tzinfo=UTC)
    records = []
    for place, record in enumerate(many_records(20)):
        assert record.measurement is not None
        samples_s = factor * generator.lognormal(0, noise, size=60)
        records.append(
            dataclasses.replace(
                record,
                started_at=(began + timedelta(seconds=place)).isoformat(),
                ended_at=(began + timedelta(seconds=place + 1)).isoformat(),
                measurement=dataclasses.replace(
                    record.measurement,
                    samples_s=tuple(map(float, samples_s)),
                    measured_s=0.6,
                    prepare_s=0.2,
                ),
            )
        )
    return records


def test_two_equal_runs_agree_and_are_as_sure_as_asked() -> None:
    found = check(measured(1, 0.003, 1), measured(1, 0.003, 2), "a chip", 0.01)
    assert found.share_within_1_percent == 1
    assert found.share_within_interval >= 0.8
    assert found.share_as_sure_as_asked == 1
    assert found.measured_share == pytest.approx(0.6)
    assert found.measured_share_once_compiled == pytest.approx(0.75)


def test_a_run_that_is_two_per_cent_slower_does_not_agree() -> None:
    found = check(measured(1, 0.001, 1), measured(1.02, 0.001, 2), "a chip", 0.01)
    assert found.share_within_1_percent == 0
    assert found.share_within_interval == 0
    assert found.median_difference == pytest.approx(0.02, abs=0.002)


def test_noisy_runs_are_less_sure_than_asked() -> None:
    found = check(measured(1, 0.2, 1), measured(1, 0.2, 2), "a chip", 0.01)
    assert found.share_as_sure_as_asked == 0
    assert found.median_half_width > 0.01


def test_the_table_has_a_column_for_each_device() -> None:
    found = check(measured(1, 0.003, 1), measured(1, 0.003, 2), "a chip", 0.01)
    assert table([found, found]).row_count == 14


def test_a_case_of_the_fake_chip_costs_ten_milliseconds(tmp_path: Path) -> None:
    job = fake_job()
    folder = measure_run(job, tmp_path, KeepingWatcher(), lambda environment: "fake")
    records = folder.records()
    # The first case of each op imports it, once for a process: many cases share that in a suite.
    imported: set[str] = set()
    costs_s = []
    for record in records:
        found = wall_time_of([record])
        if record.case.problem.op in imported and found is not None:
            costs_s.append(found.overhead_per_case_s)
        imported.add(record.case.problem.op)
    assert costs_s
    # Ten times what is allowed, since the tests share the host; `make bench-self` holds the bound.
    assert float(np.median(costs_s)) < 10 * MAX_OVERHEAD_S
