import pytest
import torch

from kernels import copy
from kernels.op import problem
from tests.kernels.checks import DEVICE, run_triton


@pytest.mark.parametrize("N", [1, 2048, 2049])
def test_any_size_is_copied_exactly(N: int) -> None:
    run_triton(copy.OP, problem("copy", "bf16", N=N))


def test_copy_is_another_tensor_and_passes_the_gradient_on() -> None:
    x = torch.randn(5, device=DEVICE, requires_grad=True)
    y = copy.copy(x)
    assert y.data_ptr() != x.data_ptr()
    dy = torch.randn(5, device=DEVICE)
    assert torch.equal(torch.autograd.grad(y, x, dy)[0], dy)


def test_what_the_kernel_cannot_read_is_refused() -> None:
    with pytest.raises(ValueError, match=r"copy: x of shape \(3,\) has strides \(2,\)"):
        copy.copy(torch.zeros(6, device=DEVICE)[::2])
    with pytest.raises(ValueError, match=r"torch.int64 is not supported"):
        copy.copy(torch.zeros(6, dtype=torch.int64, device=DEVICE))


def test_cost_by_hand() -> None:
    cost = copy.OP.cost(problem("copy", "fp32", N=3))
    assert (cost.flops, cost.bytes_read, cost.bytes_written) == (0, 12, 12)
