"""Poison: memory is filled with what no run computes, so that what a run leaves unwritten shows."""

import torch

from kernels.op import Outputs


def poison(outputs: Outputs, spared: set[int]) -> None:
    """Overwrites the outputs of a run, whose memory the next run is given again.

    An allocator hands out the block that was freed last, and it may hold the right result of
    another implementation: a kernel that leaves a part of its output as it is would be right.

    Args:
        outputs: whose storages are filled.
        spared: addresses of storages that are left alone, as those of inputs.
    """
    for output in outputs:
        storage = output.untyped_storage()
        if storage.data_ptr() not in spared:
            held = torch.empty(0, dtype=torch.uint8, device=output.device).set_(storage)
            held.fill_(_byte(output))


def holds_poison(output: torch.Tensor) -> bool:
    """Whether an element is what `poison` leaves; a computed NaN has other bits.

    Of integers of 8 bits it cannot be told: 127 is a likely number.
    """
    if not output.numel() or output.dtype in (torch.int8, torch.uint8):
        return False
    bits = output.detach().contiguous().view(-1).view(torch.uint8).view(-1, output.itemsize)
    return bool((bits == _byte(output)).all(dim=-1).any())


def _byte(output: torch.Tensor) -> int:
    """A NaN in every floating type, and no likely number in any other."""
    return 0x7F if output.itemsize == 1 else 0xFF
