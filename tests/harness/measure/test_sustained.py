"""When a chip counts as settled, and what burst and sustained are then."""

import pytest

from harness.device.base import DeviceState
from harness.device.fake import FakeDevice
from harness.device.request import FakeOptions
from harness.measure.sustained import NUM_SETTLED, REST_S, is_settled, measure_sustained
from harness.record import Sustained, Window


def windows(rates: list[float], temperatures_c: list[float | None]) -> list[Window]:
    return [
        Window(
            num_samples=round(1e6 * rate),
            seconds=1e6,
            state=DeviceState(temperature_c=temperature_c),
        )
        for rate, temperature_c in zip(rates, temperatures_c, strict=True)
    ]


def sustained_of(options: FakeOptions, timeout_s: float = 60.0) -> Sustained:
    device = FakeDevice(options)
    found = measure_sustained(lambda: device.advance(1e-3), device, timeout_s)
    assert found is not None
    return found


def test_a_steady_chip_settles_with_the_first_windows_and_its_burst_is_its_sustained_speed() -> (
    None
):
    found = sustained_of(FakeOptions(noise=0.001))
    assert len(found.windows) == NUM_SETTLED
    assert found.settled_after_s == pytest.approx(NUM_SETTLED, rel=0.1)
    assert found.sustained_s == pytest.approx(found.burst_s, rel=0.01)


def test_a_chip_that_throttles_once_warm_has_a_burst_and_a_slower_sustained_speed() -> None:
    options = FakeOptions(noise=0.001, throttle_after_s=REST_S + 4, throttle_factor=1.5)
    found = sustained_of(options)
    assert found.sustained_s / found.burst_s == pytest.approx(1.5, rel=0.02)
    assert found.settled_after_s is not None
    assert found.settled_after_s > 4 + NUM_SETTLED - 1


def test_a_chip_that_never_settles_says_so_at_the_timeout() -> None:
    found = sustained_of(FakeOptions(noise=0.0, drift_per_s=0.02), timeout_s=20.0)
    assert found.settled_after_s is None
    assert found.sustained_s > found.burst_s


def test_no_time_means_not_measured() -> None:
    device = FakeDevice(FakeOptions())
    assert measure_sustained(lambda: device.advance(1e-3), device, 0.0) is None


def test_a_chip_that_still_grows_warmer_is_not_settled() -> None:
    warming: list[float | None] = [50.0 + 0.5 * index for index in range(NUM_SETTLED)]
    even: list[float | None] = [70.0] * NUM_SETTLED
    rates = [100.0] * NUM_SETTLED
    assert not is_settled(windows(rates, warming))
    assert is_settled(windows(rates, even))


def test_a_sensor_that_flickers_by_a_degree_does_not_keep_a_chip_from_settling() -> None:
    flickering: list[float | None] = [70.0 + index % 2 for index in range(NUM_SETTLED)]
    assert is_settled(windows([100.0] * NUM_SETTLED, flickering))


def test_a_chip_without_a_sensor_settles_by_its_rate() -> None:
    unknown: list[float | None] = [None] * NUM_SETTLED
    assert is_settled(windows([100.0] * NUM_SETTLED, unknown))
    slowing = [100.0 * (1 - 0.002 * index) for index in range(NUM_SETTLED)]
    assert not is_settled(windows(slowing, unknown))
