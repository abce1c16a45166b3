import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import add_rms_norm, rms_norm, row_norm
from kernels.op import Mode, problem
from tests.kernels.checks import DEVICE, needs_gpu, run_triton


@settings(deadline=None, max_examples=20)
@given(
    T=st.integers(1, 9),
    H=st.integers(1, 300),
    mode=st.sampled_from([Mode.FORWARD, Mode.BACKWARD]),
    dtype=st.sampled_from(["bf16", "fp16", "fp32"]),
)
def test_any_shape_agrees_with_fp64(T: int, H: int, mode: Mode, dtype: str) -> None:
    run_triton(add_rms_norm.OP, problem("add_rms_norm", dtype, mode, T=T, H=H))


@pytest.mark.parametrize("mode", [Mode.FORWARD, Mode.BACKWARD])
@pytest.mark.parametrize("H", [4096, 5120])
def test_the_width_of_a_model_agrees_with_fp64(mode: Mode, H: int) -> None:
    run_triton(add_rms_norm.OP, problem("add_rms_norm", "bf16", mode, T=2, H=H))


def test_weight_gradient_sums_more_tokens_than_there_are_strips() -> None:
    # Three rows a strip, the last strip not full, and more strips than one block of the sum.
    T = 2 * row_norm.NUM_STRIPS + 5
    run_triton(add_rms_norm.OP, problem("add_rms_norm", "fp32", Mode.BACKWARD, T=T, H=9))


# Not bf16, which the interpreter cuts off where a device rounds it.
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_it_is_the_sum_and_then_the_norm_to_the_last_bit(dtype: torch.dtype) -> None:
    x, r = (torch.randn(3, 65, device=DEVICE).to(dtype) for _ in range(2))
    w = torch.randn(65, device=DEVICE).to(dtype)
    y, h = add_rms_norm.add_rms_norm(x, r, w)
    assert torch.equal(h, x + r)
    assert torch.equal(y, rms_norm.rms_norm(h, w))


def test_a_gradient_comes_back_through_either_output() -> None:
    x, r, dy, dh = (torch.randn(3, 65, device=DEVICE) for _ in range(4))
    w = torch.randn(65, device=DEVICE)
    through_norm = rms_norm.rms_norm_backward(dy, x + r, w)
    operands = [tensor.requires_grad_() for tensor in (x, r, w)]
    y, h = add_rms_norm.add_rms_norm(*operands)
    dx, dr, dw = torch.autograd.grad(y, operands, dy, retain_graph=True)
    assert torch.equal(dx, through_norm[0])
    assert torch.equal(dr, dx)
    assert torch.equal(dw, through_norm[1])
    dx, dr, dw = torch.autograd.grad(h, operands, dh)
    assert torch.equal(dx, dh)
    assert torch.equal(dr, dh)
    assert not dw.any()


def test_a_residual_that_cancels_stays_finite() -> None:
    x, w = torch.randn(2, 5, device=DEVICE), torch.ones(5, device=DEVICE)
    y, h = add_rms_norm.add_rms_norm(x, -x, w)
    assert not h.any()
    assert not y.any()


def test_too_wide_a_row_is_refused_with_the_limit() -> None:
    unsupported = add_rms_norm.OP.impl("triton").unsupported
    reason = unsupported(problem("add_rms_norm", "bf16", T=1, H=32769), DEVICE)
    assert reason == "A row is held in registers, which ends at H=32768; H=32769."
    assert unsupported(problem("add_rms_norm", "bf16", T=1, H=32768), DEVICE) is None


def test_what_the_kernel_cannot_read_is_refused() -> None:
    x, w = torch.zeros(4, 6, device=DEVICE), torch.zeros(6, device=DEVICE)
    with pytest.raises(ValueError, match=r"add_rms_norm: r of shape \(4, 6\) has strides \(1, 4\)"):
        add_rms_norm.add_rms_norm(x, torch.zeros(6, 4, device=DEVICE).T, w)
    with pytest.raises(ValueError, match=r"add_rms_norm: rows \[T,H\] and w\[H\] are expected"):
        add_rms_norm.add_rms_norm(x, x, w[:5])
    with pytest.raises(ValueError, match=r"r of shape \(4, 6\) is expected, not \(3, 6\)"):
        add_rms_norm.add_rms_norm(x, x[:3], w)
    with pytest.raises(ValueError, match=r"dh is torch.float16, but must be torch.float32"):
        add_rms_norm.add_rms_norm_backward(x, x.half(), x, w)
    with pytest.raises(ValueError, match=r"dy of shape \(4, 6\) is expected, not \(2, 6\)"):
        add_rms_norm.add_rms_norm_backward(x[:2], x, x, w)


def test_cost_by_hand() -> None:
    forward = add_rms_norm.OP.cost(problem("add_rms_norm", "bf16", T=2, H=3))
    assert (forward.flops, forward.bytes_read, forward.bytes_written) == (30, 30, 24)
    backward = add_rms_norm.OP.cost(problem("add_rms_norm", "bf16", Mode.BACKWARD, T=2, H=3))
    assert (backward.flops, backward.bytes_read, backward.bytes_written) == (72, 42, 18)


# Llama-3.1 8B, 70B and 405B; a row of 16384 is the widest of them.
@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize("mode", [Mode.FORWARD, Mode.BACKWARD])
@pytest.mark.parametrize("H", [4096, 8192, 16384])
def test_a_micro_batch_of_a_model_agrees_with_fp64(mode: Mode, H: int) -> None:
    run_triton(add_rms_norm.OP, problem("add_rms_norm", "bf16", mode, T=8192, H=H))
