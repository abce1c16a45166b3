import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import linear_cross_entropy, tuning
from kernels.op import Mode, problem
from tests.kernels.checks import DEVICE, assert_within, expected, inputs_of, needs_gpu, run_triton

OP = linear_cross_entropy.OP
MODES = (Mode.FORWARD, Mode.BACKWARD)
CONFIGS = {
    one
    for tunable in linear_cross_entropy.TUNABLES
    for configs in tunable.configs.values()
    for one in configs
}


@pytest.mark.parametrize("mode", MODES)
@settings(deadline=None, max_examples=8)
@given(T=st.integers(1, 70), H=st.integers(1, 40), V=st.integers(2, 150))
def test_any_shape_agrees_with_fp64(mode: Mode, T: int, H: int, V: int) -> None:
    case = problem("linear_cross_entropy", "fp32", mode, T=T, H=H, V=V)
    inputs = inputs_of(OP, case)
    outputs = OP.impl("triton").prepare(case, inputs)()
    for output, reference in zip(outputs, expected(OP, case, inputs), strict=True):
        torch.testing.assert_close(output, reference.float(), rtol=1e-4, atol=2e-5)


def test_chunks_of_the_vocabulary_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # Chunks of 64, 64 and 3 columns.
    monkeypatch.setattr(linear_cross_entropy, "_CHUNK_BYTES", 1)
    monkeypatch.setattr(linear_cross_entropy, "_CHUNK_MULTIPLE", 64)
    for dtype in ("fp32", "fp16"):
        run_triton(OP, problem("linear_cross_entropy", dtype, Mode.BACKWARD, T=37, H=50, V=131))


def test_memory_of_a_chunk_is_bounded() -> None:
    assert linear_cross_entropy._chunk_columns(8192, 128256, 2) == 16384
    assert linear_cross_entropy._chunk_columns(100, 128256, 2) == 128256
    assert linear_cross_entropy._chunk_columns(2**22, 128256, 2) == 256


@pytest.mark.parametrize("chosen", sorted(CONFIGS, key=str), ids=str)
def test_every_tile_agrees_with_fp64(chosen: tuning.Config) -> None:
    names = [tunable.kernel for tunable in linear_cross_entropy.TUNABLES]
    with tuning.forced(dict.fromkeys(names, chosen)):
        case = problem(
            "linear_cross_entropy", "fp16", Mode.BACKWARD,
            T=chosen["BLOCK_M"] + 5, H=71, V=chosen["BLOCK_N"] + 3,
        )  # fmt: skip
        run_triton(OP, case)


def test_large_logits_do_not_overflow() -> None:
    x = torch.full((2, 4), 100.0, device=DEVICE)
    w = torch.zeros(70, 4, device=DEVICE)
    w[69] = 10.0
    targets = torch.tensor([0, 69], device=DEVICE)
    loss, lse = linear_cross_entropy.linear_cross_entropy(x, w, targets)
    assert loss.tolist() == [4000.0, 0.0]
    assert lse.tolist() == [4000.0, 4000.0]


def test_gradients_come_through_autograd() -> None:
    case = problem("linear_cross_entropy", "fp32", Mode.BACKWARD, T=5, H=7, V=11)
    inputs = inputs_of(OP, case)
    x, w = (inputs[name].requires_grad_() for name in ("x", "w"))
    loss, lse = linear_cross_entropy.linear_cross_entropy(x, w, inputs["targets"])
    assert not lse.requires_grad
    found = torch.autograd.grad(loss, (x, w), inputs["dloss"])
    assert_within(found, expected(OP, case, inputs), OP.tolerance(case))


def test_what_the_kernel_cannot_read_is_refused() -> None:
    x, w = torch.zeros(2, 4, device=DEVICE), torch.zeros(9, 4, device=DEVICE)
    targets = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    run = linear_cross_entropy.linear_cross_entropy
    with pytest.raises(ValueError, match=r"targets are torch.int32, but must be torch.int64"):
        run(x, w, targets.int())
    with pytest.raises(ValueError, match=r"expected, not \(2, 4\), \(9, 4\) and \(1,\)"):
        run(x, w, targets[:1])
    with pytest.raises(ValueError, match=r"w is torch.float16, but must be torch.float32"):
        run(x, w.half(), targets)
    with pytest.raises(ValueError, match=r"w of shape \(9, 4\) has strides \(1, 9\)"):
        run(x, w.T.contiguous().T, targets)
    lse = torch.zeros(2, device=DEVICE)
    with pytest.raises(ValueError, match=r"dloss\[2\] is expected, not \(1,\)"):
        linear_cross_entropy.linear_cross_entropy_backward(lse[:1], x, w, targets, lse)


def test_cost_by_hand() -> None:
    forward = OP.cost(problem("linear_cross_entropy", "bf16", T=2, H=3, V=5))
    assert (forward.flops, forward.bytes_read, forward.bytes_written) == (60, 42 + 16, 8)
    backward = OP.cost(problem("linear_cross_entropy", "bf16", Mode.BACKWARD, T=2, H=3, V=5))
    assert (backward.flops, backward.bytes_read, backward.bytes_written) == (120, 42 + 24, 42)


@needs_gpu[0]
@needs_gpu[1]
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_large_shapes_agree_with_fp64(dtype: str, mode: Mode) -> None:
    run_triton(OP, problem("linear_cross_entropy", dtype, mode, T=2048, H=4096, V=32000))
