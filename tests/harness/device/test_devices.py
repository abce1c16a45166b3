"""Every back-end keeps the protocol, and the fake chip does what its options say."""

import pytest
import torch

from harness.device.base import Device
from harness.device.cpu import CpuDevice, last_level_cache_bytes
from harness.device.fake import FakeDevice
from harness.device.open import open_device
from harness.device.request import DeviceRequest, FakeOptions
from harness.errors import ConfigError


def devices() -> list[Device]:
    found: list[Device] = [CpuDevice("a processor", 1), FakeDevice(FakeOptions())]
    if torch.accelerator.is_available():
        found.append(open_device(DeviceRequest(), "a processor", 1))
    return found


@pytest.mark.parametrize("device", devices(), ids=lambda device: device.info.torch_device_type)
def test_a_device_keeps_the_protocol(device: Device) -> None:
    device.flush_cache()
    device.reset_peak_memory()
    device.timer.start()
    seconds = device.timer.stop()
    assert 0 <= seconds < 1
    assert device.timer.resolution_s > 0
    cache = device.info.last_level_cache_bytes
    assert cache is None or device.flush_bytes >= cache
    device.synchronize()
    device.release_memory()
    device.state()


def test_the_processor_knows_its_memory_and_peak() -> None:
    device = CpuDevice("a processor", 1)
    assert device.info.memory_bytes is not None
    device.reset_peak_memory()
    before = device.peak_memory_bytes()
    block = torch.ones(64 * 2**20, dtype=torch.int8)
    after = device.peak_memory_bytes()
    assert before is not None
    assert after is not None
    assert after - before >= 0.9 * block.numel() or after >= block.numel()


def test_memory_that_was_freed_is_no_part_of_the_next_peak() -> None:
    device = CpuDevice("a processor", 1)
    block = torch.ones(512 * 2**20, dtype=torch.int8)
    del block
    device.release_memory()
    device.reset_peak_memory()
    before = device.peak_memory_bytes()
    assert before is not None
    small = torch.ones(8 * 2**20, dtype=torch.int8)
    after = device.peak_memory_bytes()
    assert after is not None
    assert after - before < 64 * 2**20
    assert small.numel() == 8 * 2**20


def test_the_cache_size_is_plausible_where_it_is_told() -> None:
    size = last_level_cache_bytes()
    assert size is None or 2**18 <= size <= 2**34


def test_drift_and_throttling_lengthen_virtual_time() -> None:
    steady = FakeDevice(FakeOptions(noise=0.0, launch_s=0.0))
    steady.advance(1.0)
    steady.advance(1.0)
    assert steady.now_s() == pytest.approx(2.0)
    drifting = FakeDevice(FakeOptions(noise=0.0, launch_s=0.0, drift_per_s=0.1))
    drifting.advance(1.0)
    drifting.advance(1.0)
    assert drifting.now_s() == pytest.approx(2.1)
    hot = FakeDevice(FakeOptions(noise=0.0, launch_s=0.0, throttle_after_s=0.5))
    hot.advance(1.0)
    hot.advance(1.0)
    assert hot.now_s() == pytest.approx(1.0 + 1.5)
    assert hot.state().throttle_reasons


def test_noise_is_seeded() -> None:
    times = []
    for seed in (1, 1, 2):
        device = FakeDevice(FakeOptions(seed=seed, noise=0.1))
        device.advance(1.0)
        times.append(device.now_s())
    assert times[0] == times[1] != times[2]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this host has an accelerator")
def test_a_missing_accelerator_is_not_replaced_by_the_processor() -> None:
    with pytest.raises(ConfigError, match="sees no accelerator here"):
        open_device(DeviceRequest(name="cuda"), "a processor", 1)


def test_the_fake_chips_cache_keeps_what_was_not_flushed_and_fits() -> None:
    device = FakeDevice(FakeOptions(noise=0.0))
    memory, cache = 1e12, 4e12
    assert device.bandwidth_bytes_per_s(2**20) == memory
    device.advance(1e-6)
    assert device.bandwidth_bytes_per_s(2**20) == cache
    assert device.bandwidth_bytes_per_s(2**27) == memory
    device.flush_cache()
    assert device.bandwidth_bytes_per_s(2**20) == memory
