"""Of `moe_permute` and `moe_unpermute`, which undo each other."""

from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import moe_permute, moe_unpermute
from kernels.moe_route import moe_route_softmax
from kernels.op import Mode, problem
from tests.kernels.checks import DEVICE, needs_gpu, run_triton

MODES = (Mode.FORWARD, Mode.BACKWARD)
MODULES = (moe_permute, moe_unpermute)


def _positions(*rows: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int32, device=DEVICE)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize(("T", "K", "E", "H"), [(1, 1, 1, 1), (3, 2, 9, 1024), (7, 8, 8, 2049)])
def test_any_shape_agrees_with_fp64(
    module: ModuleType, mode: Mode, dtype: str, T: int, K: int, E: int, H: int
) -> None:
    run_triton(module.OP, problem(module.OP.name, dtype, mode, T=T, K=K, E=E, H=H))


@settings(deadline=None, max_examples=15)
@given(T=st.integers(1, 20), K=st.integers(1, 5), extra=st.integers(0, 9), H=st.integers(1, 40))
def test_weights_that_sum_to_one_bring_each_token_back(T: int, K: int, extra: int, H: int) -> None:
    generator = torch.Generator(DEVICE).manual_seed(T)
    logits = torch.randn(T, K + extra, generator=generator, device=DEVICE)
    x = torch.randn(T, H, generator=generator, device=DEVICE)
    weights, ids, positions, offsets = moe_route_softmax(logits, K)
    rows = moe_permute.moe_permute(x, positions)
    for expert in range(K + extra):
        tokens = (ids == expert).any(-1).nonzero().flatten()
        assert torch.equal(rows[offsets[expert] : offsets[expert + 1]], x[tokens])
    torch.testing.assert_close(moe_unpermute.moe_unpermute(rows, weights, positions), x)


def test_rows_go_where_positions_say() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=DEVICE)
    positions = _positions((2, 0), (1, 3))
    rows = moe_permute.moe_permute(x, positions)
    assert rows.tolist() == [[1, 2], [3, 4], [1, 2], [3, 4]]
    dx = moe_permute.moe_permute_backward(rows * torch.arange(4.0)[:, None], positions)
    assert dx.tolist() == [[2, 4], [12, 16]]


def test_gradient_of_a_weight_is_its_row_times_the_tokens() -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=DEVICE)
    weights = torch.tensor([[0.5, 0.25]], device=DEVICE)
    positions = _positions((1, 0))
    assert moe_unpermute.moe_unpermute(rows, weights, positions).tolist() == [[1.75, 2.5]]
    dy = torch.tensor([[10.0, 100.0]], device=DEVICE)
    d_rows, d_weights = moe_unpermute.moe_unpermute_backward(dy, rows, weights, positions)
    assert d_weights.tolist() == [[430, 210]]
    assert d_rows.tolist() == [[2.5, 25], [5, 50]]


def test_sums_are_kept_in_fp32() -> None:
    # In bf16, 256 + 1 is 256.
    d_rows = torch.ones(512, 1, device=DEVICE, dtype=torch.bfloat16)
    positions = torch.arange(512, dtype=torch.int32, device=DEVICE)[None]
    assert moe_permute.moe_permute_backward(d_rows, positions).item() == 512
    weights = torch.ones(1, 512, device=DEVICE)
    assert moe_unpermute.moe_unpermute(d_rows, weights, positions).item() == 512


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("T", "K", "E", "H"), [(16384, 8, 128, 4096), (4097, 8, 256, 7168), (64, 2, 8, 4096)]
)
def test_tokens_of_models_agree_with_fp64(
    module: ModuleType, mode: Mode, T: int, K: int, E: int, H: int
) -> None:
    run_triton(module.OP, problem(module.OP.name, "bf16", mode, T=T, K=K, E=E, H=H))


def test_what_the_kernels_cannot_read_is_refused() -> None:
    x, rows = torch.zeros(2, 3, device=DEVICE), torch.zeros(4, 3, device=DEVICE)
    positions, weights = _positions((0, 1), (2, 3)), torch.zeros(2, 2, device=DEVICE)
    permute, unpermute = moe_permute.moe_permute, moe_unpermute.moe_unpermute
    with pytest.raises(ValueError, match=r"moe_permute: positions\[T,K\] of torch.int32 are expec"):
        permute(x, positions.long())
    with pytest.raises(ValueError, match=r"moe_permute: x\[2,3\] is expected, not \(4, 3\)"):
        permute(rows, positions)
    with pytest.raises(ValueError, match=r"x of shape \(2, 3\) has strides \(1, 2\)"):
        permute(x.T.contiguous().T, positions)
    with pytest.raises(ValueError, match=r"torch.float64 is not supported"):
        permute(x.double(), positions)
    with pytest.raises(ValueError, match=r"moe_permute: d_rows\[4,3\] is expected, not \(2, 3\)"):
        moe_permute.moe_permute_backward(x, positions)
    with pytest.raises(ValueError, match=r"moe_unpermute: rows\[4,3\] is expected, not \(2, 3\)"):
        unpermute(x, weights, positions)
    with pytest.raises(ValueError, match=r"weights\[2, 2\] of torch.float32 are expected, not \[2"):
        unpermute(rows, weights.half(), positions)
    with pytest.raises(ValueError, match=r"dy is torch.float16, but must be torch.float32"):
        moe_unpermute.moe_unpermute_backward(x.half(), rows, weights, positions)
    case = problem("moe_permute", "fp32", T=2, K=3, E=2, H=5)
    with pytest.raises(ValueError, match=r"moe_permute: a token cannot choose K=3 of E=2 experts"):
        moe_permute.OP.make_inputs(case, torch.Generator(DEVICE))


@pytest.mark.parametrize(
    ("module", "mode", "flops", "read", "written"),
    [
        (moe_permute, Mode.FORWARD, 0, 2 * 10 + 24, 2 * 30),
        (moe_permute, Mode.BACKWARD, 20, 2 * 30 + 24, 2 * 10),
        (moe_unpermute, Mode.FORWARD, 60, 2 * 30 + 48, 2 * 10),
        (moe_unpermute, Mode.BACKWARD, 90, 2 * 40 + 48, 2 * 30 + 24),
    ],
)
def test_cost_by_hand(module: ModuleType, mode: Mode, flops: int, read: int, written: int) -> None:
    # Two tokens of 5, three experts each.
    cost = module.OP.cost(problem(module.OP.name, "bf16", mode, T=2, K=3, E=7, H=5))
    assert (cost.flops, cost.bytes_read, cost.bytes_written) == (flops, read, written)
