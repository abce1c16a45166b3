from collections.abc import Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import layer_norm, registry, rms_norm, row_norm
from kernels.op import Mode, problem
from kernels.row_norm import chunks_of
from tests.kernels.checks import DEVICE, needs_gpu, run_triton

NORMS = ("rms_norm", "layer_norm", "add_rms_norm", "add_layer_norm")


# 8208 is just past what is held in a 16-bit type. The sums of 20496 columns are more than one
# program keeps, and the last of its chunks has columns that are not there.
@pytest.mark.parametrize(
    ("name", "H"),
    [
        ("layer_norm", 8208),
        ("add_rms_norm", 20496),
        # Not aligned, as GPT-3 13B.
        ("rms_norm", 5140),
    ],
)
def test_gradients_of_a_wide_row_agree_with_fp64(name: str, H: int) -> None:
    run_triton(registry.load(name), problem(name, "fp16", Mode.BACKWARD, T=2, H=H))


@settings(deadline=None, max_examples=8)
@given(name=st.sampled_from(NORMS), T=st.integers(1, 6), H=st.integers(9, 60))
def test_chunks_add_up_whatever_the_width(name: str, T: int, H: int) -> None:
    # Chunks of 8 columns, or 4 where they are not aligned, four of them to a program.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_norm, "MAX_HELD_BYTES", 32)
        patch.setattr(row_norm, "CHUNK_BYTES", 32)
        patch.setattr(row_norm, "MAX_COLUMNS", {False: 32, True: 32})
        patch.setattr(row_norm, "NUM_STRIPS", 4)
        run_triton(registry.load(name), problem(name, "fp32", Mode.BACKWARD, T=T, H=H))


def test_a_wide_row_far_from_zero_keeps_its_variance() -> None:
    # The squares are 2^24 apart from their differences, past the digits of fp32.
    H = 8208
    signs = torch.ones(1, H, dtype=torch.float64, device=DEVICE)
    signs[:, ::2] = -1.0
    dy = torch.randn(1, H, device=DEVICE)
    w = torch.ones(H, device=DEVICE)
    dx, dw, db = layer_norm.layer_norm_backward(dy, (4096.0 + signs).float(), w)
    expected = dy - dy.mean() - signs * (dy * signs).mean()
    torch.testing.assert_close(dx.double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dw.double(), (dy * signs)[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(db, dy[0])


def test_a_wide_row_of_zeros_has_finite_gradients() -> None:
    x, w = torch.zeros(2, 8208, device=DEVICE), torch.ones(8208, device=DEVICE)
    dx, dw = rms_norm.rms_norm_backward(torch.randn(2, 8208, device=DEVICE), x, w)
    assert dx.isfinite().all()
    assert not dw.any()


@pytest.mark.parametrize("is_centred", [False, True])
def test_every_number_of_chunks_of_an_aligned_16_bit_row_is_compiled_ahead(
    is_centred: bool,
) -> None:
    def kernels(widths: Iterable[int]) -> set[tuple[int, int]]:
        found = (chunks_of(H, 2, is_centred=is_centred) for H in widths)
        return {(chunks.width, chunks.num_chunks) for chunks in found if chunks}

    aligned = range(16, row_norm.MAX_BLOCK_H + 1, 16)
    assert kernels(row_norm.AOT_WIDTHS) >= kernels(aligned)


@pytest.mark.parametrize("element_bytes", [2, 4])
@pytest.mark.parametrize("is_centred", [False, True])
def test_the_chunks_of_all_programs_cover_a_row(is_centred: bool, element_bytes: int) -> None:
    for H in range(1, row_norm.MAX_BLOCK_H + 1, 7):
        chunks = chunks_of(H, element_bytes, is_centred=is_centred)
        if chunks is not None:
            assert chunks.num_chunks * chunks.width <= row_norm.MAX_COLUMNS[is_centred]
            assert chunks.num_programs * chunks.num_chunks * chunks.width >= H


# Llama-3.1 405B, PaLM 540B, and one whose rows go to two programs.
@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("H", [16384, 18432, 24576])
def test_a_micro_batch_of_wide_rows_agrees_with_fp64(name: str, H: int) -> None:
    run_triton(registry.load(name), problem(name, "bf16", Mode.BACKWARD, T=4096, H=H))
