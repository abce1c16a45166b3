"""One slow device of several is named, and none when none is slow: by simulation."""

import dataclasses
import math

import numpy as np
import pytest

from harness.codec import from_json, to_json
from harness.record import Record, Status
from harness.spread import (
    FALSE_ALARMS,
    MIN_DEVICES,
    DeviceRun,
    Spread,
    critical_score,
    spread_of,
)
from tests.harness.sample_run import many_records

NUM_CASES = 12
RECORDS = many_records(NUM_CASES, num_samples=30)


def with_samples(record: Record, samples_s: np.ndarray) -> Record:
    assert record.measurement is not None
    measurement = dataclasses.replace(
        record.measurement, samples_s=tuple(float(sample) for sample in samples_s), windows=()
    )
    return dataclasses.replace(record, measurement=measurement)


def fleet(
    slowness: list[float],
    seed: int = 0,
    noise: float = 0.005,
    records: tuple[Record, ...] = RECORDS,
) -> list[DeviceRun]:
    """Devices whose times are those factors of one another, with noise in each sample."""
    generator = np.random.default_rng(seed)
    return [
        DeviceRun(
            label=str(index),
            run_id=f"run-{index}",
            records=tuple(
                with_samples(record, factor * place * generator.lognormal(0, noise, size=30))
                for place, record in enumerate(records, start=1)
            ),
        )
        for index, factor in enumerate(slowness)
    ]


def spread(slowness: list[float], seed: int = 0, noise: float = 0.005) -> Spread:
    found = spread_of(fleet(slowness, seed, noise), "sweep")
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(10))
def test_one_of_eight_devices_that_is_three_per_cent_slow_is_named(seed: int) -> None:
    slowness = [1.0] * 8
    slowness[5] = 1.03
    found = spread(slowness, seed)
    assert [one.label for one in found.slow] == ["5"]
    assert found.slow[0].ratio == pytest.approx(1.03, abs=0.003)
    assert found.slowest == "5"
    # Slowest over fastest is a little wide, since of eight equal ones the luckiest is chosen.
    assert found.spread == pytest.approx(0.03, abs=0.003)


def test_none_of_equal_devices_is_named() -> None:
    named = sum(bool(spread([1.0] * 8, seed).slow) for seed in range(60))
    # Without the least slowness that matters, it would be one in a hundred; with it, none.
    assert named == 0


def test_devices_that_all_differ_a_little_are_not_named() -> None:
    generator = np.random.default_rng(3)
    fleets = [list(generator.lognormal(0, 0.01, size=8)) for _ in range(60)]
    named = sum(bool(spread(one, seed).slow) for seed, one in enumerate(fleets))
    assert named <= 60 * FALSE_ALARMS + 2


def test_the_critical_score_is_exceeded_in_one_per_cent_of_fleets() -> None:
    for num_devices in (4, 8, 16):
        values = np.random.default_rng(99).normal(size=(20_000, num_devices))
        distance = values - np.median(values, axis=1, keepdims=True)
        mads = 1.4826 * np.median(np.abs(distance), axis=1)
        alarms = np.mean(distance.max(axis=1) / mads > critical_score(num_devices))
        assert alarms == pytest.approx(FALSE_ALARMS, abs=0.003)


def test_two_slow_devices_of_eight_are_both_named_slowest_first() -> None:
    found = spread([1.0, 1.03, 1.0, 1.0, 1.05, 1.0, 1.0, 1.0])
    assert [one.label for one in found.slow] == ["4", "1"]


def test_a_fast_device_is_not_a_slow_one() -> None:
    found = spread([1.0, 0.95, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert not found.slow
    assert found.fastest == "1"


def test_ratios_of_two_devices_are_told_but_none_is_named() -> None:
    found = spread([1.0, 1.10])
    assert found.critical_z is None
    assert {one.z_score for one in found.devices} == {None}
    assert found.spread == pytest.approx(0.10, abs=0.005)
    assert not found.slow
    assert MIN_DEVICES > 2


def test_the_interval_of_the_spread_holds_the_truth() -> None:
    held = 0
    for seed in range(40):
        found = spread([1.0, 1.02], seed)
        held += found.low <= 0.02 <= found.high
    assert held >= 34


def test_a_case_tells_which_device_was_slowest_and_by_how_much() -> None:
    found = spread([1.0, 1.0, 1.2, 1.0, 0.9])
    for case in found.cases:
        assert (case.slowest, case.fastest) == ("2", "4")
        assert case.spread == pytest.approx(1.2 / 0.9 - 1, abs=0.02)
        assert case.low < case.spread < case.high
        assert max(case.z_scores) == case.z_scores[2]


def test_devices_equal_to_the_last_digit_have_no_scores_and_no_spread() -> None:
    found = spread([1.0] * 4, noise=0.0)
    assert found.spread == pytest.approx(0.0, abs=1e-12)
    assert not found.slow


def test_only_cases_that_every_device_has_a_time_of_count() -> None:
    runs = fleet([1.0, 1.1])
    failed = dataclasses.replace(runs[1].records[0], status=Status.CRASHED, measurement=None)
    runs[1] = dataclasses.replace(runs[1], records=(failed, *runs[1].records[1:]))
    found = spread_of(runs)
    assert found is not None
    assert len(found.cases) == NUM_CASES - 1


def test_one_device_or_no_common_case_has_no_spread() -> None:
    assert spread_of([]) is None
    assert spread_of(fleet([1.0])) is None
    apart = [
        dataclasses.replace(run, records=run.records[index : index + 1])
        for index, run in enumerate(fleet([1.0, 1.0]))
    ]
    assert spread_of(apart) is None


def test_one_case_takes_its_interval_from_its_own_samples() -> None:
    found = spread_of(fleet([1.0, 1.1], records=RECORDS[:1]))
    assert found is not None
    assert 0 < found.low < 0.1 < found.high < 0.2


def test_the_middle_is_a_device_of_the_sweep() -> None:
    found = spread([1.0, 1.1, 1.2])
    assert found.middle.label == "1"
    assert math.isclose(found.middle.ratio, 1.0, rel_tol=1e-9)
    assert found.of_run("run-2") is found.devices[2]
    assert found.of_run("another") is None


def test_a_spread_is_written_and_read() -> None:
    found = spread([1.0, 1.01, 0.99, 1.03])
    assert from_json(Spread, to_json(found)) == found
