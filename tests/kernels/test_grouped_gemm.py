import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import grouped_gemm, tuning
from kernels.grouped_gemm import custom_ops
from kernels.op import Mode, problem
from kernels.routing import draw_offsets, row_counts
from tests.kernels.checks import DEVICE, needs_gpu, run_triton

OP = grouped_gemm.OP
MODES = (Mode.FORWARD, Mode.DGRAD, Mode.WGRAD)


def _offsets(*offsets: int) -> torch.Tensor:
    return torch.tensor(offsets, dtype=torch.int32, device=DEVICE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variant", OP.variants)
@pytest.mark.parametrize(
    ("R", "E", "N", "K"), [(1, 1, 1, 1), (1, 9, 70, 33), (150, 2, 129, 17), (40, 5, 16, 131)]
)
def test_any_shape_agrees_with_fp64(
    mode: Mode, variant: str, R: int, E: int, N: int, K: int
) -> None:
    run_triton(OP, problem("grouped_gemm", "fp32", mode, variant, R=R, E=E, N=N, K=K))


@settings(deadline=None, max_examples=15)
@given(
    counts=st.lists(st.integers(0, 20), min_size=1, max_size=9).filter(any),
    N=st.integers(1, 70),
    K=st.integers(1, 70),
)
def test_any_counts_of_rows_agree_with_each_experts_product(
    counts: list[int], N: int, K: int
) -> None:
    generator = torch.Generator(DEVICE).manual_seed(sum(counts))
    x = torch.randn(sum(counts), K, generator=generator, device=DEVICE)
    w = torch.randn(len(counts), N, K, generator=generator, device=DEVICE)
    dy = torch.randn(sum(counts), N, generator=generator, device=DEVICE)
    offsets = _offsets(*(sum(counts[:e]) for e in range(len(counts) + 1)))
    y = grouped_gemm.grouped_gemm(x, w, offsets)
    dx = grouped_gemm.grouped_gemm_dgrad(dy, w, offsets)
    dw = grouped_gemm.grouped_gemm_wgrad(dy, x, offsets)
    for e in range(len(counts)):
        rows = slice(offsets[e], offsets[e + 1])
        torch.testing.assert_close(y[rows], x[rows] @ w[e].T, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(dx[rows], dy[rows] @ w[e], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(dw[e], dy[rows].T @ x[rows], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "one",
    dict.fromkeys(one for configs in custom_ops._BY_FAMILY.values() for one in configs),
    ids=str,
)
def test_every_configuration_agrees_with_fp64(mode: Mode, one: tuning.Config) -> None:
    name = f"grouped_gemm.{mode}"
    R = 2 * one["BLOCK_M"] + 5
    case = problem("grouped_gemm", "fp16", mode, "one_hot", R=R, E=3, N=one["BLOCK_N"] + 3, K=71)
    with tuning.forced({name: one}), tuning.observed() as chosen:
        run_triton(OP, case)
    assert {choice.config for choice in chosen.of(name)} == {one}


@pytest.fixture
def descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensor descriptors wherever the device, the rows and the addresses are."""
    monkeypatch.setattr(custom_ops, "descriptor_architecture", lambda device: "sm_90")
    monkeypatch.setattr(custom_ops, "_DESCRIPTOR_ROWS", 0)


@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize("mode", [Mode.FORWARD, Mode.DGRAD])
@pytest.mark.parametrize("one", custom_ops._CONFIGS_DESCRIPTOR, ids=str)
def test_every_configuration_of_descriptors_agrees_with_fp64(
    mode: Mode, one: tuning.Config
) -> None:
    name = f"grouped_gemm.{mode}.descriptor"
    case = problem("grouped_gemm", "fp16", mode, "zipf", R=150, E=4, N=264, K=72)
    with tuning.forced({name: one}), tuning.observed() as chosen:
        run_triton(OP, case)
    assert {choice.config for choice in chosen.of(name)} == {one}


@pytest.mark.usefixtures("descriptors")
def test_descriptors_read_no_weights_of_another_expert() -> None:
    w = torch.ones(2, 8, 8, device=DEVICE, dtype=torch.float16)
    w[1] = float("inf")
    x = torch.ones(5, 8, device=DEVICE, dtype=torch.float16)
    with tuning.observed() as chosen:
        assert (grouped_gemm.grouped_gemm(x, w, _offsets(0, 5, 5)) == 8).all()
        assert (grouped_gemm.grouped_gemm_dgrad(x, w, _offsets(0, 5, 5)) == 8).all()
    assert {"grouped_gemm.forward.descriptor", "grouped_gemm.dgrad.descriptor"} <= {
        choice.kernel for choice in chosen
    }


@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize("sizes", [{"N": 9, "K": 8}, {"N": 8, "K": 9}])
def test_rows_that_are_not_whole_16_bytes_go_by_pointers(sizes: dict[str, int]) -> None:
    with tuning.observed() as chosen:
        run_triton(OP, problem("grouped_gemm", "fp16", Mode.DGRAD, "uniform", R=5, E=2, **sizes))
    assert {choice.kernel for choice in chosen} == {"grouped_gemm.dgrad"}


@pytest.mark.parametrize("mode", MODES)
def test_an_expert_without_rows_has_a_gradient_of_zeros(mode: Mode) -> None:
    x, dy = torch.randn(4, 6, device=DEVICE), torch.randn(4, 5, device=DEVICE)
    dw = grouped_gemm.grouped_gemm_wgrad(dy, x, _offsets(0, 0, 4, 4))
    assert dw[0].count_nonzero() == dw[2].count_nonzero() == 0
    assert dw[1].count_nonzero() == 30


def test_grouped_order_visits_every_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    # More rows of tiles than a group holds, and a last group that is not full.
    monkeypatch.setattr(custom_ops, "GROUP_ROWS", 3)
    one = tuning.config(4, 2, BLOCK_M=16, BLOCK_N=16, BLOCK_K=16)
    with tuning.forced({f"grouped_gemm.{mode}": one for mode in MODES}):
        for mode in MODES:
            sizes = {"R": 16 * 9, "E": 2, "N": 16 * 7 + 1, "K": 16 * 2 + 1}
            run_triton(OP, problem("grouped_gemm", "fp32", mode, "one_hot", **sizes))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variant", OP.variants)
@pytest.mark.parametrize(
    ("R", "E", "N", "K"),
    [
        (4096 * 8, 128, 1536, 2048),  # Qwen3-30B-A3B, gate and up
        (4096 * 8, 32, 4096, 7168),  # DeepSeek-V3 on 8 chips
        (64, 128, 2048, 768),  # decoding
        (4097, 8, 14336, 4096),  # Mixtral-8x7B, odd rows
    ],
)
def test_experts_of_models_agree_with_fp64(
    mode: Mode, variant: str, R: int, E: int, N: int, K: int
) -> None:
    run_triton(OP, problem("grouped_gemm", "bf16", mode, variant, R=R, E=E, N=N, K=K))


@pytest.mark.parametrize("variant", OP.variants)
@settings(deadline=None, max_examples=20)
@given(R=st.integers(0, 5000), E=st.integers(1, 300))
def test_counts_sum_to_all_rows_and_are_sorted(variant: str, R: int, E: int) -> None:
    counts = row_counts(variant, R, E)
    assert len(counts) == E
    assert sum(counts) == R
    assert list(counts) == sorted(counts, reverse=True)
    offsets = draw_offsets(counts, torch.Generator().manual_seed(R))
    assert offsets[0] == 0
    assert offsets[-1] == R
    assert sorted(offsets.diff().tolist(), reverse=True) == list(counts)


def test_counts_by_hand() -> None:
    assert row_counts("uniform", 10, 4) == (3, 3, 2, 2)
    # 1 : 1/2 : 1/3 : 1/4 of 25 is 12 : 6 : 4 : 3.
    assert row_counts("zipf", 25, 4) == (12, 6, 4, 3)
    assert row_counts("one_hot", 11, 4) == (6, 2, 2, 1)
    assert row_counts("one_hot", 11, 1) == (11,)


def test_tile_follows_the_rows_of_a_typical_expert() -> None:
    def rows(R: int, E: int) -> int:
        return custom_ops._heuristic(R, E, 4096, custom_ops._CONFIGS)["BLOCK_M"]

    assert rows(64, 128) == 16
    assert rows(128 * 64, 128) == 64
    assert rows(128 * 65, 128) == 128
    assert rows(1 << 20, 128) == 128


def test_gradients_come_from_the_two_other_ops() -> None:
    x = torch.randn(5, 7, device=DEVICE, requires_grad=True)
    w = torch.randn(2, 3, 7, device=DEVICE, requires_grad=True)
    dy = torch.randn(5, 3, device=DEVICE)
    offsets = _offsets(0, 2, 5)
    dx, dw = torch.autograd.grad(grouped_gemm.grouped_gemm(x, w, offsets), (x, w), dy)
    torch.testing.assert_close(dx[:2], dy[:2] @ w[0])
    torch.testing.assert_close(dw[1], dy[2:].T @ x[2:])


def test_what_the_kernel_cannot_read_is_refused() -> None:
    x, w = torch.zeros(4, 6, device=DEVICE), torch.zeros(2, 5, 6, device=DEVICE)
    product = grouped_gemm.grouped_gemm
    with pytest.raises(ValueError, match=r"grouped_gemm: w of shape \(2, 5, 6\) has strides"):
        product(x, w.mT.contiguous().mT, _offsets(0, 1, 4))
    with pytest.raises(ValueError, match=r"w is torch.float16, but must be torch.float32"):
        product(x, w.half(), _offsets(0, 1, 4))
    with pytest.raises(
        ValueError, match=r"offsets\[E\+1\] of torch.int32 are expected, not \(3,\)"
    ):
        product(x, w, _offsets(0, 1, 4).long())
    with pytest.raises(ValueError, match=r"w\[E,N,K\] is expected, not \(2, 5, 6\) with E=1"):
        product(x, w, _offsets(0, 4))
    with pytest.raises(ValueError, match=r"x\[R,K\] is expected, not \(4,\)"):
        product(x[:, 0].contiguous(), w, _offsets(0, 1, 4))
    with pytest.raises(ValueError, match=r"x\[R,K\] is expected, not \(3, 6\) with E=2 R=4 N=5"):
        grouped_gemm.grouped_gemm_wgrad(x[:, :5].contiguous(), x[:3], _offsets(0, 1, 4))
    with pytest.raises(ValueError, match=r"must not be empty"):
        product(x[:0], w, _offsets(0, 0, 0))


def test_compile_says_why_it_cannot() -> None:
    unsupported = OP.impl("compile").unsupported
    case = problem("grouped_gemm", "fp16", R=8, E=2, N=8, K=8)
    assert "multiplies bf16 only. A loop over experts" in (unsupported(case, DEVICE) or "")
    case = problem("grouped_gemm", "bf16", R=8, E=2, N=8, K=9)
    assert "rows of whole 16 bytes only" in (unsupported(case, DEVICE) or "")


def test_torch_runs_rows_that_grouped_mm_does_not_take() -> None:
    case = problem("grouped_gemm", "bf16", Mode.FORWARD, "zipf", R=9, E=3, N=5, K=7)
    inputs = OP.make_inputs(case, torch.Generator(DEVICE).manual_seed(0))
    (y,) = OP.impl("torch").prepare(case, inputs)()
    assert y.shape == (9, 5)


@pytest.mark.parametrize(
    ("mode", "read", "written"),
    [
        (Mode.FORWARD, 5 * 7 + 2 * 3 * 7, 5 * 3),
        (Mode.DGRAD, 5 * 3 + 2 * 3 * 7, 5 * 7),
        (Mode.WGRAD, 5 * 3 + 5 * 7, 4 * 3 * 7),
    ],
)
def test_cost_by_hand(mode: Mode, read: int, written: int) -> None:
    # Of 4 experts 3, 1, 1 and 0 rows: the last one's weights are not read.
    case = problem("grouped_gemm", "bf16", mode, "one_hot", R=5, E=4, N=3, K=7)
    assert row_counts("one_hot", 5, 4) == (3, 1, 1, 0)
    cost = OP.cost(case)
    weights = 0 if mode == Mode.WGRAD else 3 * 7
    assert cost.flops == 2 * 5 * 3 * 7
    assert (cost.bytes_read, cost.bytes_written) == (2 * (read + weights) + 20, 2 * written)
