"""Stands in for the fixture where pytest-benchmark is not installed."""

import pytest


@pytest.fixture
def chip_benchmark() -> None:
    """Fails the test, saying what to install."""
    pytest.fail(
        "chip_benchmark needs pytest-benchmark, which is not installed or was switched off: "
        "pip install 'chipscale[pytest]'",
        pytrace=False,
    )
