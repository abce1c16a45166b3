import pytest
import torch

from kernels import geglu
from kernels.op import Mode, problem
from tests.kernels.checks import DEVICE, run_triton


@pytest.mark.parametrize("mode", [Mode.FORWARD, Mode.BACKWARD])
@pytest.mark.parametrize(("T", "F"), [(1, 1), (3, 1024), (2, 2049)])
def test_any_shape_agrees_with_fp64(mode: Mode, T: int, F: int) -> None:
    run_triton(geglu.OP, problem("geglu", "fp32", mode, T=T, F=F))


def test_gate_comes_before_up() -> None:
    gate_up = torch.tensor([[0.0, 1.0, 5.0, 3.0]], device=DEVICE)
    y = geglu.geglu(gate_up)
    torch.testing.assert_close(y, torch.tensor([[0.0, 0.841192 * 3]]).to(DEVICE))


def test_gelu_is_the_tanh_form_and_not_the_error_function() -> None:
    # They are furthest apart near 2.7, by 5e-4, which no rounding of fp32 comes near.
    gate = torch.linspace(-4.0, 4.0, 81, device=DEVICE)[None]
    y = geglu.geglu(torch.cat((gate, torch.ones_like(gate)), dim=1))
    gelu = torch.nn.functional.gelu
    torch.testing.assert_close(y, gelu(gate, approximate="tanh"), rtol=0, atol=1e-6)
    assert (y - gelu(gate)).abs().max() > 3e-4


# NumPy, which the interpreter computes with, warns of the infinity on the way to zero.
@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")
@pytest.mark.parametrize("gate", [-65504.0, -90.0, 90.0, 65504.0])
def test_saturated_gates_stay_finite(gate: float) -> None:
    gate_up = torch.tensor([[gate, 2.0]], device=DEVICE)
    assert geglu.geglu(gate_up).item() == pytest.approx(max(gate, 0.0) * 2.0)
    d_gate, d_up = geglu.geglu_backward(torch.ones(1, 1, device=DEVICE), gate_up)[0].tolist()
    assert d_gate == pytest.approx(2.0 if gate > 0 else 0.0)
    assert d_up == pytest.approx(max(gate, 0.0))


def test_what_the_kernel_cannot_read_is_refused() -> None:
    with pytest.raises(ValueError, match=r"geglu: gate_up\[T,2F\] is expected, not \(2, 3\)"):
        geglu.geglu(torch.zeros(2, 3, device=DEVICE))
    with pytest.raises(ValueError, match=r"geglu: gate_up of shape \(4, 2\) has strides \(1, 4\)"):
        geglu.geglu(torch.zeros(2, 4, device=DEVICE).T)


def test_cost_by_hand() -> None:
    forward = geglu.OP.cost(problem("geglu", "bf16", T=2, F=3))
    assert (forward.flops, forward.bytes_read, forward.bytes_written) == (54, 24, 12)
    backward = geglu.OP.cost(problem("geglu", "bf16", Mode.BACKWARD, T=2, F=3))
    assert (backward.flops, backward.bytes_read, backward.bytes_written) == (102, 36, 24)
