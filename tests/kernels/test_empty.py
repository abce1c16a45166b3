import pytest
import torch

from kernels import empty
from kernels.op import problem
from tests.kernels.checks import DEVICE, inputs_of


def test_it_costs_nothing_and_gives_nothing() -> None:
    case = problem("empty", "fp32", N=1)
    cost = empty.OP.cost(case)
    assert (cost.flops, cost.bytes_read, cost.bytes_written) == (0, 0, 0)
    assert empty.OP.tolerance(case) == ()
    assert empty.OP.impl("torch").prepare(case, inputs_of(empty.OP, case))() == ()


def test_what_is_not_contiguous_is_refused_as_by_any_kernel() -> None:
    with pytest.raises(ValueError, match=r"empty: x of shape \(3,\) has strides \(2,\)"):
        empty.empty(torch.zeros(6, device=DEVICE)[::2])
