"""Capture: a run's work kept and replayed, on stand-ins for the graphs of torch."""

from typing import ClassVar

import pytest
import torch

from harness.device.graph import WARM_UPS, capture
from tests.harness.device.streams import Streams, stand_in_streams

DEVICE = torch.device("cpu")


class StandInGraph:
    """Notes what it is asked for, and counts replays."""

    replays = 0
    made: ClassVar[list["StandInGraph"]] = []
    fails_to_end = 0
    """So many captures cannot be ended."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        type(self).made.append(self)

    def capture_begin(self) -> None:
        self.notes.append("begin")

    def capture_end(self) -> None:
        self.notes.append("end")
        if type(self).fails_to_end:
            type(self).fails_to_end -= 1
            raise RuntimeError("the capture was invalidated")

    def pool(self) -> tuple[int, int]:
        return (0, 1)

    def replay(self) -> None:
        type(self).replays += 1


@pytest.fixture(autouse=True)
def _graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    StandInGraph.replays, StandInGraph.fails_to_end = 0, 0
    StandInGraph.made = []
    monkeypatch.setattr(torch.accelerator, "Graph", StandInGraph, raising=False)


@pytest.fixture(autouse=True)
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    return stand_in_streams(monkeypatch)


def test_the_run_is_captured_once_when_it_is_warm_and_every_replay_gives_its_outputs() -> None:
    outputs = (torch.ones(2),)
    calls = 0

    def run() -> tuple[torch.Tensor]:
        nonlocal calls
        calls += 1
        return outputs

    replay = capture(run, DEVICE)
    assert replay is not None
    assert replay() is outputs
    assert replay() is outputs
    assert (calls, StandInGraph.replays) == (WARM_UPS + 1, 2)


def forbidden_when_captured() -> int:
    """Waits for the device, which is an error within a capture alone."""
    if StandInGraph.made[-1].notes == ["begin"]:
        raise RuntimeError("operation not permitted when stream is capturing")
    return 1


def test_work_that_may_not_be_captured_gives_none() -> None:
    assert capture(forbidden_when_captured, DEVICE) is None
    assert StandInGraph.made[0].notes == ["begin", "end"]


def test_a_capture_that_does_not_end_gives_none_and_the_stream_before(streams: Streams) -> None:
    home = streams.current
    StandInGraph.fails_to_end = 1
    assert capture(lambda: 1, DEVICE) is None
    assert streams.current is home


def test_everything_runs_on_one_stream_that_is_not_the_usual_one(streams: Streams) -> None:
    home = streams.current
    seen: list[object] = []
    capture(lambda: seen.append(streams.current), DEVICE)
    assert len(seen) == WARM_UPS + 1
    assert len(set(seen)) == 1
    assert seen[0] is not home
    assert streams.current is home


def test_after_a_failure_a_capture_that_ends_sets_the_generator_right() -> None:
    assert capture(forbidden_when_captured, DEVICE) is None
    assert [graph.notes for graph in StandInGraph.made] == [["begin", "end"]] * 2


def test_a_device_that_a_failed_capture_broke_is_no_device_without_graphs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")

    monkeypatch.setattr(torch, "rand", broken)
    with pytest.raises(RuntimeError, match=r"no longer computes .*not permitted when stream"):
        capture(forbidden_when_captured, DEVICE)


def test_a_back_end_without_streams_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_stream(device: torch.device) -> None:
        raise RuntimeError("Backend doesn't support create a stream")

    monkeypatch.setattr(torch, "Stream", no_stream)
    assert capture(lambda: 1, DEVICE) is None


def test_a_back_end_without_graphs_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.accelerator, "Graph", raising=False)
    assert capture(lambda: 1, DEVICE) is None


def test_a_mistake_of_the_run_is_not_taken_for_a_missing_graph(streams: Streams) -> None:
    home = streams.current

    def run() -> None:
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        capture(run, DEVICE)
    assert streams.current is home


def test_an_error_outside_of_the_capture_is_the_runs_own() -> None:
    def run() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        capture(run, DEVICE)


@pytest.mark.parametrize("is_enabled", [True, False])
def test_the_run_keeps_the_grad_mode_it_was_compiled_for(is_enabled: bool) -> None:
    seen: list[bool] = []
    with torch.set_grad_enabled(is_enabled):
        capture(lambda: seen.append(torch.is_grad_enabled()), DEVICE)
    assert seen == [is_enabled] * (WARM_UPS + 1)


def test_compiled_code_is_not_compiled_anew_within_the_capture() -> None:
    compiled: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        compiled.append(graph)
        return graph.forward

    elements = torch.ones(4)
    run = torch.compile(lambda: elements + 1, backend=backend)
    run()
    replay = capture(run, DEVICE)
    assert replay is not None
    assert len(compiled) == 1


def test_cuda_captures_with_its_own_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", StandInGraph)
    monkeypatch.delattr(torch.accelerator, "Graph", raising=False)
    replay = capture(lambda: 7, torch.device("cuda"))
    assert replay is not None
    assert replay() == 7
    assert len(StandInGraph.made) == 1
    assert StandInGraph.replays == 1


def test_cudas_allocator_is_told_that_a_failed_capture_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[object] = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", StandInGraph)
    monkeypatch.setattr(
        torch._C, "_cuda_endAllocateToPool", lambda *which: told.append(which), raising=False
    )
    for name in ("zeros", "rand"):
        plain = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda size, device, plain=plain: plain(size))
    assert capture(forbidden_when_captured, torch.device("cuda", 0)) is None
    assert told == [(0, (0, 1))]
