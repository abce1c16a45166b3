"""Graphs: a run's device work, captured once and replayed with a single launch."""

import contextlib
from collections.abc import Callable

import torch

from harness.device.base import Result


def capture(run: Callable[[], Result], device: torch.device) -> Callable[[], Result] | None:
    """A replay that does what the run gave the device to do, or None where that cannot be kept.

    The replay returns the outputs of the captured run, whose memory every replay writes anew. What
    the run does on the host - shapes it looks at, values it draws - is not repeated, so a run that
    waits for the device cannot be captured.

    Source: CUDA programming guide, CUDA Graphs; torch.accelerator.Graph (torch 2.12 and newer).
    """
    results: list[Result] = []
    try:
        with torch.no_grad():
            replay = _capture(lambda: results.append(run()), device)
    except (RuntimeError, NotImplementedError, AttributeError):
        # A back-end without graphs, or work that graphs may not hold.
        with contextlib.suppress(RuntimeError):
            torch.accelerator.synchronize()
        return None
    if replay is None:
        return None

    def replayed() -> Result:
        replay()
        return results[0]

    return replayed


def _capture(run: Callable[[], None], device: torch.device) -> Callable[[], None] | None:
    if device.type == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay
    if hasattr(torch.accelerator, "Graph"):
        any_graph = torch.accelerator.Graph()
        # Work may not be captured on the stream that everything else uses.
        with torch.Stream(device), any_graph:
            run()
        return any_graph.replay
    return None
