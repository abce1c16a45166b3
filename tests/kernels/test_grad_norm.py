import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import grad_norm
from kernels.op import problem
from tests.kernels.checks import DEVICE, needs_gpu, run_triton


@settings(deadline=None, max_examples=20)
@given(
    N=st.integers(1, 20000),
    num_programs=st.integers(1, 5),
    dtype=st.sampled_from(["bf16", "fp16", "fp32"]),
)
def test_any_size_over_any_number_of_programs_agrees_with_fp64(
    N: int, num_programs: int, dtype: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grad_norm, "_NUM_PROGRAMS", num_programs)
        run_triton(grad_norm.OP, problem("grad_norm", dtype, N=N))


@pytest.mark.parametrize("N", [1, grad_norm._BLOCK, grad_norm._BLOCK + 1, 300 * grad_norm._BLOCK])
def test_full_blocks_and_their_edges_agree_with_fp64(N: int) -> None:
    run_triton(grad_norm.OP, problem("grad_norm", "bf16", N=N))


def test_the_norm_of_any_shape_by_hand() -> None:
    grad = torch.tensor([[3.0, 0.0], [0.0, -4.0]], device=DEVICE)
    norm = grad_norm.grad_norm(grad)
    assert norm.tolist() == [5.0]
    assert norm.dtype == torch.float32


def test_the_norm_of_nothing_is_zero() -> None:
    assert grad_norm.grad_norm(torch.zeros(0, device=DEVICE)).tolist() == [0.0]


@pytest.mark.parametrize("value", [2.0**15, 2.0**-14])
def test_squares_past_the_range_of_fp16_are_summed(value: float) -> None:
    grad = torch.full((64,), value, dtype=torch.float16, device=DEVICE)
    assert grad_norm.grad_norm(grad).tolist() == [8 * value]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_bad_gradient_is_seen(value: float) -> None:
    grad = torch.ones(grad_norm._BLOCK + 7, device=DEVICE)
    grad[-1] = value
    assert not grad_norm.grad_norm(grad).isfinite().any()


def test_what_the_kernel_cannot_read_is_refused() -> None:
    with pytest.raises(ValueError, match=r"grad_norm: grad of shape \(3,\) has strides \(2,\)"):
        grad_norm.grad_norm(torch.zeros(6, device=DEVICE)[::2])
    with pytest.raises(ValueError, match=r"grad_norm: torch.float64 is not supported"):
        grad_norm.grad_norm(torch.zeros(6, dtype=torch.float64, device=DEVICE))


def test_cost_by_hand() -> None:
    cost = grad_norm.OP.cost(problem("grad_norm", "bf16", N=3))
    assert (cost.flops, cost.bytes_read, cost.bytes_written) == (6, 6, 4)


# The parameters of a rank of Llama-3.1 8B on 8 chips, and offsets past 2^31.
@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize("N", [1_003_782_656, 2**31 + 4097])
def test_the_gradients_of_a_model_agree_with_fp64(N: int) -> None:
    run_triton(grad_norm.OP, problem("grad_norm", "bf16", N=N))
