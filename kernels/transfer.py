"""What the copies between host and device share: pinned memory, and where there is no link.

Pinned memory stays where it is, so the device's copy engine reads and writes it by itself. What is
copied from or to other memory passes through a pinned buffer of the driver, at the host's speed.
Source: Sanders and Kandrot 2010, CUDA by Example, section 10.2.
"""

import torch

from kernels.op import Impl, Problem, Run

_NO_KERNEL = "A copy between host and device is the work of a copy engine, and no kernel's."


def transfer_unsupported(problem: Problem, device: torch.device) -> str | None:
    """Why there is nothing to copy across, or None on a device with a memory of its own."""
    del problem
    if device.type == "cpu":
        return "The processor is its own host, so there is no link to copy across."
    if device.type == "mps":
        return "This device shares its memory with the host, so there is no link to copy across."
    return None


def _never(problem: Problem, inputs: object) -> Run:
    raise AssertionError(f"{problem.op}: no kernel copies between host and device")


def without_kernels() -> tuple[Impl, Impl]:
    """`compile` and `triton`, which run nowhere and say why."""

    def unsupported(problem: Problem, device: torch.device) -> str:
        del problem, device
        return _NO_KERNEL

    return Impl("compile", _never, unsupported), Impl("triton", _never, unsupported)
