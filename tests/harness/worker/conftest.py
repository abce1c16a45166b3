import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def warm() -> Iterator["subprocess.Popen[str]"]:
    """See `warm.py`."""
    if not Path("/proc/self/task").exists():
        pytest.skip("needs Linux's /proc")
    with subprocess.Popen(
        [sys.executable, "-m", "tests.harness.worker.warm"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    ) as process:
        yield process
