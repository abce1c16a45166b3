import pytest
import torch

from kernels import gemm
from kernels.op import Mode, problem
from tests.kernels.checks import DEVICE, needs_gpu, run_triton

MODES = (Mode.FORWARD, Mode.DGRAD, Mode.WGRAD)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("M", "N", "K"), [(1, 70, 131), (16, 64, 128), (65, 1, 1), (600, 70, 40)])
def test_any_shape_agrees_with_fp64(mode: Mode, M: int, N: int, K: int) -> None:
    run_triton(gemm.OP, problem("gemm", "fp32", mode, M=M, N=N, K=K))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize(("M", "N", "K"), [(1, 4096, 4096), (4097, 4095, 513), (256, 384, 8192)])
def test_large_tiles_agree_with_fp64(dtype: str, mode: Mode, M: int, N: int, K: int) -> None:
    run_triton(gemm.OP, problem("gemm", dtype, mode, M=M, N=N, K=K))


@pytest.mark.parametrize("tile", gemm._TILES_16_BIT + gemm._TILES_16_BIT_AMD)
def test_every_16_bit_tile_agrees_with_fp64(
    tile: gemm._Tile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gemm, "_tile", lambda *arguments: tile)
    run_triton(gemm.OP, problem("gemm", "fp16", M=tile.rows + 5, N=tile.columns + 3, K=71))


def test_grouped_order_visits_every_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    # More rows of tiles than a group holds, and a last group that is not full.
    monkeypatch.setattr(gemm, "_tile", lambda *arguments: gemm._Tile(16, 16, 16, 4, 2))
    monkeypatch.setattr(gemm, "_GROUP_ROWS", 3)
    run_triton(gemm.OP, problem("gemm", "fp32", M=16 * 7 + 1, N=16 * 2 + 1, K=5))


def test_tile_grows_with_the_problem_and_fills_the_chip() -> None:
    choose = gemm._tile
    assert choose(16, 4096, torch.bfloat16, is_amd=False).rows == 16
    assert choose(8192, 8192, torch.bfloat16, is_amd=False) == gemm._TILES_16_BIT[0]
    assert choose(512, 768, torch.bfloat16, is_amd=False) == gemm._Tile(64, 64, 64, 4, 4)
    assert choose(8192, 8192, torch.float32, is_amd=True) == gemm._TILES_32_BIT[0]
    assert choose(8192, 8192, torch.float16, is_amd=True) == gemm._TILES_16_BIT_AMD[0]


def test_gradients_come_from_the_two_other_ops() -> None:
    x = torch.randn(5, 7, device=DEVICE, requires_grad=True)
    w = torch.randn(3, 7, device=DEVICE, requires_grad=True)
    dy = torch.randn(5, 3, device=DEVICE)
    dx, dw = torch.autograd.grad(gemm.gemm(x, w), (x, w), dy)
    torch.testing.assert_close(dx, (dy.double() @ w.double()).float())
    torch.testing.assert_close(dw, (dy.double().T @ x.double()).float())


def test_gradient_that_nobody_needs_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("wgrad ran for a frozen weight")

    monkeypatch.setattr(gemm, "gemm_wgrad", fail)
    x = torch.randn(5, 7, device=DEVICE, requires_grad=True)
    gemm.gemm(x, torch.randn(3, 7, device=DEVICE)).sum().backward()
    assert x.grad is not None


def test_what_the_kernel_cannot_read_is_refused() -> None:
    x, w = torch.zeros(4, 6, device=DEVICE), torch.zeros(5, 6, device=DEVICE)
    with pytest.raises(ValueError, match=r"gemm: w of shape \(5, 6\) has strides \(1, 5\)"):
        gemm.gemm(x, w.T.contiguous().T)
    with pytest.raises(ValueError, match=r"w is torch.float16, but must be torch.float32"):
        gemm.gemm(x, w.half())
    with pytest.raises(ValueError, match=r"\(4, 6\) @ \(7, 5\) do not multiply"):
        gemm.gemm(x, torch.zeros(5, 7, device=DEVICE))
    with pytest.raises(ValueError, match=r"x must be a matrix, not of shape \(6,\)"):
        gemm.gemm(x[0], w)


@pytest.mark.parametrize(
    ("mode", "read", "written"),
    [
        (Mode.FORWARD, 2 * 7 + 3 * 7, 2 * 3),
        (Mode.DGRAD, 2 * 3 + 3 * 7, 2 * 7),
        (Mode.WGRAD, 2 * 3 + 2 * 7, 3 * 7),
    ],
)
def test_cost_by_hand(mode: Mode, read: int, written: int) -> None:
    cost = gemm.OP.cost(problem("gemm", "bf16", mode, M=2, N=3, K=7))
    assert (cost.flops, cost.bytes_read, cost.bytes_written) == (84, 2 * read, 2 * written)
