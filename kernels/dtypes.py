"""The operand types by name: their torch type, size and rounding."""

import torch

ALL = ("bf16", "fp16", "fp32")
"""The plain floating types, which every op that is not about a special one has."""

_TORCH = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    # Stored as fp32; the product takes the first 10 bits of each fraction.
    "tf32": torch.float32,
    # E4M3 without infinities, as the products of NVIDIA and of AMD's gfx950 take it; gfx942 has
    # the FNUZ form. https://arxiv.org/abs/2209.05433.
    "fp8": torch.float8_e4m3fn,
    "int8": torch.int8,
    # Two to a byte.
    "int4": torch.uint8,
}

NAMES = tuple(_TORCH)
"""The names a `Problem.dtype` may have."""

_INDICES = {"int32": torch.int32, "int64": torch.int64}

# The gap between 1 and the next number. Of integers: half of it is the rounding of a value that
# fills the range, as finfo's is of a floating one.
_EPSILON = {"tf32": 2.0**-10, "fp8": 2.0**-3, "int8": 1 / 127, "int4": 1 / 7}


def torch_dtype(name: str) -> torch.dtype:
    """The torch type of that name, indices included; raises KeyError."""
    return (_TORCH | _INDICES)[name]


def size_bytes(name: str) -> int:
    """Bytes of one element, of an index too; int4 is packed and has none of its own (KeyError)."""
    if name == "int4":
        raise KeyError("int4 is stored two to a byte; count bytes, not elements")
    return torch_dtype(name).itemsize


def epsilon(name: str) -> float:
    """The gap between 1 and the next number: 2^-7 for bf16, 2^-10 for fp16, 2^-23 for fp32."""
    return _EPSILON[name] if name in _EPSILON else torch.finfo(_TORCH[name]).eps
