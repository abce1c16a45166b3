"""Triton where it is installed, why it cannot run where it cannot, and what can be built ahead.

Op files import `triton` and `tl` from here, so that they load, with their reference, cost and
torch implementations, on a system for which Triton is not published.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch

from kernels.op import Problem

try:
    import triton
    import triton.language as tl
except ImportError:
    # Enough for the op files to be imported; no kernel is ever launched with it, since
    # `unsupported` answers first.
    triton = SimpleNamespace(jit=lambda kernel: kernel)
    tl = SimpleNamespace(constexpr=int)

__all__ = [
    "INTERPRETED",
    "AotKernel",
    "compute_capability",
    "is_amd",
    "next_power_of_2",
    "num_multiprocessors",
    "provide_scratch",
    "require_contiguous",
    "require_dtype",
    "require_matrices",
    "shared_memory_bytes",
    "tl",
    "triton",
    "triton_unsupported",
    "unsupported",
]

LEAST_SHARED_BYTES = 160 * 1024
"""A block of the family `cuda` may use so much shared memory: sm_80 has 163 KiB, the largest of
those with less (sm_86, sm_89, sm_120) 99."""

# Of the family `cuda`, latest first: one between two of them launches what the lower one does.
_ARCHITECTURES = ((10, 0), (9, 0), (8, 0))

IS_INSTALLED = not isinstance(triton, SimpleNamespace)

INTERPRETED: bool = IS_INSTALLED and bool(triton.knobs.runtime.interpret)
"""Whether kernels run in Triton's interpreter: right numbers on any device, no meaningful time.

Read once, as `triton.jit` does when it decorates a kernel.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AotKernel:
    """A kernel with everything that `triton.compile` needs when there is no GPU to ask."""

    label: str
    kernel: Any
    """The function decorated with `triton.jit`."""
    signature: Mapping[str, str]
    """Triton type of each argument in order: `*bf16`, `i32`, or `constexpr`.

    `:16` after it says that the argument is divisible by 16, as a launch finds out by itself for
    the addresses of tensors and the sizes of models; without it no load is wider than an element.
    """
    constexprs: Mapping[str, object]
    """Values of the arguments whose type is `constexpr`."""
    num_warps: int
    num_stages: int
    small: tuple[str, ...] = ()
    """Pointer arguments whose tensors never hold 2^31 elements, as the weights of a norm, so that
    32-bit offsets will do."""
    tunable: str = ""
    """The `tuning.Tunable.kernel` whose configuration this is, or empty."""
    families: tuple[str, ...] = ("cuda", "cuda_99k", "hip")
    """The devices it is launched on with these sizes: NVIDIA's, those with 99 KiB of shared memory
    for a block apart, and AMD's; or architectures by name, as `sm_90`."""


def unsupported(device: torch.device) -> str | None:
    """Why no Triton kernel can run on the device, or None if one can."""
    if not IS_INSTALLED:
        return "Triton is not installed; `pip install triton` (published for Linux only)."
    if INTERPRETED:
        return None
    if device.type == "cpu":
        return (
            "Triton has no CPU back-end; TRITON_INTERPRET=1 interprets the kernels, "
            "for their numbers and not for their speed."
        )
    try:
        triton.runtime.driver.active.get_current_target()
    except RuntimeError as error:
        return f"Triton finds no driver for {device.type}: {error}"
    return None


def triton_unsupported(problem: Problem, device: torch.device) -> str | None:
    """As `unsupported`, for an `Impl` whose kernels run every problem."""
    del problem
    return unsupported(device)


def bf16_dot_unsupported(dtype: str) -> str | None:
    """Why a kernel with a bf16 `tl.dot` cannot run, or None if it can.

    Triton 3.7.1's interpreter multiplies the bit patterns of bf16 as integers: the product of two
    16 x 16 standard normal matrices is off by 2.7e10. fp16 and fp32 are exact there.
    """
    if INTERPRETED and dtype == "bf16":
        return "Triton's interpreter computes bf16 matrix products wrongly; use fp16 or fp32."
    return None


def is_amd() -> bool:
    """Whether this build of torch drives AMD GPUs, which need tiles for 64 KiB of LDS."""
    return torch.version.hip is not None


@cache
def shared_memory_bytes(device: torch.device) -> int:
    """Shared memory that one block may use; no limit where none is told, as on a CPU."""
    if device.type != "cuda":
        return sys.maxsize
    properties = torch.cuda.get_device_properties(device)
    # Not told for AMD, whose tiles are chosen for the least there is.
    return int(getattr(properties, "shared_memory_per_block_optin", sys.maxsize))


def families(device: torch.device) -> tuple[str, ...]:
    """The names in `AotKernel.families` that hold for a device, the nearest first.

    That is its architecture, the nearest below that kernels are made for, and its family.
    """
    if device.type != "cuda":
        return ("cuda",)
    if is_amd():
        architecture = torch.cuda.get_device_properties(device).gcnArchName
        return architecture.partition(":")[0], "hip"
    major, minor = compute_capability(device)
    name = f"sm_{major}{minor}"
    if shared_memory_bytes(device) < LEAST_SHARED_BYTES:
        return name, "cuda_99k"
    below = [known for known in _ARCHITECTURES if known <= (major, minor)]
    nearest = [f"sm_{major}{minor}" for major, minor in below[:1]]
    return *dict.fromkeys((name, *nearest)), "cuda"


@cache
def compute_capability(device: torch.device) -> tuple[int, int]:
    """Of an NVIDIA GPU, as (9, 0); (0, 0) of anything else."""
    if device.type != "cuda" or is_amd():
        return (0, 0)
    return torch.cuda.get_device_capability(device)


@cache
def num_multiprocessors(device: torch.device) -> int:
    """Multiprocessors or compute units; 3 of a CPU, so that persistent programs walk there too."""
    if device.type != "cuda":
        return 3
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def provide_scratch(device: torch.device) -> None:
    """Lets the next launch keep its tensor descriptors in memory of the device.

    Triton asks for a function that allocates it, once for each thread: autograd has its own.
    """

    def allocate(size: int, alignment: int, stream: int | None) -> torch.Tensor:
        del alignment, stream
        # torch aligns by 512 bytes, and gives memory on the current stream, as a launch uses it.
        return torch.empty(size, dtype=torch.int8, device=device)

    if not INTERPRETED:
        triton.set_allocator(allocate)


def cdiv(number: int, divisor: int) -> int:
    """The quotient rounded up."""
    return -(-number // divisor)


def next_power_of_2(number: int) -> int:
    """The least power of two that is not below a positive number."""
    return 1 << (number - 1).bit_length()


def require_contiguous(op: str, /, **tensors: torch.Tensor) -> None:
    """Raises ValueError for a tensor that is not row-major and dense."""
    for name, tensor in tensors.items():
        if not tensor.is_contiguous():
            raise ValueError(
                f"{op}: {name} of shape {tuple(tensor.shape)} has strides {tensor.stride()}; "
                f"the kernel reads contiguous tensors only, pass {name}.contiguous()."
            )


def require_matrices(op: str, /, **tensors: torch.Tensor) -> None:
    """Raises ValueError for a tensor that has not two axes."""
    for name, tensor in tensors.items():
        if tensor.ndim != 2:
            raise ValueError(f"{op}: {name} must be a matrix, not of shape {tuple(tensor.shape)}.")


def require_dtype(op: str, dtype: torch.dtype, /, **tensors: torch.Tensor) -> None:
    """Raises ValueError for a type that is not an operand type, or a tensor of another type."""
    allowed = (torch.bfloat16, torch.float16, torch.float32)
    if dtype not in allowed:
        raise ValueError(f"{op}: {dtype} is not supported; use bfloat16, float16 or float32.")
    for name, tensor in tensors.items():
        if tensor.dtype != dtype:
            raise ValueError(f"{op}: {name} is {tensor.dtype}, but must be {dtype}.")
