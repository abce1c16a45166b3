"""The fixture `chip_benchmark`; what it hands out is in `chip_benchmark.py`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from harness.pytest_plugin import FIXTURE, session_of
from harness.pytest_plugin.replay import Benchmark, VirtualClock

if TYPE_CHECKING:
    from harness.pytest_plugin.chip_benchmark import ChipBenchmark

CLOCK: pytest.StashKey[VirtualClock] = pytest.StashKey()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give pytest-benchmark the clock of this test, in the mark that it takes its timer from."""
    if FIXTURE in getattr(item, "fixturenames", ()):
        item.stash[CLOCK] = VirtualClock()
        mark = item.get_closest_marker("benchmark")
        options = dict(mark.kwargs) if mark else {}
        clocked = pytest.mark.benchmark(**(options | {"timer": item.stash[CLOCK]}))
        item.add_marker(clocked, append=False)


@pytest.fixture
def chip_benchmark(
    request: pytest.FixtureRequest, benchmark: Benchmark
) -> "Iterator[ChipBenchmark]":
    """Measures a case of an op, or a function, on the chip; see docs/pytest.md."""
    from harness.pytest_plugin.chip_benchmark import ChipBenchmark

    session = session_of(request.config)
    session.is_check = benchmark.disabled and session.options.fresh_file is None
    made = ChipBenchmark(request.node, benchmark, request.node.stash[CLOCK], session)
    yield made
    # Else pytest-benchmark warns, beside the reason why there is no time, that it was not used.
    benchmark.skipped = made.is_used and not made.is_timed
