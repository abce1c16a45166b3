import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import scaled_gemm, triton_support, tuning
from kernels.op import Mode, Problem, problem
from kernels.scaled_gemm import OP, TUNABLES, torch_unsupported
from kernels.tuning import Config
from tests.kernels.checks import (
    DEVICE,
    assert_within,
    expected,
    inputs_of,
    needs_gpu,
    run_triton,
)

VARIANTS = OP.variants
SPACES = {tunable.kernel: tunable.configs for tunable in TUNABLES}
ALL_TILES = [
    pytest.param(kernel, tile, id=f"{kernel} {tile}")
    for kernel, configs in SPACES.items()
    for tile in dict.fromkeys(tile for tiles in configs.values() for tile in tiles)
]


def _as_hopper(patch: pytest.MonkeyPatch) -> None:
    """The interpreter as if it were an sm_90 GPU, which multiplies by descriptors."""
    if DEVICE.type == "cpu":
        patch.setattr(triton_support, "compute_capability", lambda device: (9, 0))


def _case(dtype: str, variant: str, M: int, N: int, K: int) -> Problem:
    return problem("scaled_gemm", dtype, Mode.FORWARD, variant, M=M, N=N, K=K)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", OP.dtypes)
@pytest.mark.parametrize(("M", "N", "K"), [(1, 1, 1), (1, 70, 131), (16, 64, 128), (65, 257, 40)])
def test_any_shape_agrees_with_fp64(dtype: str, variant: str, M: int, N: int, K: int) -> None:
    run_triton(OP, _case(dtype, variant, M, N, K))


@settings(deadline=None, max_examples=15)
@given(
    M=st.integers(1, 140),
    N=st.integers(1, 300),
    K=st.integers(1, 300),
    dtype=st.sampled_from(OP.dtypes),
    variant=st.sampled_from(VARIANTS),
    step=st.sampled_from([1, 16]),
)
def test_sizes_that_descriptors_take_and_others_agree_with_fp64(
    M: int, N: int, K: int, dtype: str, variant: str, step: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _as_hopper(patch)
        run_triton(OP, _case(dtype, variant, M, -(-N // step) * step, -(-K // step) * step))


@pytest.mark.parametrize(("kernel", "tile"), ALL_TILES)
def test_every_tile_agrees_with_fp64(
    kernel: str, tile: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "descriptor" in kernel:
        _as_hopper(monkeypatch)
    # Two rows and two columns of tiles, so that one of three programs computes two.
    M, N, K = tile["BLOCK_M"] + 16, tile["BLOCK_N"] + 16, 144
    variant = "block" if kernel.endswith(".block") else "row"
    with tuning.forced({kernel: tile}), tuning.observed() as choices:
        run_triton(OP, _case("int8", variant, M, N, K))
    if DEVICE.type == "cpu":
        asked = {kernel.replace(".descriptor", "")} if M < 65 else {kernel}
        assert {choice.kernel for choice in choices} == asked


@needs_gpu[0]
@needs_gpu[1]
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", OP.dtypes)
@pytest.mark.parametrize(
    ("M", "N", "K"), [(1, 4096, 7168), (4096, 7168, 2048), (8192, 4096, 16384), (515, 576, 7168)]
)
def test_real_shapes_agree_with_fp64(dtype: str, variant: str, M: int, N: int, K: int) -> None:
    case = _case(dtype, variant, M, N, K)
    reason = OP.impl("triton").unsupported(case, DEVICE)
    if reason is not None:
        pytest.skip(reason)
    run_triton(OP, case)


@needs_gpu[0]
@needs_gpu[1]
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", OP.dtypes)
def test_torch_agrees_with_fp64_where_it_has_a_product(dtype: str, variant: str) -> None:
    case = _case(dtype, variant, 4096, 7168, 2048 + 128)
    impl = OP.impl("torch")
    reason = impl.unsupported(case, DEVICE)
    if reason is not None:
        pytest.skip(reason)
    inputs = inputs_of(OP, case)
    references = expected(OP, case, inputs)
    assert_within(impl.prepare(case, inputs)(), references, OP.tolerance(case))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", OP.dtypes)
def test_codes_fill_the_range_of_the_type(dtype: str, variant: str) -> None:
    inputs = inputs_of(OP, _case(dtype, variant, 512, 300, 400))
    for name in ("x", "w"):
        codes = inputs[name].float()
        assert codes.abs().max() == (448 if dtype == "fp8" else 127)
        # 256 bit patterns of fp8 are 253 numbers and two NaN; a zero of each sign is one number.
        assert codes.unique().numel() > (200 if dtype == "fp8" else 210)
        assert codes.isfinite().all()
    for name in ("x_scale", "w_scale"):
        assert (inputs[name] > 0).all()


def test_block_shares_a_scale_among_128_and_ends_with_the_matrix() -> None:
    inputs = inputs_of(OP, _case("int8", "block", 3, 130, 257))
    assert inputs["x_scale"].shape == (3, 3)
    assert inputs["w_scale"].shape == (2, 3)
    (y,) = OP.reference(_case("int8", "block", 3, 130, 257), inputs)
    x, w = inputs["x"].double(), inputs["w"].double()
    by_hand = sum(
        (x[1, k] * inputs["x_scale"][1, k // 128]) * (w[129, k] * inputs["w_scale"][1, k // 128])
        for k in range(257)
    )
    assert y[1, 129].item() == pytest.approx(by_hand.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("variant", "num_scales"), [("tensor", 2), ("row", 5 + 130), ("block", 5 * 3 + 2 * 3)]
)
def test_cost_by_hand(variant: str, num_scales: int) -> None:
    cost = OP.cost(_case("fp8", variant, 5, 130, 257))
    assert cost.flops == 2 * 5 * 130 * 257
    assert cost.bytes_read == 5 * 257 + 130 * 257 + 4 * num_scales
    assert cost.bytes_written == 2 * 5 * 130


def test_what_the_kernel_cannot_read_is_refused() -> None:
    inputs = inputs_of(OP, _case("int8", "row", 4, 5, 6))
    x, w, x_scale, w_scale = (inputs[name] for name in ("x", "w", "x_scale", "w_scale"))
    run = scaled_gemm.scaled_gemm
    with pytest.raises(
        ValueError, match=r"x_scale of shape \(1, 4\) .* fit no variant; tensor has"
    ):
        run(x, w, x_scale.T.contiguous(), w_scale)
    with pytest.raises(ValueError, match=r"w is torch.float32, but must be torch.int8"):
        run(x, w.float(), x_scale, w_scale)
    with pytest.raises(ValueError, match=r"x is torch.float16, but must be float8_e4m3fn or int8"):
        run(x.half(), w, x_scale, w_scale)
    with pytest.raises(ValueError, match=r"w_scale is torch.float64, but must be torch.float32"):
        run(x, w, x_scale, w_scale.double())
    with pytest.raises(
        ValueError, match=r"x of shape \(4, 6\) and w of shape \(6, 5\) differ in K"
    ):
        run(x, w.T.contiguous(), x_scale, w_scale)
    with pytest.raises(ValueError, match=r"w of shape \(5, 6\) has strides \(1, 5\)"):
        run(x, w.T.contiguous().T, x_scale, w_scale)
    with pytest.raises(ValueError, match=r"x must be a matrix, not of shape \(6,\)"):
        run(x[0], w, x_scale, w_scale)


def test_what_torch_cannot_multiply_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, sizes = torch.device("cuda", 0), (4096, 4096, 4096)
    monkeypatch.setattr(triton_support, "is_amd", lambda: False)
    monkeypatch.setattr(triton_support, "compute_capability", lambda device: (9, 0))
    for dtype in OP.dtypes:
        for variant in ("tensor", "row"):
            assert torch_unsupported(_case(dtype, variant, *sizes), gpu) is None
    assert torch_unsupported(_case("fp8", "block", *sizes), gpu) is None
    assert "multiples of 4 in M" in str(torch_unsupported(_case("fp8", "block", 3, 128, 128), gpu))
    assert "int8 with scales" in str(torch_unsupported(_case("int8", "block", *sizes), gpu))
    assert "M over 16" in str(torch_unsupported(_case("int8", "row", 16, 64, 64), gpu))
    assert "multiples of 16" in str(torch_unsupported(_case("fp8", "row", 16, 60, 64), gpu))
    monkeypatch.setattr(triton_support, "compute_capability", lambda device: (10, 0))
    assert "sm_90 only" in str(torch_unsupported(_case("fp8", "block", *sizes), gpu))
    monkeypatch.setattr(triton_support, "compute_capability", lambda device: (8, 0))
    assert "8.9" in str(torch_unsupported(_case("fp8", "row", *sizes), gpu))
    assert torch_unsupported(_case("int8", "row", *sizes), gpu) is None
