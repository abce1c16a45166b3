import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import stream, write
from kernels.op import problem
from tests.kernels.checks import DEVICE, inputs_of, needs_gpu, run_triton


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("N", [1, stream.BLOCK, stream.BLOCK + 1])
def test_any_size_is_written_exactly(N: int, dtype: str) -> None:
    run_triton(write.OP, problem("write", dtype, N=N))


@settings(deadline=None, max_examples=20)
@given(
    size=st.integers(1, 10_000),
    number=st.floats(width=16, allow_nan=False),
    dtype=st.sampled_from([torch.float16, torch.float32]),
)
def test_any_number_is_written_whole(size: int, number: float, dtype: torch.dtype) -> None:
    value = torch.tensor([number], device=DEVICE, dtype=dtype)
    y = write.write(value, size)
    assert y.shape == (size,)
    assert torch.equal(y, value.expand(size))


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_one_element_is_a_tensor_of_its_own(impl: str) -> None:
    case = problem("write", "fp32", N=1)
    inputs = inputs_of(write.OP, case)
    (y,) = write.OP.impl(impl).prepare(case, inputs)()
    assert y.data_ptr() != inputs["value"].data_ptr()


def test_what_the_kernel_cannot_write_is_refused() -> None:
    with pytest.raises(ValueError, match=r"write: value is one number, not of shape \(2,\)"):
        write.write(torch.ones(2, device=DEVICE), 3)
    with pytest.raises(ValueError, match=r"write: size is at least 1, not 0"):
        write.write(torch.ones(1, device=DEVICE), 0)
    with pytest.raises(ValueError, match=r"write: torch.int64 is not supported"):
        write.write(torch.ones(1, dtype=torch.int64, device=DEVICE), 3)


def test_cost_by_hand() -> None:
    cost = write.OP.cost(problem("write", "bf16", N=3))
    assert (cost.flops, cost.bytes_read, cost.bytes_written) == (0, 2, 6)


# 4 GiB, and offsets past 2^31.
@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
def test_offsets_past_32_bits_are_written() -> None:
    y = write.write(torch.ones(1, device=DEVICE, dtype=torch.bfloat16), 2**31 + 5)
    assert y[-5:].tolist() == [1.0] * 5
