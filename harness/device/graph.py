"""Graphs: a run's device work, captured once and replayed with a single launch."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from harness.device.base import Result
from harness.device.usable import is_usable

WARM_UPS = 2
"""Runs on the stream of the capture before it: the first allocates what libraries keep for each
stream, and the second shows that nothing more is missing. Allocating it is not to be captured."""


def capture(run: Callable[[], Result], device: torch.device) -> Callable[[], Result] | None:
    """A replay that does what the run gave the device to do, or None where that cannot be kept.

    The replay returns the outputs of the captured run, whose memory every replay writes anew. What
    the run does on the host - shapes it looks at, values it draws - is not repeated, so a run that
    waits for the device cannot be captured. Nor can a backward pass whose forward pass ran before:
    autograd computes it on the stream of the forward pass.

    The run is called a few times, in the caller's grad mode: compiled code is compiled anew for
    another one.

    Raises:
        RuntimeError: when the device no longer computes after a capture that failed.
        Exception: whatever the run raises outside of the capture.

    Source: CUDA programming guide, CUDA Graphs; torch.accelerator.Graph (torch 2.12 and newer).
    """
    try:
        made, side = _empty_graph(device), torch.Stream(device)
    except (RuntimeError, AttributeError):
        return None  # A back-end without graphs, or without streams.
    results: list[Result] = []
    failure = ""
    with _current(side, device):
        for _ in range(WARM_UPS):
            run()
        torch.accelerator.synchronize()
        with contextlib.suppress(RuntimeError):
            # What the runs have left is of no use to the graph, which allocates for itself.
            torch.accelerator.empty_cache()
        try:
            _record(made, lambda: results.append(run()))
        except (RuntimeError, AttributeError) as error:
            failure = f"{type(error).__name__}: {error}"
    if not failure:
        return _replayed(made, results[0])
    results.clear()
    _recover(made, device)
    if not is_usable(device):
        raise RuntimeError(f"the device no longer computes after a failed capture ({failure})")
    return None


def _replayed(made: Any, result: Result) -> Callable[[], Result]:
    def replayed() -> Result:
        made.replay()
        return result

    return replayed


def _empty_graph(device: torch.device) -> Any:
    return torch.cuda.CUDAGraph() if device.type == "cuda" else torch.accelerator.Graph()


@contextlib.contextmanager
def _current(stream: torch.Stream, device: torch.device) -> Iterator[None]:
    """Work goes to that stream; it may not be captured on the one that everything else uses.

    The stream before is current again afterwards whatever happens: `torch.cuda.graph` stays on its
    own when the end of a capture fails.
    """
    home = torch.accelerator.current_stream(device)
    torch.accelerator.synchronize()
    torch.accelerator.set_stream(stream)
    try:
        yield
    finally:
        torch.accelerator.set_stream(home)


def _record(made: Any, run: Callable[[], object]) -> None:
    """Capture the run on the current stream; its own error comes before that of the capture."""
    made.capture_begin()
    try:
        run()
    except BaseException:
        with contextlib.suppress(RuntimeError):
            made.capture_end()
        raise
    made.capture_end()


def _recover(made: Any, device: torch.device) -> None:
    """Undo what a capture that failed has left behind in torch, as far as it can be undone.

    In torch before 2.12 the allocator takes the capture for one that goes on, and then gives no
    cache back. The generator of random numbers is left as it is during a capture, in which it draws
    nothing outside of one; the end of a capture that succeeds sets it right.

    Source: pytorch pull requests 180395 and 190308.
    """
    with contextlib.suppress(RuntimeError):
        torch.accelerator.synchronize()
    if device.type == "cuda":
        with contextlib.suppress(RuntimeError, AttributeError, TypeError):
            # Says so where the allocator knows already.
            torch._C._cuda_endAllocateToPool(device.index or 0, made.pool())
    with contextlib.suppress(RuntimeError, AttributeError):
        element = torch.zeros(1, device=device)
        with _current(torch.Stream(device), device):
            _record(_empty_graph(device), lambda: element.add_(1))
