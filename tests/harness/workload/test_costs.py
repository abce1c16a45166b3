import pytest

from harness.config.specs import list_names, load_model
from harness.workload.step import Phase, Shard, phase_problems
from kernels import registry
from kernels.op import Problem
from tests.harness.workload.counted import counted


def problems(name: str) -> list[Problem]:
    model = load_model(name)
    shard = Shard(sequence_length=1024)
    return [item.problem for phase in Phase for item in phase_problems(model, shard, phase)]


@pytest.mark.parametrize("name", list_names("model"))
def test_every_problem_is_one_that_its_op_can_compute(name: str) -> None:
    for one in problems(name):
        op = registry.load(one.op)
        assert tuple(axis for axis, _ in one.axes) == op.axes
        assert one.dtype in op.dtypes
        assert one.mode in op.modes


@pytest.mark.parametrize("name", list_names("model"))
def test_the_ops_count_the_matrix_work_that_the_flops_formula_counts(name: str) -> None:
    # `test_step` holds the counts below against the formula; the ops' own must be the same.
    for one in problems(name):
        if one.op in ("gemm", "attention"):
            assert registry.load(one.op).cost(one) == counted(one)
