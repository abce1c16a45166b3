"""Lets Triton kernels run where there is no accelerator."""

import os
from pathlib import Path

import pytest
import torch

# Read by `triton.jit` when it decorates a kernel, so it is set before any op file is imported.
if not torch.accelerator.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

CONTRACT = Path(__file__).parent / "contract"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one file share fixtures that take seconds, so one process runs them all.

    Those over all ops share none, and there are hundreds.
    """
    for item in items:
        if not item.path.is_relative_to(CONTRACT):
            item.add_marker(pytest.mark.xdist_group(item.path.name))
