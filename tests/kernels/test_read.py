import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import read
from kernels.op import problem
from tests.kernels.checks import DEVICE, needs_gpu, run_triton


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("N", [1, 4096, 4097, 3 * 4096 * 1056 // 1000])
def test_any_size_agrees_with_fp64(N: int, dtype: str) -> None:
    run_triton(read.OP, problem("read", dtype, N=N))


@settings(deadline=None, max_examples=20)
@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
)
def test_small_integers_of_any_shape_are_summed_exactly(
    shape: list[int], dtype: torch.dtype
) -> None:
    x = torch.randint(-20, 20, shape, device=DEVICE).to(dtype)
    assert read.read(x).item() == x.long().sum().item()


def test_every_element_counts_once() -> None:
    x = torch.zeros(10_000, device=DEVICE)
    x[[0, 4095, 4096, 9_999]] = torch.tensor([1.0, 10.0, 100.0, 1000.0], device=DEVICE)
    assert read.read(x).item() == 1111.0


def test_the_sum_of_nothing_is_zero() -> None:
    assert read.read(torch.zeros(0, device=DEVICE)).item() == 0.0


def test_what_the_kernel_cannot_read_is_refused() -> None:
    with pytest.raises(ValueError, match=r"read: x of shape \(3,\) has strides \(2,\)"):
        read.read(torch.zeros(6, device=DEVICE)[::2])
    with pytest.raises(ValueError, match=r"read: torch.int64 is not supported"):
        read.read(torch.zeros(6, dtype=torch.int64, device=DEVICE))


def test_cost_by_hand() -> None:
    cost = read.OP.cost(problem("read", "bf16", N=3))
    assert (cost.flops, cost.bytes_read, cost.bytes_written) == (3, 6, 4)


# 4 GiB, and offsets past 2^31.
@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
def test_offsets_past_32_bits_are_read() -> None:
    x = torch.zeros(2**31 + 5, device=DEVICE, dtype=torch.bfloat16)
    x[-1] = 7.0
    assert read.read(x).item() == 7.0
