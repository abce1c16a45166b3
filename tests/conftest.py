"""Lets Triton kernels run where there is no accelerator."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

# Read by OpenMP when torch is imported, also by the processes that tests start. As many processes
# as there are cores run tests, and tensors are small: threads would wait for each other, busily.
# Three files of kernels took 46 s of processor time with two threads each, and 21 s with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

# Read by `triton.jit` when it decorates a kernel, so it is set before any op file is imported.
if not torch.accelerator.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from harness.store.mlflow import prepare, tracking_target

pytest_plugins = ["pytester"]

# Tests measure on the processor side by side and their times mean nothing, so they do not wait for
# one another, nor for a run of this host's user.
_LOCK_DIR = tempfile.mkdtemp(prefix="chipscale-locks-")
atexit.register(shutil.rmtree, _LOCK_DIR, ignore_errors=True)
os.environ["CHIPSCALE_LOCK_DIR"] = _LOCK_DIR


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; seconds to make, so all processes of a session copy one."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    target = tracking_target(folder / "database", {})
    assert prepare(target) == ""
    assert target.database_path is not None
    return target.database_path


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """In these tests benchmarks only have to run, unless they are asked for.

    Those of the kernels are in `benchmarks/`, where pytest times them as anywhere.
    """
    config.option.benchmark_disable = not config.option.benchmark_enable
