"""The generic accelerator, on a stand-in for torch's interface whose work is done by the host."""

import time
from types import SimpleNamespace

import pytest
import torch

from harness.device import accelerator
from harness.device.accelerator import AcceleratorDevice, EventTimer
from harness.device.base import DeviceState
from harness.device.clock import HostClock
from harness.device.extras import Extras, Facts, Seen

PROPERTIES = SimpleNamespace(
    name="Stand-In 1",
    L2_cache_size=2**20,
    total_memory=2**30,
    multi_processor_count=4,
    uuid="1234",
)


class StandInEvent:
    """Reads the host's clock when it is recorded."""

    def __init__(self, device: torch.device, enable_timing: bool) -> None:
        assert enable_timing
        self.recorded_s = 0.0

    def record(self) -> None:
        self.recorded_s = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "StandInEvent") -> float:
        return 1e3 * (end.recorded_s - self.recorded_s)


class EventWithoutTiming(StandInEvent):
    def elapsed_time(self, end: StandInEvent) -> float:
        raise RuntimeError("this back-end times no events")


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(get_device_properties=lambda index: PROPERTIES)
    monkeypatch.setattr(torch, "Event", StandInEvent)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    for name, answer in (
        ("current_accelerator", torch.device("cpu")),
        ("set_device_index", None),
        ("synchronize", None),
        ("max_memory_allocated", 3 * 2**20),
        ("reset_peak_memory_stats", None),
        ("empty_cache", None),
    ):
        monkeypatch.setattr(torch.accelerator, name, lambda *_, answer=answer, **__: answer)


def test_it_tells_what_the_back_end_tells() -> None:
    info = AcceleratorDevice().info
    assert (info.name, info.uuid, info.num_compute_units) == ("Stand-In 1", "1234", 4)
    assert (info.memory_bytes, info.last_level_cache_bytes) == (2**30, 2**20)


def test_what_the_back_end_does_not_tell_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_device_module", lambda device: SimpleNamespace())
    info = AcceleratorDevice().info
    assert (info.memory_bytes, info.last_level_cache_bytes, info.uuid) == (None, None, "")
    assert info.name == "cpu"


def test_events_time_in_seconds() -> None:
    timer = AcceleratorDevice().timer
    assert isinstance(timer, EventTimer)
    before_s = time.perf_counter()
    timer.start()
    time.sleep(0.01)
    seconds = timer.stop()
    # A busy host may sleep longer, but no longer than was seen from outside.
    assert 0.0099 <= seconds <= time.perf_counter() - before_s


def test_a_back_end_that_times_no_events_is_timed_by_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "Event", EventWithoutTiming)
    assert isinstance(AcceleratorDevice().timer, HostClock)


def test_a_device_that_cannot_be_waited_for_is_no_reason_for_another_timer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> None:
        raise RuntimeError("the context is gone")

    monkeypatch.setattr(torch.accelerator, "synchronize", broken)
    with pytest.raises(RuntimeError, match="the context is gone"):
        AcceleratorDevice()


def test_a_flush_writes_twice_the_last_level_cache() -> None:
    device = AcceleratorDevice()
    assert device.flush_bytes == 2 * 2**20
    device._flush_buffer.fill_(1)
    device.flush_cache()
    assert not device._flush_buffer.any()


def test_it_is_held_where_events_time_and_not_where_the_host_would_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert AcceleratorDevice().hold(1e-6)
    monkeypatch.setattr(torch, "Event", EventWithoutTiming)
    assert not AcceleratorDevice().hold(1e-6)


class Thermometer:
    source = "a thermometer"

    def state(self) -> DeviceState:
        return DeviceState(temperature_c=42.0)


def test_a_vendors_word_on_its_chip_goes_before_torchs() -> None:
    seen: list[Seen] = []

    def facts(chip: Seen) -> Facts:
        seen.append(chip)
        return Facts(last_level_cache_bytes=2**21, driver="1.2.3")

    extras = Extras(telemetry=lambda chip: Thermometer(), facts=facts)
    device = AcceleratorDevice(0, extras)
    assert (device.info.last_level_cache_bytes, device.info.driver) == (2**21, "1.2.3")
    assert device.info.memory_bytes == 2**30
    assert device.flush_bytes == 2 * 2**21
    assert (seen[0].name, seen[0].uuid, seen[0].pci_address) == ("Stand-In 1", "1234", "")


def test_its_state_is_its_vendors_with_the_hosts_load() -> None:
    device = AcceleratorDevice(0, Extras(telemetry=lambda chip: Thermometer()))
    assert device.info.telemetry == "a thermometer"
    state = device.state()
    assert state.temperature_c == 42.0
    assert state.load_average is not None


def test_the_chips_place_on_the_bus_is_written_as_drivers_write_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    placed = SimpleNamespace(**vars(PROPERTIES), pci_domain_id=0, pci_bus_id=0xC1, pci_device_id=0)
    module = SimpleNamespace(get_device_properties=lambda index: placed)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    seen: list[Seen] = []

    def facts(chip: Seen) -> Facts:
        seen.append(chip)
        return Facts()

    AcceleratorDevice(0, Extras(facts=facts))
    assert seen[0].pci_address == "0000:c1:00.0"


def test_the_flush_buffer_is_no_part_of_the_peak() -> None:
    device = AcceleratorDevice()
    assert device.peak_memory_bytes() == 3 * 2**20 - device.flush_bytes


def test_a_poisoned_context_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    device = AcceleratorDevice()
    assert device.is_usable()

    def broken() -> None:
        raise RuntimeError("unspecified launch failure")

    monkeypatch.setattr(torch.accelerator, "synchronize", broken)
    assert not device.is_usable()


def full_until(monkeypatch: pytest.MonkeyPatch, num_tries: int) -> None:
    """Memory is full for so many tries."""
    plain, tries = torch.rand, iter(range(num_tries))

    def rand(*size: int, device: torch.device) -> torch.Tensor:
        if next(tries, None) is not None:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(*size, device=device)

    monkeypatch.setattr(torch, "rand", rand)


@pytest.mark.parametrize("num_tries", [1, 2])
def test_a_device_whose_memory_is_full_is_not_broken(
    num_tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = AcceleratorDevice()
    emptied: list[bool] = []
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: emptied.append(True))
    full_until(monkeypatch, num_tries)
    assert device.is_usable()
    assert emptied == [True]


def test_full_memory_does_not_hide_a_broken_device(monkeypatch: pytest.MonkeyPatch) -> None:
    device = AcceleratorDevice()
    full_until(monkeypatch, 2)

    def broken() -> None:
        raise RuntimeError("unspecified launch failure")

    monkeypatch.setattr(torch.accelerator, "synchronize", broken)
    assert not device.is_usable()


def test_it_gives_the_hosts_memory_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    device = AcceleratorDevice()
    given_back: list[bool] = []
    monkeypatch.setattr(accelerator, "release_to_system", lambda: given_back.append(True))
    device.release_memory()
    assert given_back == [True]
