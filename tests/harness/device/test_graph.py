"""Capture: a run's work kept and replayed, on stand-ins for the graphs of torch."""

import contextlib
from collections.abc import Iterator

import pytest
import torch

from harness.device.graph import capture

DEVICE = torch.device("cpu")


class StandInGraph:
    """Notes what it is asked for, and counts replays."""

    replays = 0

    def __enter__(self) -> "StandInGraph":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def replay(self) -> None:
        type(self).replays += 1


@contextlib.contextmanager
def _stream(device: torch.device) -> Iterator[None]:
    yield


@pytest.fixture(autouse=True)
def _graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    StandInGraph.replays = 0
    monkeypatch.setattr(torch.accelerator, "Graph", StandInGraph, raising=False)
    monkeypatch.setattr(torch, "Stream", _stream)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda *_: None)


def test_the_run_is_called_once_and_every_replay_gives_its_outputs() -> None:
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
    assert (calls, StandInGraph.replays) == (1, 2)


def test_work_that_may_not_be_captured_gives_none() -> None:
    def run() -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    assert capture(run, DEVICE) is None


def test_a_back_end_without_graphs_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.accelerator, "Graph", raising=False)
    assert capture(lambda: 1, DEVICE) is None


def test_a_mistake_of_the_run_is_not_taken_for_a_missing_graph() -> None:
    def run() -> None:
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        capture(run, DEVICE)


def test_gradients_are_not_kept_in_a_graph() -> None:
    is_enabled: list[bool] = []
    capture(lambda: is_enabled.append(torch.is_grad_enabled()), DEVICE)
    assert is_enabled == [False]


def test_cuda_captures_with_its_own_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    captured: list[object] = []

    @contextlib.contextmanager
    def into(graph: StandInGraph) -> Iterator[None]:
        captured.append(graph)
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", StandInGraph)
    monkeypatch.setattr(torch.cuda, "graph", into)
    replay = capture(lambda: 7, torch.device("cuda"))
    assert replay is not None
    assert replay() == 7
    assert len(captured) == 1
    assert StandInGraph.replays == 1
