"""Every back-end keeps the protocol, and the fake chip does what its options say."""

import pytest
import torch

from harness.device.base import Device, DeviceState
from harness.device.cpu import CpuDevice, last_level_cache_bytes
from harness.device.fake import FakeDevice
from harness.device.open import is_accelerator, num_devices, open_device
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
    assert isinstance(device.state(), DeviceState)
    assert isinstance(device.hold(0.0), bool)
    device.pause(0.0)
    assert device.is_usable()
    available = device.available_memory_bytes()
    assert available is None or available > 0
    before_s = device.now_s()
    assert device.now_s() >= before_s


@pytest.mark.parametrize("device", devices(), ids=lambda device: device.info.torch_device_type)
def test_a_captured_run_gives_the_outputs_of_that_run(device: Device) -> None:
    elements = torch.ones(8, device=device.torch_device)
    replay = device.capture(lambda: elements + 1)
    if device.info.torch_device_type == "cuda":
        assert replay is not None
    if replay is not None:
        replay()
        elements.fill_(2)
        assert replay().tolist() == [3.0] * 8


def test_a_processor_that_works_at_once_has_nothing_to_hold_or_to_replay() -> None:
    device = CpuDevice("a processor", 1)
    assert not device.hold(1.0)
    assert device.capture(lambda: 1) is None
    before_s = device.now_s()
    device.pause(0.01)
    assert device.now_s() - before_s >= 0.01


def test_the_fake_chip_rests_in_virtual_time() -> None:
    device = FakeDevice(FakeOptions())
    device.pause(100.0)
    assert device.now_s() == pytest.approx(100.0)


def test_the_processors_state_has_clock_and_load_and_nothing_made_up() -> None:
    state = CpuDevice("a processor", 1).state()
    assert state.load_average is not None
    assert state.temperature_c is None or 0 < state.temperature_c < 120
    assert state.power_w is None or state.power_w >= 0
    assert state.age_s == 0.0


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


def test_fake_chips_of_one_machine_differ_and_each_repeats_itself() -> None:
    options = FakeOptions(seed=1, count=3, spread=0.05, noise=0.0)

    def seconds(index: int) -> float:
        device = FakeDevice(options, index)
        device.advance(1.0)
        return device.now_s()

    assert len({seconds(index) for index in range(3)}) == 3
    assert seconds(2) == seconds(2)
    assert 0.7 < seconds(0) < 1.4
    with pytest.raises(ConfigError, match=r"device.index: 3 was asked for, but there are 3 fake"):
        open_device(DeviceRequest(name="fake", index=3, fake=options), "a processor", 1)


@pytest.mark.parametrize(
    ("name", "count", "accelerates"),
    [
        ("auto", 8, True),
        ("cuda", 8, True),
        ("npu", 0, False),
        ("cpu", 1, False),
        ("fake", 1, False),
    ],
)
def test_devices_are_counted_without_opening_one(
    name: str, count: int, accelerates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda")
    )
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 8)
    request = DeviceRequest(name=name)
    assert num_devices(request) == count
    assert is_accelerator(request) is accelerates


def test_without_an_accelerator_auto_is_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert num_devices(DeviceRequest()) == 1
    assert num_devices(DeviceRequest(name="cuda")) == 0
    assert not is_accelerator(DeviceRequest())


def test_the_fake_chips_cache_keeps_what_was_not_flushed_and_fits() -> None:
    device = FakeDevice(FakeOptions(noise=0.0))
    memory, cache = 1e12, 4e12
    assert device.bandwidth_bytes_per_s(2**20) == memory
    device.advance(1e-6)
    assert device.bandwidth_bytes_per_s(2**20) == cache
    assert device.bandwidth_bytes_per_s(2**27) == memory
    device.flush_cache()
    assert device.bandwidth_bytes_per_s(2**20) == memory
