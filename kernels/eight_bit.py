"""What quantised ops share: groups of values with one scale, and values as 8 bits and back.

A value is `q * scale`, with q in E4M3 (largest 448) or int8 (largest 127, so that the range is
symmetric) and one fp32 scale for each group. The variants of an op name the groups:

- `token`: a row, scale[T,1].
- `block`: 128 columns of a row, scale[T,ceil(H/128)], as DeepSeek-V3 quantises activations.
- `tile`: 128 rows by 128 columns, scale[ceil(T/128),ceil(H/128)], as it quantises weights.

Source: DeepSeek-V3 technical report, section 3.3.2, https://arxiv.org/abs/2412.19437; E4M3:
Micikevicius et al. 2022, "FP8 Formats for Deep Learning", section 3, table 1,
https://arxiv.org/abs/2209.05433.
"""

import math

import torch

from kernels import compiled
from kernels.op import Problem
from kernels.triton_support import INTERPRETED, cdiv, families, is_amd, tl, triton

VARIANTS = ("token", "block", "tile")

GROUP = 128
"""Rows and columns of a group."""

LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}

LEAST_AMAX = 2.0**-100
"""A group whose largest value is smaller is taken to have this one: zeros divide by something, and
no scale is a subnormal number, which a GPU may flush to zero."""

# Architectures whose hardware rounds to E4M3, for `AotKernel.families`, and the others. gfx942
# converts to the FNUZ form, another type.
NATIVE_FAMILIES = ("sm_89", "sm_90", "sm_100", "sm_120", "gfx950")
OTHER_FAMILIES = ("sm_80", "gfx942")


@triton.jit
def to_eight_bits(value, KIND: tl.constexpr):
    """fp32 values rounded to nearest even and saturated; a NaN stays one in E4M3."""
    if KIND == "int8":
        value = tl.clamp(value, -127.0, 127.0)
        # A sum near 1.5 * 2^23 has no bits left for a fraction.
        bits = (value + 12582912.0 - 12582912.0).to(tl.int8)
    else:
        value = tl.clamp(value, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL)
        if KIND == "e4m3":
            bits = value.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
        else:
            word = value.to(tl.int32, bitcast=True)
            size = word & 0x7FFFFFFF
            # From 2^-6 on: half of the last kept bit is added, less a little where it is even, and
            # the exponent counts from 7 and not from 127.
            normal = (size + ((size >> 20) & 1) + 0x7FFFF - (120 << 23)) >> 20
            # Below, steps are 2^-9, as those of fp32 are at 2^14, whose bits are subtracted again.
            subnormal = (tl.abs(value) + 16384.0).to(tl.int32, bitcast=True) - 0x46800000
            code = tl.where(size < 0x3C800000, subnormal, normal)
            code = tl.where(size > 0x7F800000, 0x7F, code)
            bits = (code | ((word >> 24) & 0x80)).to(tl.uint8)
    return bits


@triton.jit
def from_eight_bits(bits, KIND: tl.constexpr):
    """The fp32 values of such bits."""
    if KIND == "int8":
        value = bits.to(tl.float32)
    elif KIND == "e4m3":
        value = bits.to(tl.float8e4nv, bitcast=True).to(tl.float32)
    else:
        # As fp16, which counts its exponent from 15 and not from 7: too small by 2^8.
        wide = bits.to(tl.int16)
        half = ((wide & 0x80) << 8) | ((wide & 0x7F) << 7)
        value = half.to(tl.float16, bitcast=True).to(tl.float32) * 256.0
        value = tl.where((wide & 0x7F) == 0x7F, float("nan"), value)
    return value


def converts_e4m3(device: torch.device) -> bool:
    """Whether Triton turns fp32 into E4M3 on the device, and rounds to nearest even.

    Its interpreter rounds 124 to 64: what carries over into the exponent is lost.
    """
    if INTERPRETED or device.type != "cuda":
        return False
    if is_amd():
        return families(device)[0] == "gfx950"
    return torch.cuda.get_device_capability(device) >= (8, 9)


def kind(dtype: torch.dtype, device: torch.device) -> str:
    """What `KIND` of the conversions is: `int8`, `e4m3` or, made of integers, `e4m3_bits`."""
    if dtype == torch.int8:
        return "int8"
    return "e4m3" if converts_e4m3(device) else "e4m3_bits"


KIND_FAMILIES = {
    "int8": ("cuda", "cuda_99k", "hip"),
    "e4m3": NATIVE_FAMILIES,
    "e4m3_bits": OTHER_FAMILIES,
}
"""The devices that each kind is launched on."""

KIND_POINTERS = {"int8": "*i8:16", "e4m3": "*u8:16", "e4m3_bits": "*u8:16"}
"""Triton's type of the stored bits, see `as_bits`."""


def as_bits(q: torch.Tensor) -> torch.Tensor:
    """E4M3 as bytes, since Triton has pointers to it on some devices only; int8 as it is."""
    return q.view(torch.uint8) if q.dtype == torch.float8_e4m3fn else q


def require_eight_bits(op: str, name: str, dtype: torch.dtype) -> None:
    """Raises ValueError for a type that is neither of the two."""
    if dtype not in LARGEST:
        raise ValueError(f"{op}: {name} is {dtype}; use float8_e4m3fn or int8.")


def scale_shape(op: str, variant: str, T: int, H: int) -> tuple[int, int]:
    """The shape of the scales of [T,H]; raises ValueError for an unknown variant."""
    if variant not in VARIANTS:
        raise ValueError(f"{op}: scales {variant!r} are unknown; use {', '.join(VARIANTS)}.")
    rows = cdiv(T, GROUP) if variant == "tile" else T
    return rows, 1 if variant == "token" else cdiv(H, GROUP)


def split(x: torch.Tensor, variant: str) -> torch.Tensor:
    """x[T,H] as [groups down, rows of one, groups across, columns of one], padded with zeros."""
    T, H = x.shape
    rows = GROUP if variant == "tile" else 1
    columns = H if variant == "token" else GROUP
    if T % rows or H % columns:
        x = torch.nn.functional.pad(x, (0, -H % columns, 0, -T % rows))
    return x.reshape(x.shape[0] // rows, rows, x.shape[1] // columns, columns)


def merge(groups: torch.Tensor, T: int, H: int) -> torch.Tensor:
    """The inverse of `split`."""
    return groups.flatten(2).flatten(0, 1)[:T, :H].contiguous()


def crest(num_values: int) -> float:
    """A bound on the largest of so many standard normal values, as it usually comes out."""
    return 1.0 + math.sqrt(2.0 * math.log(2.0 * num_values))


def group_size(problem: Problem) -> int:
    """The most values that have one scale."""
    sizes = {"token": problem["H"], "block": GROUP, "tile": GROUP**2}
    return sizes[problem.variant]


def compile_unsupported(problem: Problem, device: torch.device) -> str | None:
    """Why torch.compile cannot run a problem with 8-bit values, or None if it can."""
    is_old = (
        device.type == "cuda" and not is_amd() and torch.cuda.get_device_capability(device) < (8, 9)
    )
    if problem.dtype == "fp8" and is_old:
        return "torch.compile's Triton code converts to E4M3 from compute capability 8.9 on."
    return compiled.compile_unsupported(problem, device)
