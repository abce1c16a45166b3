import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import moe_route
from kernels.op import Problem, problem
from tests.kernels.checks import DEVICE, needs_gpu, run_triton

OP = moe_route.OP


@pytest.mark.parametrize("dtype", OP.dtypes)
@pytest.mark.parametrize(
    ("T", "E", "K"), [(1, 1, 1), (1, 7, 7), (9, 130, 3), (150, 8, 2), (3, 1000, 22), (600, 3, 1)]
)
def test_any_shape_agrees_with_fp64(dtype: str, T: int, E: int, K: int) -> None:
    run_triton(OP, problem("moe_route", dtype, OP.modes[0], "softmax", T=T, E=E, K=K))


@pytest.mark.parametrize("dtype", OP.dtypes)
@pytest.mark.parametrize(("T", "E", "K"), [(1, 16, 1), (9, 16, 8), (130, 24, 3), (20, 256, 8)])
def test_any_groups_agree_with_fp64(dtype: str, T: int, E: int, K: int) -> None:
    run_triton(OP, problem("moe_route", dtype, OP.modes[0], "sigmoid_groups", T=T, E=E, K=K))


@settings(deadline=None, max_examples=15)
@given(T=st.integers(1, 70), E=st.integers(1, 40), data=st.data())
def test_rows_are_a_stable_sort_by_expert_whatever_ties(
    T: int, E: int, data: st.DataObject
) -> None:
    K = data.draw(st.integers(1, min(E, 9)))
    # Of three values only, so that most scores are equal.
    generator = torch.Generator(DEVICE).manual_seed(T)
    logits = torch.randint(3, (T, E), generator=generator, device=DEVICE).float()
    weights, ids, positions, offsets = moe_route.moe_route_softmax(logits, K)
    order = logits.sort(dim=-1, descending=True, stable=True).indices
    assert torch.equal(ids.long(), order[:, :K])
    assert torch.equal(positions.flatten().long(), ids.flatten().argsort(stable=True).argsort())
    counts = torch.bincount(ids.flatten(), minlength=E)
    assert torch.equal(offsets.diff().long(), counts)
    assert offsets[0] == 0
    torch.testing.assert_close(weights.sum(-1), torch.ones(T, device=DEVICE))


def test_blocks_of_tokens_are_counted_together() -> None:
    # More blocks of 32 tokens than the scan holds at once.
    run_triton(OP, problem("moe_route", "fp32", OP.modes[0], "softmax", T=32 * 131 + 5, E=5, K=2))


def test_equal_experts_go_to_the_lower_index_in_bf16_too() -> None:
    logits = torch.zeros(2, 6, dtype=torch.bfloat16, device=DEVICE)
    logits[1, 4] = 1.0
    weights, ids, positions, offsets = moe_route.moe_route_softmax(logits, 2)
    assert ids.tolist() == [[0, 1], [4, 0]]
    assert positions.tolist() == [[0, 2], [3, 1]]
    assert offsets.tolist() == [0, 2, 3, 3, 3, 4, 4]
    assert weights[0].tolist() == [0.5, 0.5]


def test_equal_groups_go_to_the_lower_index() -> None:
    logits = torch.zeros(1, 32, device=DEVICE)
    bias = torch.zeros(32, device=DEVICE)
    assert moe_route.moe_route_sigmoid_groups(logits, bias, 16)[1].tolist() == [[*range(16)]]


def test_bias_chooses_and_does_not_weigh() -> None:
    logits = torch.zeros(1, 16, device=DEVICE)
    bias = torch.zeros(16, device=DEVICE)
    bias[[9, 14]] = torch.tensor([5.0, 4.0], device=DEVICE)
    weights, ids, _, _ = moe_route.moe_route_sigmoid_groups(logits, bias, 2)
    assert ids.tolist() == [[9, 14]]
    assert weights.tolist() == [[1.25, 1.25]]


def test_a_group_counts_by_its_two_best_and_others_are_out() -> None:
    # The best expert of all is alone in a fifth group.
    logits = torch.full((1, 24), -9.0, device=DEVICE)
    logits[0, [0, 1, 6, 7, 12, 13, 18, 19]] = 1.0
    logits[0, 22] = 1.2
    _, ids, _, _ = moe_route.moe_route_sigmoid_groups(logits, torch.zeros(24, device=DEVICE), 3)
    assert ids.tolist() == [[0, 1, 6]]


def test_a_token_of_nan_stays_inside() -> None:
    logits = torch.full((1, 5), float("nan"), device=DEVICE)
    _, ids, positions, _ = moe_route.moe_route_softmax(logits, 2)
    assert ids.min() >= 0
    assert ids.max() < 5
    assert positions.min() >= 0
    assert positions.max() < 2


@pytest.mark.parametrize("dtype", OP.dtypes)
@pytest.mark.parametrize("variant", OP.variants)
def test_no_input_has_scores_that_rounding_orders(dtype: str, variant: str) -> None:
    case = problem("moe_route", dtype, OP.modes[0], variant, T=500, E=128, K=8)
    inputs = OP.make_inputs(case, torch.Generator(DEVICE).manual_seed(0))
    exact = {name: tensor.double() for name, tensor in inputs.items()}
    assert not moe_route._is_near(exact["logits"], exact.get("bias"), 8).any()


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize("dtype", OP.dtypes)
@pytest.mark.parametrize(
    ("variant", "T", "E", "K"),
    [
        ("softmax", 16384, 128, 8),  # Qwen3
        ("softmax", 16384, 8, 2),  # Mixtral
        ("softmax", 4097, 512, 10),  # Qwen3.5
        ("sigmoid_groups", 16384, 256, 8),  # DeepSeek-V3
    ],
)
def test_routers_of_models_agree_with_fp64(
    dtype: str, variant: str, T: int, E: int, K: int
) -> None:
    run_triton(OP, problem("moe_route", dtype, OP.modes[0], variant, T=T, E=E, K=K))


def test_what_the_kernel_cannot_read_is_refused() -> None:
    logits, bias = torch.zeros(3, 16, device=DEVICE), torch.zeros(16, device=DEVICE)
    softmax, groups = moe_route.moe_route_softmax, moe_route.moe_route_sigmoid_groups
    with pytest.raises(ValueError, match=r"moe_route: K=17 of 16 experts cannot be chosen"):
        softmax(logits, 17)
    with pytest.raises(ValueError, match=r"K must be from 1 to 8"):
        groups(logits, bias, 9)
    with pytest.raises(ValueError, match=r"logits\[T,E\] are expected, not \(16,\)"):
        softmax(logits[0], 2)
    with pytest.raises(ValueError, match=r"logits are torch.float16; use bfloat16 or float32"):
        softmax(logits.half(), 2)
    with pytest.raises(ValueError, match=r"E=12 experts; 8 groups of at least two"):
        groups(logits[:, :12].contiguous(), bias, 2)
    with pytest.raises(ValueError, match=r"bias\[16\] of torch.float32 is expected, not \(15,\)"):
        groups(logits, bias[:15], 2)
    with pytest.raises(ValueError, match=r"logits of shape \(3, 16\) has strides \(1, 3\)"):
        softmax(logits.T.contiguous().T, 2)
    with pytest.raises(ValueError, match=r"E=1025 experts; at most 1024"):
        softmax(torch.zeros(1, 1025, device=DEVICE), 2)


def _cost(case: Problem) -> tuple[int, int, int]:
    cost = OP.cost(case)
    return cost.flops, cost.bytes_read, cost.bytes_written


def test_cost_by_hand() -> None:
    written = 3 * 2 * 3 * 4 + 17 * 4
    case = problem("moe_route", "bf16", OP.modes[0], "softmax", T=2, E=16, K=3)
    assert _cost(case) == (2 * (48 + 9), 2 * 16 * 2, written)
    case = problem("moe_route", "fp32", OP.modes[0], "sigmoid_groups", T=2, E=16, K=3)
    assert _cost(case) == (2 * (112 + 24 + 9), 2 * 16 * 4 + 64, written)
