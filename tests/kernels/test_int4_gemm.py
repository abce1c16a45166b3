import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import int4_gemm, tuning
from kernels.int4_gemm import OP, TUNABLES
from kernels.op import Problem, problem
from kernels.tuning import Config
from tests.kernels.checks import DEVICE, inputs_of, needs_gpu, run_triton

TILES = list(dict.fromkeys(tile for tiles in TUNABLES[0].configs.values() for tile in tiles))


def _case(M: int, N: int, K: int, dtype: str = "fp16") -> Problem:
    return problem("int4_gemm", dtype, M=M, N=N, K=K)


@pytest.mark.parametrize(("M", "N", "K"), [(1, 1, 128), (1, 70, 1152), (17, 64, 256), (65, 3, 384)])
def test_any_shape_agrees_with_fp64(M: int, N: int, K: int) -> None:
    run_triton(OP, _case(M, N, K))


@settings(deadline=None, max_examples=10)
@given(
    M=st.integers(1, 80),
    N=st.integers(1, 80),
    groups=st.integers(1, 9),
    tile=st.sampled_from(TILES),
)
def test_every_part_of_k_is_added_once(M: int, N: int, groups: int, tile: Config) -> None:
    # More parts than groups leave some of them empty.
    with tuning.forced({"int4_gemm": tile}):
        run_triton(OP, _case(M, N, 128 * groups))


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_every_tile_agrees_with_fp64(tile: Config) -> None:
    with tuning.forced({"int4_gemm": tile}):
        run_triton(OP, _case(tile["BLOCK_M"] + 3, tile["BLOCK_N"] + 5, 640))


@needs_gpu[0]
@needs_gpu[1]
@pytest.mark.parametrize("dtype", OP.dtypes)
@pytest.mark.parametrize(
    ("M", "N", "K"),
    [(1, 4096, 4096), (16, 10240, 8192), (64, 8192, 28672), (2048, 8192, 1024), (515, 576, 7168)],
)
def test_real_shapes_agree_with_fp64(dtype: str, M: int, N: int, K: int) -> None:
    run_triton(OP, _case(M, N, K, dtype))


@needs_gpu[0]
@needs_gpu[1]
@pytest.mark.parametrize("dtype", OP.dtypes)
def test_every_tile_agrees_with_fp64_at_real_sizes(dtype: str) -> None:
    for tile in TILES:
        with tuning.forced({"int4_gemm": tile}):
            run_triton(OP, _case(200, 4096, 4096, dtype))


def test_codes_are_packed_by_halves_of_a_group() -> None:
    inputs = inputs_of(OP, _case(2, 3, 256))
    # One weight of 1 at k = 128 + 70, which is the upper half of byte 64 + 6 of its row.
    w4 = torch.zeros_like(inputs["w4"])
    w4[1, 64 + 6] = 1 << 4
    one = {"scale": torch.ones_like(inputs["scale"]), "zero": torch.zeros_like(inputs["zero"])}
    y = int4_gemm.int4_gemm(inputs["x"], w4, one["scale"], one["zero"])
    assert torch.equal(y[:, 1], inputs["x"][:, 198])
    assert not y[:, 0].any()
    assert not y[:, 2].any()


def test_codes_fill_their_range_and_weights_come_back() -> None:
    case = _case(1, 64, 1024, "bf16")
    inputs = inputs_of(OP, case)
    codes = torch.cat((inputs["w4"] & 15, inputs["w4"] >> 4))
    assert codes.unique().tolist() == list(range(16))
    assert 5 <= inputs["zero"].double().mean() <= 10
    eye = torch.eye(1024, device=DEVICE, dtype=torch.float64)
    exact = inputs | {"x": eye, "scale": inputs["scale"].double()}
    (w,) = OP.reference(case, exact)
    # Standard normal weights: a step of a third, twelve to the variance.
    assert w.std().item() == pytest.approx(1.0, abs=0.05)
    assert abs(w.mean().item()) < 0.05


def test_decode_splits_k_until_the_chip_is_full_twice() -> None:
    tiles = TUNABLES[0].configs["cuda"]

    def chosen(M: int, N: int) -> tuple[int, int]:
        tile = int4_gemm._heuristic(tiles, M, N, 132)
        return tile["BLOCK_M"], tile["SPLITS"]

    assert chosen(1, 28672) == (16, 1)
    assert chosen(1, 8192) == (16, 4)
    assert chosen(16, 1280) == (16, 8)
    assert chosen(64, 8192) == (64, 4)
    assert chosen(4096, 8192) == (128, 1)


def test_what_the_kernel_cannot_read_is_refused() -> None:
    inputs = inputs_of(OP, _case(4, 5, 128))
    x, w4, scale, zero = (inputs[name] for name in ("x", "w4", "scale", "zero"))
    run = int4_gemm.int4_gemm
    with pytest.raises(ValueError, match="K must be a multiple of 128, not 100"):
        run(x[:, :100].contiguous(), w4, scale, zero)
    with pytest.raises(ValueError, match="K must be a multiple of 128, not 130"):
        inputs_of(OP, _case(4, 5, 130))
    with pytest.raises(ValueError, match=r"w4 has shape \(5, 128\), but x of shape \(4, 128\)"):
        run(x, w4.repeat(1, 2), scale, zero)
    with pytest.raises(ValueError, match=r"zero has shape \(1, 5\).*need \(5, 1\)"):
        run(x, w4, scale, zero.T.contiguous())
    with pytest.raises(ValueError, match=r"scale is torch.bfloat16, but must be torch.float16"):
        run(x, w4, scale.bfloat16(), zero)
    with pytest.raises(ValueError, match=r"x is torch.float32, but must be bfloat16 or float16"):
        run(x.float(), w4, scale.float(), zero)
    with pytest.raises(ValueError, match=r"w4 is torch.int8, but must be torch.uint8"):
        run(x, w4.to(torch.int8), scale, zero)
    with pytest.raises(ValueError, match=r"x of shape \(4, 128\) has strides \(1, 4\)"):
        run(x.T.contiguous().T, w4, scale, zero)
    with pytest.raises(ValueError, match=r"x and w4 must be matrices, not of shapes \(128,\)"):
        run(x[0], w4, scale, zero)


def test_cost_by_hand() -> None:
    cost = OP.cost(_case(3, 5, 256, "bf16"))
    assert cost.flops == 2 * 3 * 5 * 256
    assert cost.bytes_read == 2 * 3 * 256 + 5 * 128 + (2 + 1) * 5 * 2
    assert cost.bytes_written == 2 * 3 * 5
