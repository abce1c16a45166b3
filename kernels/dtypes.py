"""The three operand types by name: their torch type, size and rounding."""

import torch

_TORCH = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

ALL = tuple(_TORCH)
"""The names a `Problem.dtype` may have."""


def torch_dtype(name: str) -> torch.dtype:
    """The torch type of that name; raises KeyError."""
    return _TORCH[name]


def size_bytes(name: str) -> int:
    """Bytes of one element."""
    return _TORCH[name].itemsize


def epsilon(name: str) -> float:
    """The gap between 1 and the next number: 2^-7 for bf16, 2^-10 for fp16, 2^-23 for fp32."""
    return torch.finfo(_TORCH[name]).eps
