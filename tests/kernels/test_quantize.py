import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import eight_bit, quantize
from kernels.op import Mode, problem
from tests.kernels.checks import DEVICE, needs_gpu, run_triton

E4M3 = torch.float8_e4m3fn


def _finite_e4m3() -> torch.Tensor:
    """All values of the type, in their order."""
    values = torch.arange(256, dtype=torch.uint8).view(E4M3).float()
    return values[values.isfinite()].unique()


@pytest.mark.parametrize("variant", eight_bit.VARIANTS)
@pytest.mark.parametrize("dtype", ["fp8", "int8"])
@pytest.mark.parametrize(("T", "H"), [(1, 1), (3, 128), (2, 1153)])
def test_any_shape_agrees_with_fp64(dtype: str, variant: str, T: int, H: int) -> None:
    run_triton(quantize.OP, problem("quantize", dtype, Mode.FORWARD, variant, T=T, H=H))


@pytest.mark.parametrize("x_dtype", [torch.float16, torch.float32])
def test_other_types_of_x_are_taken_too(x_dtype: torch.dtype) -> None:
    x = torch.randn(3, 200, device=DEVICE, dtype=x_dtype)
    q, scale = quantize.quantize(x, torch.int8, "block")
    assert scale.shape == (3, 2)
    spread = scale.repeat_interleave(128, dim=1)[:, :200]
    torch.testing.assert_close(q * spread, x.float(), atol=float(scale.max()) * 0.51, rtol=0)


def test_e4m3_is_rounded_to_nearest_even_as_torch_does() -> None:
    # Every value, every middle between two, and what lies next to the middle; the first is the
    # largest, so that the scale is 1.
    values = _finite_e4m3()
    middles = (values[1:] + values[:-1]) / 2
    near = [middles * (1 + sign * 2.0**-20) for sign in (-1, 0, 1)]
    x = torch.cat([values.flip(0), *near]).to(DEVICE)[None]
    q, scale = quantize.quantize(x, E4M3, "token")
    assert scale.item() == 1
    assert torch.equal(q.view(torch.uint8), x.to(E4M3).view(torch.uint8))


def test_int8_is_rounded_to_nearest_even() -> None:
    x = torch.tensor([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5, 0.49]], device=DEVICE)
    q, _ = quantize.quantize(x, torch.int8, "token")
    assert q.tolist() == [[127, 0, 2, 2, 0, -2, -126, 0]]


@pytest.mark.parametrize("dtype", [E4M3, torch.int8])
@pytest.mark.parametrize("variant", eight_bit.VARIANTS)
def test_zeros_and_tiny_values_give_finite_scales(dtype: torch.dtype, variant: str) -> None:
    x = torch.zeros(2, 130, device=DEVICE, dtype=torch.bfloat16)
    x[1] = 2.0**-130
    q, scale = quantize.quantize(x, dtype, variant)
    assert (q.float() == 0).all()
    assert (scale == torch.tensor(2.0**-100) / eight_bit.LARGEST[dtype]).all()


def test_the_largest_bf16_does_not_overflow() -> None:
    x = torch.full((1, 4), torch.finfo(torch.bfloat16).max, device=DEVICE, dtype=torch.bfloat16)
    q, scale = quantize.quantize(x, E4M3, "token")
    assert q.float().tolist() == [[448.0] * 4]
    assert scale.isfinite().all()


def test_a_nan_stays_one_in_e4m3_and_leaves_the_rest() -> None:
    x = torch.tensor([[1.0, float("nan"), -2.0]], device=DEVICE)
    q, _ = quantize.quantize(x, E4M3, "token")
    assert q.float().isnan().tolist() == [[False, True, False]]
    assert q.float()[0, 2] == -448


def test_each_group_has_a_scale_of_its_own() -> None:
    x = torch.ones(130, 130, device=DEVICE)
    x[0, 0], x[1, 129], x[129, 2] = 2, 4, 8
    for variant, shape in (("token", (130, 1)), ("block", (130, 2)), ("tile", (2, 2))):
        _, scale = quantize.quantize(x, torch.int8, variant)
        assert scale.shape == shape
        expected = torch.ones(shape)
        for (row, column), value in (((0, 0), 2.0), ((1, 129), 4.0), ((129, 2), 8.0)):
            group = row // 128 if variant == "tile" else row, min(column // 128, shape[1] - 1)
            expected[group] = max(float(expected[group]), value)
        torch.testing.assert_close(scale.cpu() * 127, expected)


@settings(deadline=None, max_examples=15)
@given(
    st.integers(1, 4),
    st.integers(1, 300),
    st.sampled_from(eight_bit.VARIANTS),
    st.sampled_from([E4M3, torch.int8]),
    st.integers(-90, 90),
)
def test_a_power_of_two_moves_into_the_scale_alone(
    T: int, H: int, variant: str, dtype: torch.dtype, exponent: int
) -> None:
    x = torch.randn(T, H, generator=torch.Generator().manual_seed(T * H)).to(DEVICE)
    q, scale = quantize.quantize(x, dtype, variant)
    q_moved, scale_moved = quantize.quantize(x * 2.0**exponent, dtype, variant)
    assert torch.equal(q.float(), q_moved.float())
    assert torch.equal(scale * 2.0**exponent, scale_moved)


def test_what_the_kernel_cannot_do_is_refused() -> None:
    x = torch.ones(2, 4, device=DEVICE)
    with pytest.raises(ValueError, match=r"x of shape \(4, 2\) has strides \(1, 4\)"):
        quantize.quantize(x.T, torch.int8, "token")
    with pytest.raises(ValueError, match=r"x\[T,H\] is expected, not \(8,\)"):
        quantize.quantize(x.view(-1), torch.int8, "token")
    with pytest.raises(ValueError, match=r"dtype is torch.uint8; use float8_e4m3fn or int8"):
        quantize.quantize(x, torch.uint8, "token")
    with pytest.raises(ValueError, match=r"scales 'row' are unknown; use token, block, tile"):
        quantize.quantize(x, torch.int8, "row")
    with pytest.raises(ValueError, match=r"rows of 32769; one is held in registers"):
        quantize.quantize(torch.ones(1, 32769, device=DEVICE), torch.int8, "token")


def test_a_row_that_is_too_wide_is_unsupported_for_token_scales_only() -> None:
    triton = quantize.OP.impl("triton")
    reason = triton.unsupported(
        problem("quantize", "fp8", Mode.FORWARD, "token", T=1, H=32769), DEVICE
    )
    assert reason == "A row is held in registers, which ends at H=32768; H=32769."
    assert (
        triton.unsupported(problem("quantize", "fp8", Mode.FORWARD, "tile", T=1, H=32769), DEVICE)
        is None
    )


def test_cost_by_hand() -> None:
    for variant, num_scales in (("token", 130), ("block", 260), ("tile", 4)):
        cost = quantize.OP.cost(problem("quantize", "fp8", Mode.FORWARD, variant, T=130, H=200))
        assert cost.flops == 2 * 130 * 200
        assert cost.bytes_read == 2 * 130 * 200
        assert cost.bytes_written == 130 * 200 + 4 * num_scales


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize("dtype", ["fp8", "int8"])
@pytest.mark.parametrize("variant", eight_bit.VARIANTS)
@pytest.mark.parametrize(("T", "H"), [(8192, 7168), (4096, 28672)])
def test_large_shapes_agree_with_fp64(dtype: str, variant: str, T: int, H: int) -> None:
    run_triton(quantize.OP, problem("quantize", dtype, Mode.FORWARD, variant, T=T, H=H))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize("variant", eight_bit.VARIANTS)
def test_more_than_2_to_the_31_elements_are_reached(variant: str) -> None:
    x = torch.randn(2**18 + 128, 8192, device=DEVICE, dtype=torch.bfloat16)
    q, scale = quantize.quantize(x, torch.int8, variant)
    q_last, scale_last = quantize.quantize(x[-128:].contiguous(), torch.int8, variant)
    assert torch.equal(q[-128:], q_last)
    assert torch.equal(scale[-scale_last.shape[0] :], scale_last)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
def test_integers_and_hardware_convert_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(64, 4096, device=DEVICE)
    by_hardware, _ = quantize.quantize(x, E4M3, "block")
    monkeypatch.setattr(eight_bit, "converts_e4m3", lambda device: False)
    by_integers, _ = quantize.quantize(x, E4M3, "block")
    assert torch.equal(by_hardware.view(torch.uint8), by_integers.view(torch.uint8))
