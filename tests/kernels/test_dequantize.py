import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import dequantize, eight_bit, quantize
from kernels.op import Mode, problem
from tests.kernels.checks import DEVICE, needs_gpu, run_triton

E4M3 = torch.float8_e4m3fn


@pytest.mark.parametrize("variant", eight_bit.VARIANTS)
@pytest.mark.parametrize("dtype", ["fp8", "int8"])
@pytest.mark.parametrize(("T", "H"), [(1, 1), (2, 2049)])
def test_any_shape_agrees_with_fp64(dtype: str, variant: str, T: int, H: int) -> None:
    run_triton(dequantize.OP, problem("dequantize", dtype, Mode.FORWARD, variant, T=T, H=H))


def test_every_e4m3_value_is_read_as_torch_reads_it() -> None:
    q = torch.arange(256, dtype=torch.uint8, device=DEVICE).view(E4M3)[None]
    x = dequantize.dequantize(q, torch.ones(1, 1, device=DEVICE), "token")
    torch.testing.assert_close(x, q.to(torch.bfloat16), rtol=0, atol=0, equal_nan=True)


@settings(deadline=None, max_examples=15)
@given(
    st.integers(1, 4),
    st.integers(1, 300),
    st.sampled_from(eight_bit.VARIANTS),
    st.sampled_from([E4M3, torch.int8]),
)
def test_values_come_back_within_half_a_step(
    T: int, H: int, variant: str, dtype: torch.dtype
) -> None:
    x = torch.randn(T, H, generator=torch.Generator().manual_seed(T * H)).to(DEVICE)
    q, scale = quantize.quantize(x, dtype, variant)
    back = dequantize.dequantize(q, scale, variant).float()
    # Half a step at the largest value, 16 of 448 and 0.5 of 127, and a rounding to bf16.
    half = {E4M3: 16 / 448, torch.int8: 0.5 / 127}[dtype]
    assert (back - x).abs().max() <= (half + 2.0**-7) * x.abs().max()


def test_what_the_kernel_cannot_read_is_refused() -> None:
    q = torch.ones(2, 130, device=DEVICE, dtype=torch.int8)
    scale = torch.ones(2, 2, device=DEVICE)
    with pytest.raises(ValueError, match=r"q is torch.float32; use float8_e4m3fn or int8"):
        dequantize.dequantize(q.float(), scale, "block")
    with pytest.raises(ValueError, match=r"q\[T,H\] is expected, not \(260,\)"):
        dequantize.dequantize(q.view(-1), scale, "block")
    with pytest.raises(ValueError, match=r"scale\[2, 1\] in float32 is expected for 'token'"):
        dequantize.dequantize(q, scale, "token")
    with pytest.raises(ValueError, match=r"not \(2, 2\) in torch.float16"):
        dequantize.dequantize(q, scale.half(), "block")
    with pytest.raises(ValueError, match=r"scale of shape \(2, 2\) has strides \(1, 2\)"):
        dequantize.dequantize(q, scale.T, "block")


def test_cost_by_hand() -> None:
    for variant, num_scales in (("token", 130), ("block", 260), ("tile", 4)):
        cost = dequantize.OP.cost(
            problem("dequantize", "int8", Mode.FORWARD, variant, T=130, H=200)
        )
        assert cost.flops == 130 * 200
        assert cost.bytes_read == 130 * 200 + 4 * num_scales
        assert cost.bytes_written == 2 * 130 * 200


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize("dtype", ["fp8", "int8"])
@pytest.mark.parametrize("variant", eight_bit.VARIANTS)
@pytest.mark.parametrize(("T", "H"), [(8192, 7168), (4096, 53248)])
def test_large_shapes_agree_with_fp64(dtype: str, variant: str, T: int, H: int) -> None:
    run_triton(dequantize.OP, problem("dequantize", dtype, Mode.FORWARD, variant, T=T, H=H))
