"""The generic accelerator, on a stand-in for torch's interface whose work is done by the host."""

import time
from types import SimpleNamespace

import pytest
import torch

from harness.device.accelerator import MAX_FLUSHES, AcceleratorDevice, EventTimer
from harness.device.clock import HostClock

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
    timer.start()
    time.sleep(0.01)
    assert timer.stop() == pytest.approx(0.01, rel=0.5)


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


def test_a_flush_goes_on_until_the_host_has_queued_the_run() -> None:
    device = AcceleratorDevice()
    device._flush_s = 1e-3
    num_flushes = 0

    class Counted:
        def zero_(self) -> None:
            nonlocal num_flushes
            num_flushes += 1

    device._flush_buffer = Counted()  # type: ignore[assignment]
    for at_least_s, expected in ((0.0, 1), (0.5e-3, 1), (3.5e-3, 4), (1e6, MAX_FLUSHES)):
        num_flushes = 0
        device.flush_cache(at_least_s)
        assert num_flushes == expected


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
