import pytest
import torch

from kernels import layer_norm, row_norm
from kernels.op import Mode, problem
from tests.kernels.checks import DEVICE, run_triton


@pytest.mark.parametrize("mode", [Mode.FORWARD, Mode.BACKWARD])
@pytest.mark.parametrize(("T", "H"), [(1, 33), (3, 64), (1, 4096), (7, 65)])
def test_any_shape_agrees_with_fp64(mode: Mode, T: int, H: int) -> None:
    run_triton(layer_norm.OP, problem("layer_norm", "fp32", mode, T=T, H=H))


def test_weight_gradients_sum_more_tokens_than_there_are_strips() -> None:
    # Three rows a strip, the last strip not full, and more strips than one block of the sum.
    T = 2 * row_norm.NUM_STRIPS + 5
    run_triton(layer_norm.OP, problem("layer_norm", "fp32", Mode.BACKWARD, T=T, H=9))


def test_a_row_of_equal_values_is_the_bias() -> None:
    x, w, b = torch.full((2, 5), 3.0), torch.ones(5), torch.arange(5.0)
    y = layer_norm.layer_norm(x.to(DEVICE), w.to(DEVICE), b.to(DEVICE))
    torch.testing.assert_close(y, b.expand(2, 5).to(DEVICE))


def test_a_mean_far_from_zero_does_not_cost_the_variance() -> None:
    # The squares are 2^24 apart from their differences, past the digits of fp32.
    signs = torch.tensor([[1.0, -1.0, -1.0, 1.0]], device=DEVICE)
    w, b = torch.ones(4, device=DEVICE), torch.zeros(4, device=DEVICE)
    y = layer_norm.layer_norm(4096.0 + signs, w, b)
    torch.testing.assert_close(y, signs, rtol=1e-5, atol=0.0)


def test_bias_gradient_is_the_sum_of_dy() -> None:
    x = torch.tensor([[1.0, 2.0, 4.0], [3.0, -1.0, 0.0]], device=DEVICE)
    dy = torch.tensor([[1.0, 0.0, -2.0], [0.5, 3.0, 1.0]], device=DEVICE)
    dx, _, db = layer_norm.layer_norm_backward(dy, x, torch.ones(3, device=DEVICE))
    assert db.tolist() == [1.5, 3.0, -1.0]
    # A constant added to a row changes nothing.
    torch.testing.assert_close(dx.sum(dim=1), torch.zeros(2, device=DEVICE), rtol=0, atol=1e-6)


def test_too_wide_a_row_is_refused_with_the_limit() -> None:
    unsupported = layer_norm.OP.impl("triton").unsupported
    reason = unsupported(problem("layer_norm", "bf16", T=1, H=32769), DEVICE)
    assert reason == "A row is held in registers, which ends at H=32768; H=32769."
    assert unsupported(problem("layer_norm", "bf16", T=1, H=32768), DEVICE) is None


def test_what_the_kernel_cannot_read_is_refused() -> None:
    x, w = torch.zeros(4, 6, device=DEVICE), torch.zeros(6, device=DEVICE)
    with pytest.raises(ValueError, match=r"layer_norm: x of shape \(4, 3\) has strides \(6, 2\)"):
        layer_norm.layer_norm(x[:, ::2], w[:3], w[:3])
    with pytest.raises(ValueError, match=r"x\[T,H\] and w\[H\] are expected, not \(4, 6\)"):
        layer_norm.layer_norm(x, w[:5], w)
    with pytest.raises(ValueError, match=r"b\[H\] is expected as w\[6\], not \(5,\)"):
        layer_norm.layer_norm(x, w, w[:5])
    with pytest.raises(ValueError, match=r"dy is torch.float16, but must be torch.float32"):
        layer_norm.layer_norm_backward(x.half(), x, w)


def test_cost_by_hand() -> None:
    forward = layer_norm.OP.cost(problem("layer_norm", "bf16", T=2, H=3))
    assert (forward.flops, forward.bytes_read, forward.bytes_written) == (42, 24, 12)
    backward = layer_norm.OP.cost(problem("layer_norm", "bf16", Mode.BACKWARD, T=2, H=3))
    assert (backward.flops, backward.bytes_read, backward.bytes_written) == (96, 30, 24)
