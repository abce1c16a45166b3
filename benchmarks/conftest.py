"""Options of pytest that make sense for all benchmarks here."""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A kernel that has to be compiled first may take longer than the tests' time-out."""
    for item in items:
        item.add_marker(pytest.mark.timeout(1200))
