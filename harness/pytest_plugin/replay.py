"""Samples played to pytest-benchmark by a clock of our own, so that it shows exactly those.

Its table, JSON, histogram and comparison are made from what it times itself. So it times a call
that does nothing but set this clock, through its public API: the mark's `timer`, and `pedantic`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Benchmark(Protocol):
    """What is used of pytest-benchmark's fixture."""

    disabled: bool
    skipped: bool
    """Set where nothing is to be timed, so that it does not warn of a fixture without use."""
    group: str | None
    extra_info: dict[str, Any]

    def pedantic(
        self, target: Callable[[], object], *, setup: Callable[[], None], rounds: int
    ) -> object:
        """Time the target so many times."""


class VirtualClock:
    """Shows the time it was set to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """The time, in seconds, as `time.perf_counter` would give it."""
        return self.now_s

    def reset(self) -> None:
        """Back to 0: the difference of two readings is then the sample itself, to the last bit."""
        self.now_s = 0.0


def replay(
    benchmark: Benchmark, clock: VirtualClock, samples_s: Sequence[float], result: object
) -> None:
    """Have pytest-benchmark time rounds that last as long as the samples.

    Args:
        benchmark: its fixture, whose timer is the clock.
        clock: which the rounds set.
        samples_s: one for each round, in order.
        result: what the timed call is to return.
    """
    left = iter(samples_s)

    def target() -> object:
        # With --benchmark-cprofile it is called once more than there are rounds.
        clock.now_s = next(left, samples_s[-1])
        return result

    benchmark.pedantic(target, setup=clock.reset, rounds=len(samples_s))
