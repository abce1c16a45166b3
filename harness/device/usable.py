"""Whether a device still computes: after some errors it answers nothing but errors."""

import contextlib
import gc

import torch

ELEMENTS = 8
"""Of the tensor that is asked for: as little as a device can be asked for."""


def is_usable(device: torch.device) -> bool:
    """Whether it allocates, draws random numbers and computes.

    A device whose memory is full is usable: what fills it goes with the case that did. Torch's
    error for it is a RuntimeError, as that of a broken device is, so it is told apart here.
    """
    try:
        _compute(device)
    except torch.OutOfMemoryError:
        pass  # Tried again below, where this error no longer keeps the tensors of its frames.
    except RuntimeError:
        return False
    else:
        return True
    gc.collect()
    with contextlib.suppress(RuntimeError):
        torch.accelerator.empty_cache()
    try:
        _compute(device)
    except torch.OutOfMemoryError:
        return _answers()
    except RuntimeError:
        return False
    return True


def _compute(device: torch.device) -> None:
    # Drawn, since a graph whose capture failed may leave the generator of random numbers unusable.
    torch.rand(ELEMENTS, device=device).add_(1)
    # A broken device is told of when it is waited for.
    torch.accelerator.synchronize()


def _answers() -> bool:
    """Whether the device can be waited for: with full memory there is no more to be asked."""
    try:
        torch.accelerator.synchronize()
    except RuntimeError:
        return False
    return True
