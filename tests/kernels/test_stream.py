"""Scale, add and triad, which differ from copy in their arithmetic alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import add, copy, scale, stream, triad
from kernels.op import Op, problem
from tests.kernels.checks import DEVICE, needs_gpu, run_triton

OPS = [scale.OP, add.OP, triad.OP]


def _name(op: Op) -> str:
    return op.name


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("N", [1, stream.BLOCK, stream.BLOCK + 1])
@pytest.mark.parametrize("op", OPS, ids=_name)
def test_any_size_agrees_with_fp64(op: Op, N: int, dtype: str) -> None:
    run_triton(op, problem(op.name, dtype, N=N))


@settings(deadline=None, max_examples=20)
@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
)
def test_small_integers_of_any_shape_are_summed_exactly(
    shape: list[int], dtype: torch.dtype
) -> None:
    x = torch.randint(-20, 20, shape, device=DEVICE).to(dtype)
    y = torch.randint(-20, 20, shape, device=DEVICE).to(dtype)
    assert torch.equal(copy.copy(x), x)
    assert torch.equal(scale.scale(x), 3 * x)
    assert torch.equal(add.add(x, y), x + y)
    assert torch.equal(triad.triad(x, y), x + 3 * y)


def test_a_16_bit_result_is_rounded_once() -> None:
    # 3 * 87 = 261 is no bf16 number, and would be rounded to 260 before the sum.
    x = torch.tensor([-260.0], device=DEVICE, dtype=torch.bfloat16)
    y = torch.tensor([87.0], device=DEVICE, dtype=torch.bfloat16)
    assert triad.triad(x, y).item() == 1.0


def test_gradients_are_those_of_the_formula() -> None:
    x, y, dz = (torch.randn(2, 5, device=DEVICE) for _ in range(3))
    x.requires_grad_()
    y.requires_grad_()
    (dx,) = torch.autograd.grad(scale.scale(x), x, dz)
    assert torch.equal(dx, 3 * dz)
    assert all(torch.equal(d, dz) for d in torch.autograd.grad(add.add(x, y), (x, y), dz))
    dx, dy = torch.autograd.grad(triad.triad(x, y), (x, y), dz)
    assert torch.equal(dx, dz)
    assert torch.equal(dy, 3 * dz)


# The contract asks it of ops with a backward mode.
@pytest.mark.parametrize("op", [copy.copy, scale.scale], ids=["copy", "scale"])
def test_an_op_of_one_operand_passes_opcheck_with_its_gradient(op: object) -> None:
    torch.library.opcheck(op, (torch.randn(7, device=DEVICE, requires_grad=True),))


@pytest.mark.parametrize("op", [add.add, triad.triad], ids=["add", "triad"])
def test_an_op_of_two_operands_passes_opcheck_with_its_gradients(op: object) -> None:
    x, y = (torch.randn(7, device=DEVICE, requires_grad=True) for _ in range(2))
    torch.library.opcheck(op, (x, y))


def test_what_the_kernels_cannot_read_is_refused() -> None:
    x = torch.zeros(6, device=DEVICE)
    with pytest.raises(ValueError, match=r"scale: x of shape \(3,\) has strides \(2,\)"):
        scale.scale(x[::2])
    with pytest.raises(ValueError, match=r"scale: torch.int64 is not supported"):
        scale.scale(x.long())
    with pytest.raises(ValueError, match=r"add: y is torch.float16, but must be torch.float32"):
        add.add(x, x.half())
    with pytest.raises(
        ValueError, match=r"triad: y is expected with the shape of x, \(6,\), not \(1,\)"
    ):
        triad.triad(x, x[:1])


@pytest.mark.parametrize(
    ("op", "flops", "bytes_read", "bytes_written"),
    [(scale.OP, 3, 6, 6), (add.OP, 3, 12, 6), (triad.OP, 6, 12, 6)],
    ids=["scale", "add", "triad"],
)
def test_cost_by_hand(op: Op, flops: int, bytes_read: int, bytes_written: int) -> None:
    cost = op.cost(problem(op.name, "bf16", N=3))
    assert (cost.flops, cost.bytes_read, cost.bytes_written) == (flops, bytes_read, bytes_written)


# 4 GiB a tensor, and offsets past 2^31.
@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize("op", OPS, ids=_name)
def test_offsets_past_32_bits_are_right(op: Op) -> None:
    N = 2**31 + 5
    x = torch.zeros(N, device=DEVICE, dtype=torch.bfloat16)
    x[-5:] = 2.0
    run = op.impl("triton").prepare(problem(op.name, "bf16", N=N), {"x": x, "y": x})
    (output,) = run()
    assert output[-6:].tolist() == [0.0] + 5 * [{"scale": 6.0, "add": 4.0, "triad": 8.0}[op.name]]
