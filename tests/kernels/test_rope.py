import math

import pytest
import torch

from kernels import rope
from kernels.op import Mode, problem
from tests.kernels.checks import DEVICE, inputs_of, run_triton


def _inputs(T: int, H: int, D: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    inputs = inputs_of(rope.OP, problem("rope", "fp32", T=T, H=H, D=D))
    return inputs["x"], inputs["cos"], inputs["sin"]


@pytest.mark.parametrize("mode", [Mode.FORWARD, Mode.BACKWARD])
@pytest.mark.parametrize(("T", "H", "D"), [(1, 1, 2), (3, 16, 128), (2, 17, 64), (2, 3, 2050)])
def test_any_shape_agrees_with_fp64(mode: Mode, T: int, H: int, D: int) -> None:
    run_triton(rope.OP, problem("rope", "fp32", mode, T=T, H=H, D=D))


def test_pairs_are_half_a_head_apart() -> None:
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]], device=DEVICE)
    # A quarter turn of (1, 3), and a half turn of (2, 4).
    cos = torch.tensor([[0.0, -1.0]], device=DEVICE)
    sin = torch.tensor([[1.0, 0.0]], device=DEVICE)
    assert rope.rope(x, cos, sin).tolist() == [[[-3.0, -2.0, 1.0, -4.0]]]
    assert rope.rope_backward(x, cos, sin).tolist() == [[[3.0, -2.0, -1.0, -4.0]]]


def test_is_a_product_of_complex_numbers() -> None:
    x, cos, sin = _inputs(3, 5, 32)
    first, second = x.chunk(2, dim=-1)
    turned = torch.complex(first, second) * torch.complex(cos, sin)[:, None]
    expected = torch.cat((turned.real, turned.imag), dim=-1)
    torch.testing.assert_close(rope.rope(x, cos, sin), expected)


def test_norm_of_each_pair_is_kept() -> None:
    x, cos, sin = _inputs(4, 3, 64)
    y = rope.rope(x, cos, sin)
    pairs, turned = (torch.hypot(*tensor.chunk(2, dim=-1)) for tensor in (x, y))
    torch.testing.assert_close(turned, pairs)


def test_backward_turns_back() -> None:
    x, cos, sin = _inputs(4, 3, 64)
    there = rope.rope(x, cos, sin)
    torch.testing.assert_close(rope.rope_backward(there, cos, sin), x)


def test_position_0_changes_nothing() -> None:
    x, cos, sin = _inputs(2, 3, 64)
    assert torch.equal(rope.rope(x, torch.ones_like(cos), torch.zeros_like(sin)), x)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_tables_hold_the_angles_of_whole_positions(dtype: str) -> None:
    inputs = inputs_of(rope.OP, problem("rope", dtype, T=64, H=1, D=8))
    cos, sin = inputs["cos"].cpu().double(), inputs["sin"].cpu().double()
    assert inputs["cos"].dtype == inputs["sin"].dtype == torch.float32
    torch.testing.assert_close(cos**2 + sin**2, torch.ones_like(cos))
    # The last frequency, 500000^(-3/4), takes 118144 positions for a turn, so its angle tells the
    # position up to one turn; the first angle is the position itself.
    slowest = torch.atan2(sin[:, 3], cos[:, 3]) % math.tau
    turns = torch.arange(2)[:, None]
    near = ((slowest + turns * math.tau) * 500_000**0.75).round()
    found = torch.isclose(near.cos(), cos[:, 0], atol=1e-5) & (near < 131072)
    assert found.any(dim=0).all()


def test_attention_scores_depend_on_the_distance_alone() -> None:
    query, key, _ = (torch.randn(1, 1, 16, device=DEVICE) for _ in range(3))

    def score(position: int, other: int) -> float:
        def turned(x: torch.Tensor, at: int) -> torch.Tensor:
            angles = at * rope.BASE ** (torch.arange(8, device=DEVICE) * (-2 / 16))[None]
            return rope.rope(x, angles.cos(), angles.sin())

        return float((turned(query, position) * turned(key, other)).sum())

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-4)


def test_only_x_has_a_gradient() -> None:
    x, cos, sin = (tensor.requires_grad_() for tensor in _inputs(2, 3, 8))
    rope.rope(x, cos, sin).sum().backward()
    assert x.grad is not None
    assert cos.grad is None
    assert sin.grad is None


def test_what_the_kernel_cannot_read_is_refused() -> None:
    x, cos, sin = _inputs(2, 3, 8)
    with pytest.raises(ValueError, match=r"x\[T,H,D\] with D even is expected, not \(2, 3, 7\)"):
        rope.rope(x[:, :, :7].contiguous(), cos, sin)
    with pytest.raises(ValueError, match=r"dy\[T,H,D\] with D even is expected, not \(6, 8\)"):
        rope.rope_backward(x.view(6, 8), cos, sin)
    with pytest.raises(ValueError, match=r"cos\[2,4\] .* x\[2,3,8\], not \(2, 3\) and \(2, 4\)"):
        rope.rope(x, cos[:, :3].contiguous(), sin)
    with pytest.raises(ValueError, match=r"sin is torch.float16, but must be torch.float32"):
        rope.rope(x, cos, sin.half())
    with pytest.raises(ValueError, match=r"x of shape \(2, 8, 3\) has strides \(24, 1, 8\)"):
        rope.rope(x.transpose(1, 2), cos, sin)


def test_cost_by_hand() -> None:
    for mode in (Mode.FORWARD, Mode.BACKWARD):
        cost = rope.OP.cost(problem("rope", "bf16", mode, T=2, H=3, D=4))
        assert (cost.flops, cost.bytes_read, cost.bytes_written) == (72, 48 + 32, 48)
