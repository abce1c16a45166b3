import math

import pytest
import torch

from kernels import softmax
from kernels.op import Mode, problem
from tests.kernels.checks import DEVICE, run_triton


@pytest.mark.parametrize("mode", [Mode.FORWARD, Mode.BACKWARD])
@pytest.mark.parametrize(("T", "V"), [(2, 1), (3, 7), (3, 4096), (2, 8193)])
def test_any_width_agrees_with_fp64(mode: Mode, T: int, V: int) -> None:
    run_triton(softmax.OP, problem("softmax", "fp32", mode, T=T, V=V))


@pytest.mark.parametrize("mode", [Mode.FORWARD, Mode.BACKWARD])
def test_a_whole_vocabulary_in_fp16_is_under_its_normal_numbers(mode: Mode) -> None:
    run_triton(softmax.OP, problem("softmax", "fp16", mode, T=2, V=128256))


def test_peak_in_a_late_block_does_not_overflow() -> None:
    x = torch.zeros(1, 9000, device=DEVICE)
    x[0, 8999] = 1000.0
    y = softmax.softmax(x)
    assert y[0, 8999].item() == 1.0
    assert y[0, :8999].count_nonzero() == 0


@pytest.mark.parametrize("shift", [-1e4, 0.0, 1e4])
def test_a_constant_added_to_a_row_changes_nothing(shift: float) -> None:
    x = torch.arange(8.0, device=DEVICE)[None]
    y = softmax.softmax(x + shift)
    torch.testing.assert_close(y, torch.softmax(x, dim=1))
    assert y.sum().item() == pytest.approx(1.0)


def test_masked_entries_get_nothing_and_a_masked_block_loses_no_row() -> None:
    x = torch.full((1, 9000), -math.inf, device=DEVICE)
    x[0, 4999:5001] = -2.0
    y = softmax.softmax(x)
    assert y[0, 4999:5001].tolist() == [0.5, 0.5]
    assert y.count_nonzero() == 2


def test_gradient_of_a_row_sums_to_zero_and_vanishes_for_equal_dy() -> None:
    y = softmax.softmax(torch.arange(8.0, device=DEVICE)[None])
    dx = softmax.softmax_backward(torch.arange(8.0, device=DEVICE)[None].cos(), y)
    assert dx.sum().item() == pytest.approx(0.0, abs=1e-6)
    assert dx.abs().max() > 0.01
    dx = softmax.softmax_backward(torch.ones(1, 8, device=DEVICE), y)
    torch.testing.assert_close(dx, torch.zeros_like(dx), rtol=0, atol=1e-6)


def test_what_the_kernel_cannot_read_is_refused() -> None:
    x = torch.zeros(2, 4, device=DEVICE)
    with pytest.raises(ValueError, match=r"softmax: x of shape \(4, 2\) has strides \(1, 4\)"):
        softmax.softmax(x.T)
    with pytest.raises(ValueError, match=r"x\[T,V\] is expected, not \(4,\)"):
        softmax.softmax(x[0])
    with pytest.raises(ValueError, match=r"expected, not \(1, 4\) and \(2, 4\)"):
        softmax.softmax_backward(x[:1], x)
    with pytest.raises(ValueError, match=r"softmax: dy is torch.float16, but must be torch.fl"):
        softmax.softmax_backward(x.half(), x)


def test_cost_by_hand() -> None:
    forward = softmax.OP.cost(problem("softmax", "bf16", T=2, V=5))
    assert (forward.flops, forward.bytes_read, forward.bytes_written) == (50, 20, 20)
    backward = softmax.OP.cost(problem("softmax", "bf16", Mode.BACKWARD, T=2, V=5))
    assert (backward.flops, backward.bytes_read, backward.bytes_written) == (40, 40, 20)
