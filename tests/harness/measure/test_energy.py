"""Joules per run, from a counter that only ever grows."""

from dataclasses import replace

import pytest
import torch

from harness.device.base import DeviceState
from harness.device.fake import BUSY_POWER_W, FakeDevice
from harness.device.request import FakeOptions
from harness.measure.energy import measure_energy

QUIET = FakeOptions(noise=0.0, launch_s=0.0)


class UncountedDevice(FakeDevice):
    """Has no counter."""

    def state(self) -> DeviceState:
        return replace(super().state(), energy_j=None)


def test_joules_are_those_of_a_run() -> None:
    device = FakeDevice(QUIET)
    energy = measure_energy(lambda: device.advance(1e-3), device, 0.5, 0.0)
    assert energy is not None
    assert energy.joules_per_run == pytest.approx(BUSY_POWER_W * 1e-3)
    assert energy.mean_power_w == pytest.approx(BUSY_POWER_W)
    assert energy.seconds >= 0.5
    assert energy.num_runs == pytest.approx(energy.seconds / 1e-3)


def test_a_run_longer_than_the_time_is_counted_once() -> None:
    device = FakeDevice(QUIET)
    energy = measure_energy(lambda: device.advance(2.0), device, 0.5, 0.0)
    assert energy is not None
    assert energy.num_runs == 1
    assert energy.joules_per_run == pytest.approx(BUSY_POWER_W * 2.0)


def test_a_device_without_a_counter_has_no_energy_and_costs_no_run() -> None:
    device = UncountedDevice(QUIET)

    def run() -> None:
        raise AssertionError("nothing is run for what is not counted")

    assert measure_energy(run, device, 0.5, 0.0) is None


class BehindHost(FakeDevice):
    """Works through what the host has queued, as an accelerator does."""

    def __init__(self) -> None:
        super().__init__(QUIET)
        self.torch_device = torch.device("cuda")


@pytest.mark.parametrize(("enqueue_s", "is_host_bound"), [(1e-5, False), (1e-3, True)])
def test_energy_of_runs_no_longer_than_their_launch_is_of_an_idle_device_too(
    enqueue_s: float, is_host_bound: bool
) -> None:
    device = BehindHost()
    energy = measure_energy(lambda: device.advance(1e-3), device, 0.1, enqueue_s)
    assert energy is not None
    assert energy.is_host_bound == is_host_bound


def test_a_processor_that_is_its_own_host_does_not_wait_for_it() -> None:
    device = FakeDevice(QUIET)
    energy = measure_energy(lambda: device.advance(1e-3), device, 0.1, 1e-3)
    assert energy is not None
    assert not energy.is_host_bound


def test_no_time_means_no_energy() -> None:
    assert measure_energy(lambda: None, FakeDevice(QUIET), 0.0, 0.0) is None
