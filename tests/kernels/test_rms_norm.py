import pytest
import torch

from kernels import rms_norm, row_norm
from kernels.op import Mode, problem
from tests.kernels.checks import DEVICE, run_triton


@pytest.mark.parametrize("mode", [Mode.FORWARD, Mode.BACKWARD])
@pytest.mark.parametrize(("T", "H"), [(1, 33), (3, 64), (1, 4096), (7, 65)])
def test_any_shape_agrees_with_fp64(mode: Mode, T: int, H: int) -> None:
    run_triton(rms_norm.OP, problem("rms_norm", "fp32", mode, T=T, H=H))


def test_weight_gradient_sums_more_tokens_than_there_are_strips() -> None:
    # Three rows a strip, the last strip not full, and more strips than one block of the sum.
    T = 2 * row_norm.NUM_STRIPS + 5
    run_triton(rms_norm.OP, problem("rms_norm", "fp32", Mode.BACKWARD, T=T, H=9))


def test_a_row_of_zeros_stays_finite() -> None:
    x, w = torch.zeros(2, 5, device=DEVICE), torch.ones(5, device=DEVICE)
    assert torch.equal(rms_norm.rms_norm(x, w), x)


def test_too_wide_a_row_is_refused_with_the_limit() -> None:
    unsupported = rms_norm.OP.impl("triton").unsupported
    reason = unsupported(problem("rms_norm", "bf16", T=1, H=32769), DEVICE)
    assert reason == "A row is held in registers, which ends at H=32768; H=32769."
    assert unsupported(problem("rms_norm", "bf16", T=1, H=32768), DEVICE) is None


def test_what_the_kernel_cannot_read_is_refused() -> None:
    x, w = torch.zeros(4, 6, device=DEVICE), torch.zeros(6, device=DEVICE)
    with pytest.raises(ValueError, match=r"rms_norm: x of shape \(4, 3\) has strides \(6, 2\)"):
        rms_norm.rms_norm(x[:, ::2], w[:3])
    with pytest.raises(ValueError, match=r"x\[T,H\] and w\[H\] are expected, not \(4, 6\)"):
        rms_norm.rms_norm(x, w[:5])
    with pytest.raises(ValueError, match=r"dy is torch.float16, but must be torch.float32"):
        rms_norm.rms_norm_backward(x.half(), x, w)


def test_cost_by_hand() -> None:
    forward = rms_norm.OP.cost(problem("rms_norm", "bf16", T=2, H=3))
    assert (forward.flops, forward.bytes_read, forward.bytes_written) == (24, 18, 12)
    backward = rms_norm.OP.cost(problem("rms_norm", "bf16", Mode.BACKWARD, T=2, H=3))
    assert (backward.flops, backward.bytes_read, backward.bytes_written) == (66, 30, 18)
