"""Sessions of pytest inside a test, on the fake chip."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.inner_sessions import KeptModules

CASES = """
import json, os
from pathlib import Path
import pytest
from kernels.op import problem

@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_gemm(chip_benchmark, impl):
    measured = chip_benchmark(problem("gemm", "bf16", M=2048, N=2048, K=2048), impl=impl)
    Path(f"{impl}.samples").write_text(json.dumps(measured.samples_s))
"""
"""Two tests; each leaves the samples that it was given."""

SLOWED = """
import os
from pathlib import Path
from harness.measure.fake_workbench import IMPL_EFFICIENCY

# In the first process that finds the file of that name, or in all.
if Path("slow_once").exists():
    Path("slow_once").unlink()
    IMPL_EFFICIENCY["torch"] = 0.70 / 1.2
else:
    IMPL_EFFICIENCY["torch"] = 0.70 / float(os.environ.get("SLOWER", "1"))
"""
"""A conftest that makes torch slower on the fake chip, in every process or in one."""


_kept: list[str] = []


class Project:
    """A project of a user, with tests."""

    def __init__(self, pytester: pytest.Pytester, modules: KeptModules) -> None:
        self._pytester = pytester
        self._modules = modules
        self.path = pytester.path

    def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text, encoding="utf-8")

    def run(self, *arguments: str, device: str = "fake") -> pytest.RunResult:
        result = self._pytester.runpytest_inprocess(
            *(f"--chip-device={device}", "-p", "no:cacheprovider", "-W", "error"),
            *arguments,
            plugins=[self._modules],
        )
        self._modules.put_back()
        return result

    def baseline(self) -> Path:
        """A file of the two tests, measured once for all that hold something against it."""
        path = self.path / "base.json"
        if not _kept:
            self.run("--benchmark-json=base.json").assert_outcomes(passed=2)
            _kept.append(path.read_text())
        path.write_text(_kept[0])
        return path


@pytest.fixture
def kept_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeptModules]:
    """Set up before pytester and torn down after it, which forgets modules once more."""
    modules = KeptModules(tmp_path_factory.getbasetemp())
    yield modules
    modules.put_back()


@pytest.fixture
def project(
    kept_modules: KeptModules, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Project:
    """Has the two tests of CASES."""
    # These sessions are no workers, whoever runs the tests around them.
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]), prepend=":")
    made = Project(pytester, kept_modules)
    made.write("test_cases.py", CASES)
    made.write("conftest.py", SLOWED)
    return made
