import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import gelu
from kernels.op import Mode, problem
from tests.kernels.checks import DEVICE, run_triton


@pytest.mark.parametrize("mode", [Mode.FORWARD, Mode.BACKWARD])
@settings(deadline=None, max_examples=10)
@given(N=st.integers(1, 5000))
def test_any_size_agrees_with_fp64(mode: Mode, N: int) -> None:
    run_triton(gelu.OP, problem("gelu", "fp32", mode, N=N))


def test_a_matrix_keeps_its_shape() -> None:
    x = torch.randn(3, 5, device=DEVICE)
    torch.testing.assert_close(
        gelu.gelu(x), torch.nn.functional.gelu(x, approximate="tanh"), rtol=1e-5, atol=1e-6
    )


# NumPy, which the interpreter computes with, warns of the infinity on the way to zero.
@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")
@pytest.mark.parametrize("x", [-1e4, -90.0, 90.0, 1e4])
def test_far_from_zero_it_is_zero_or_the_identity(x: float) -> None:
    value = torch.tensor([x], device=DEVICE)
    assert gelu.gelu(value).item() == pytest.approx(max(x, 0.0))
    one = torch.ones_like(value)
    assert gelu.gelu_backward(one, value).item() == pytest.approx(float(x > 0))


def test_what_the_kernel_cannot_read_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gelu: dy is expected with the shape of x, \(4,\)"):
        gelu.gelu_backward(torch.zeros(3, device=DEVICE), torch.zeros(4, device=DEVICE))


def test_cost_by_hand() -> None:
    forward = gelu.OP.cost(problem("gelu", "bf16", N=3))
    assert (forward.flops, forward.bytes_read, forward.bytes_written) == (24, 6, 6)
    backward = gelu.OP.cost(problem("gelu", "bf16", Mode.BACKWARD, N=3))
    assert (backward.flops, backward.bytes_read, backward.bytes_written) == (45, 12, 6)
