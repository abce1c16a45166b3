import pytest
import torch

from kernels import cross_entropy
from kernels.op import Mode, problem
from tests.kernels.checks import DEVICE, run_triton


@pytest.mark.parametrize("mode", [Mode.FORWARD, Mode.BACKWARD])
@pytest.mark.parametrize(("T", "V"), [(3, 7), (3, 4096), (2, 8193)])
def test_any_vocabulary_agrees_with_fp64(mode: Mode, T: int, V: int) -> None:
    run_triton(cross_entropy.OP, problem("cross_entropy", "fp32", mode, T=T, V=V))


def test_peak_in_a_late_block_does_not_overflow() -> None:
    logits = torch.zeros(1, 9000, device=DEVICE)
    logits[0, 8999] = 1000.0
    loss, lse = cross_entropy.cross_entropy(logits, torch.tensor([0], device=DEVICE))
    assert loss.item() == 1000.0
    assert lse.item() == 1000.0


def test_uniform_logits_lose_the_logarithm_of_the_vocabulary() -> None:
    logits = torch.full((1, 5000), -7.0, device=DEVICE)
    loss, _ = cross_entropy.cross_entropy(logits, torch.tensor([4999], device=DEVICE))
    assert loss.item() == pytest.approx(8.517193, rel=1e-6)


def test_loss_is_fp32_per_token() -> None:
    logits = torch.zeros(3, 4, device=DEVICE, dtype=torch.bfloat16)
    loss, lse = cross_entropy.cross_entropy(logits, torch.zeros(3, dtype=torch.int64).to(DEVICE))
    assert (loss.dtype, lse.dtype) == (torch.float32, torch.float32)
    assert loss.shape == (3,)


def test_only_the_loss_has_a_gradient() -> None:
    logits = torch.zeros(3, 4, device=DEVICE, requires_grad=True)
    loss, lse = cross_entropy.cross_entropy(logits, torch.zeros(3, dtype=torch.int64).to(DEVICE))
    assert loss.requires_grad
    assert not lse.requires_grad


def test_what_the_kernel_cannot_read_is_refused() -> None:
    logits = torch.zeros(2, 4, device=DEVICE)
    with pytest.raises(ValueError, match=r"targets are torch.int32, but must be torch.int64"):
        cross_entropy.cross_entropy(logits, torch.zeros(2, dtype=torch.int32, device=DEVICE))
    targets = torch.zeros(3, dtype=torch.int64, device=DEVICE)
    with pytest.raises(ValueError, match=r"expected, not \(2, 4\) and \(3,\)"):
        cross_entropy.cross_entropy(logits, targets)
    with pytest.raises(ValueError, match=r"logits of shape \(4, 2\) has strides \(1, 4\)"):
        cross_entropy.cross_entropy(logits.T, targets)


def test_cost_by_hand() -> None:
    forward = cross_entropy.OP.cost(problem("cross_entropy", "bf16", T=2, V=5))
    assert (forward.flops, forward.bytes_read, forward.bytes_written) == (40, 36, 8)
    backward = cross_entropy.OP.cost(problem("cross_entropy", "bf16", Mode.BACKWARD, T=2, V=5))
    assert (backward.flops, backward.bytes_read, backward.bytes_written) == (30, 44, 20)
