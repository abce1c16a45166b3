"""The benchmarks in `benchmarks/` fit their ops and can run; `pytest benchmarks` times them."""

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


def test_one_of_each_kind_runs_and_is_right_here(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    for one in ALL:
        registry.load(one.op)
    monkeypatch.chdir(FOLDER.parent)
    result = pytester.runpytest_inprocess(
        str(FOLDER),
        *("--benchmark-disable", "--chip-device=cpu", "-p", "no:cacheprovider"),
        *("-k", f"({FEW}) and not scaled and not grouped and not int4 and torch"),
    )
    result.assert_outcomes(passed=5, deselected=3 * len(ALL) - 5)
