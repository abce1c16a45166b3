import pytest
import torch

from kernels import swiglu
from kernels.op import Mode, problem
from tests.kernels.checks import DEVICE, run_triton


@pytest.mark.parametrize("mode", [Mode.FORWARD, Mode.BACKWARD])
@pytest.mark.parametrize(("T", "F"), [(1, 1), (3, 1024), (2, 2049)])
def test_any_shape_agrees_with_fp64(mode: Mode, T: int, F: int) -> None:
    run_triton(swiglu.OP, problem("swiglu", "fp32", mode, T=T, F=F))


def test_gate_comes_before_up() -> None:
    gate_up = torch.tensor([[0.0, 2.0, 5.0, 3.0]], device=DEVICE)
    y = swiglu.swiglu(gate_up)
    torch.testing.assert_close(y, torch.tensor([[0.0, 2 / (1 + 2.718281828**-2) * 3]]).to(DEVICE))


# NumPy, which the interpreter computes with, warns of the infinity on the way to zero.
@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")
@pytest.mark.parametrize("gate", [-1e4, -90.0, 90.0, 1e4])
def test_saturated_gates_stay_finite(gate: float) -> None:
    gate_up = torch.tensor([[gate, 2.0]], device=DEVICE)
    expected = max(gate, 0.0) * 2.0
    assert swiglu.swiglu(gate_up).item() == pytest.approx(expected)
    d_gate, d_up = swiglu.swiglu_backward(torch.ones(1, 1, device=DEVICE), gate_up)[0].tolist()
    assert d_gate == pytest.approx(2.0 if gate > 0 else 0.0)
    assert d_up == pytest.approx(max(gate, 0.0))


def test_what_the_kernel_cannot_read_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gate_up\[T,2F\] is expected, not \(2, 3\)"):
        swiglu.swiglu(torch.zeros(2, 3, device=DEVICE))
    with pytest.raises(ValueError, match=r"has strides \(1, 4\)"):
        swiglu.swiglu(torch.zeros(2, 4, device=DEVICE).T)


def test_cost_by_hand() -> None:
    forward = swiglu.OP.cost(problem("swiglu", "bf16", T=2, F=3))
    assert (forward.flops, forward.bytes_read, forward.bytes_written) == (30, 24, 12)
    backward = swiglu.OP.cost(problem("swiglu", "bf16", Mode.BACKWARD, T=2, F=3))
    assert (backward.flops, backward.bytes_read, backward.bytes_written) == (66, 36, 24)
