"""The benchmarks in `benchmarks/` fit their ops and can run; `pytest benchmarks` times them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.test_kernels import (
    ATTENTION,
    EXPERTS,
    MATRIX_PRODUCTS,
    MEMORY_BOUND,
    MEMORY_ITSELF,
)
from kernels import registry
from kernels.op import Problem
from tests.inner_sessions import KeptModules

ALL = (*MATRIX_PRODUCTS, *ATTENTION, *MEMORY_BOUND, *EXPERTS, *MEMORY_ITSELF)
FOLDER = Path(__file__).parents[2] / "benchmarks"
FEW = "gemm.bf16.forward or rms_norm.bf16.backward or paged_decode or moe_route or copy"


def test_every_op_has_a_benchmark() -> None:
    blocks = {name for name in registry.names() if registry.outline(name).is_block}
    assert {one.op for one in ALL} == set(registry.names()) - blocks


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.group)
def test_every_benchmark_is_a_problem_of_its_op(one: Problem) -> None:
    outline = registry.outline(one.op)
    assert tuple(name for name, _ in one.axes) == outline.axes
    assert one.mode in outline.modes
    assert one.dtype in outline.dtypes
    assert one.variant in outline.variants


@pytest.fixture
def kept_modules(tmp_path: Path) -> Iterator[KeptModules]:
    """Set up before pytester and torn down after it, which forgets modules once more."""
    modules = KeptModules(tmp_path)
    yield modules
    modules.put_back()


def test_one_of_each_kind_runs_and_is_right_here(
    kept_modules: KeptModules, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.chdir(FOLDER.parent)
    result = pytester.runpytest_inprocess(
        str(FOLDER),
        *("--benchmark-disable", "--chip-device=cpu", "-p", "no:cacheprovider"),
        *("-k", f"({FEW}) and not scaled and not grouped and not int4 and torch"),
        plugins=[kept_modules],
    )
    kept_modules.put_back()
    result.assert_outcomes(passed=5, deselected=3 * len(ALL) - 5)
