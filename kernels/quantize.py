"""Quantize: scale = amax |x| / largest over each group of x[T,H], q[T,H] = round(x / scale).

Shape letters: T tokens, H hidden size. x is bf16; the problem's type is that of q: `fp8` (E4M3,
largest 448) or `int8` (largest 127). Scales are fp32, one for each row (`token`), each 128 columns
of a row (`block`) or each 128 rows by 128 columns (`tile`), shaped as `kernels/eight_bit.py` says.
Rounding is to nearest even. A group of zeros has q = 0 and the scale of an amax of 2^-100.
The reference of q is x / scale as it is, unrounded, so what is held to a bound is the rounding.
Counted: 2 FLOPs per element (maximum, divide); rounding and a change of sign are none. Bytes: x in
bf16 read, q and the fp32 scales written.
Source: DeepSeek-V3 technical report, section 3.3.2, https://arxiv.org/abs/2412.19437.
"""

from collections.abc import Callable

import torch

from kernels import dtypes, eight_bit, row_norm
from kernels.compiled import eager_outputs_impls
from kernels.eight_bit import GROUP, LARGEST, LEAST_AMAX, as_bits, to_eight_bits
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run, Tolerance
from kernels.triton_support import (
    AotKernel,
    cdiv,
    next_power_of_2,
    require_contiguous,
    require_dtype,
    tl,
    triton,
    triton_unsupported,
)

# A row is held in registers: at 65536 values sm_90 spills 40 bytes a thread.
_MAX_BLOCK_H = 32768

# 8 groups of 128 columns in 4 warps are 8 elements per thread: one 16-byte load of bf16.
_BLOCK_GROUPS = 8
_BLOCK_WARPS = 4

# 128 x 128 values in 8 warps are 64 per thread, held in registers between maximum and division.
_TILE_WARPS = 8


@triton.jit
def _token_kernel(
    x_ptr, q_ptr, scale_ptr, H, largest, least_amax, BLOCK_H: tl.constexpr, KIND: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_H)
    mask = columns < H
    x = tl.load(x_ptr + row * H + columns, mask=mask, other=0.0).to(tl.float32)
    amax = tl.maximum(tl.max(tl.abs(x), axis=0), least_amax)
    q = to_eight_bits(x * (largest / amax), KIND)
    tl.store(scale_ptr + row, amax / largest)
    tl.store(q_ptr + row * H + columns, q, mask=mask)


@triton.jit
def _block_kernel(
    x_ptr, q_ptr, scale_ptr, H, largest, least_amax,
    GROUP: tl.constexpr, GROUPS: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    groups = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    columns = groups[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    mask = columns < H
    x = tl.load(x_ptr + row * H + columns, mask=mask, other=0.0).to(tl.float32)
    amax = tl.maximum(tl.max(tl.abs(x), axis=1), least_amax)
    q = to_eight_bits(x * (largest / amax)[:, None], KIND)
    num_groups = tl.cdiv(H, GROUP)
    tl.store(scale_ptr + row * num_groups + groups, amax / largest, mask=groups < num_groups)
    tl.store(q_ptr + row * H + columns, q, mask=mask)


@triton.jit
def _tile_kernel(
    x_ptr, q_ptr, scale_ptr, T, H, largest, least_amax, GROUP: tl.constexpr, KIND: tl.constexpr
):
    tile_row = tl.program_id(0).to(tl.int64)
    rows = tile_row * GROUP + tl.arange(0, GROUP)
    columns = tl.program_id(1) * GROUP + tl.arange(0, GROUP)
    mask = (rows < T)[:, None] & (columns < H)[None, :]
    offsets = rows[:, None] * H + columns[None, :]
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    amax = tl.maximum(tl.max(tl.max(tl.abs(x), axis=1), axis=0), least_amax)
    q = to_eight_bits(x * (largest / amax), KIND)
    tl.store(scale_ptr + tile_row * tl.cdiv(H, GROUP) + tl.program_id(1), amax / largest)
    tl.store(q_ptr + offsets, q, mask=mask)


@torch.library.custom_op("chipscale::quantize", mutates_args=())
def quantize(x: torch.Tensor, dtype: torch.dtype, scales: str) -> tuple[torch.Tensor, torch.Tensor]:
    """q[T,H] of that type and its scales, from x[T,H]; scales are `token`, `block` or `tile`."""
    require_contiguous("quantize", x=x)
    require_dtype("quantize", x.dtype)
    eight_bit.require_eight_bits("quantize", "dtype", dtype)
    if x.ndim != 2:
        raise ValueError(f"quantize: x[T,H] is expected, not {tuple(x.shape)}.")
    T, H = x.shape
    shape = eight_bit.scale_shape("quantize", scales, T, H)
    block_h = next_power_of_2(H)
    if scales == "token" and block_h > _MAX_BLOCK_H:
        raise ValueError(
            f"quantize: x has rows of {H}; one is held in registers, which ends at {_MAX_BLOCK_H}."
        )
    q = torch.empty_like(x, dtype=dtype)
    scale = x.new_empty(shape, dtype=torch.float32)
    kind = eight_bit.kind(dtype, x.device)
    bounds = LARGEST[dtype], LEAST_AMAX
    if scales == "token":
        _token_kernel[(T,)](
            x, as_bits(q), scale, H, *bounds,
            BLOCK_H=block_h, KIND=kind, num_warps=row_norm.num_warps(block_h),
        )  # fmt: skip
    elif scales == "block":
        _block_kernel[(T, cdiv(H, GROUP * _BLOCK_GROUPS))](
            x, as_bits(q), scale, H, *bounds,
            GROUP=GROUP, GROUPS=_BLOCK_GROUPS, KIND=kind, num_warps=_BLOCK_WARPS,
        )  # fmt: skip
    else:
        _tile_kernel[shape](
            x, as_bits(q), scale, T, H, *bounds, GROUP=GROUP, KIND=kind, num_warps=_TILE_WARPS
        )
    return q, scale


@quantize.register_fake
def _(x: torch.Tensor, dtype: torch.dtype, scales: str) -> tuple[torch.Tensor, torch.Tensor]:
    shape = eight_bit.scale_shape("quantize", scales, *x.shape)
    return torch.empty_like(x, dtype=dtype), x.new_empty(shape, dtype=torch.float32)


def _eager(problem: Problem) -> Callable[..., Outputs]:
    variant = problem.variant
    dtype = dtypes.torch_dtype(problem.dtype)
    largest = LARGEST[dtype]

    def run(x: torch.Tensor) -> Outputs:
        groups = eight_bit.split(x, variant)
        amax = groups.abs().amax(dim=(1, 3), keepdim=True).float()
        scale = amax.clamp(min=LEAST_AMAX) / largest
        q = groups / scale
        if dtype == torch.int8:
            q = q.round()
        return eight_bit.merge(q.to(dtype), *x.shape), scale[:, 0, :, 0]

    return run


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """(x / scale, scale), the first not rounded."""
    x = inputs["x"]
    groups = eight_bit.split(x, problem.variant)
    amax = groups.abs().amax(dim=(1, 3), keepdim=True).clamp(min=LEAST_AMAX)
    scale = amax / LARGEST[dtypes.torch_dtype(problem.dtype)]
    return eight_bit.merge(groups / scale, *x.shape), scale[:, 0, :, 0]


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    T, H = problem["T"], problem["H"]
    rows, columns = eight_bit.scale_shape("quantize", problem.variant, T, H)
    return Cost(flops=2 * T * H, bytes_read=2 * T * H, bytes_written=T * H + 4 * rows * columns)


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """x[T,H] in bf16, standard normal."""
    shape = problem["T"], problem["H"]
    device = generator.device
    return {"x": torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)}


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """Half a step of the 8-bit type, and for the scale the roundings of a division in fp32.

    A step of E4M3 is at most 1/8 of the value, and 32 next to 448; one of int8 is 1. What that is
    of the root mean square follows from the largest of the normal values that share a scale. A row
    of an int8 tile may be a quarter of the typical one.
    """
    crest = eight_bit.crest(eight_bit.group_size(problem))
    if problem.dtype == "fp8":
        half = dtypes.epsilon("fp8") / 2
        # The 16 of 448 by which the largest may be off.
        q = Tolerance(
            dtype="fp8", relative_error=half, max_error=16 / 448 * crest, row_error=1.01 * half
        )
    else:
        half = dtypes.epsilon("int8") / 2 * crest
        q = Tolerance(dtype="int8", relative_error=half, max_error=1.01 * half, row_error=4 * half)
    error = 4 * dtypes.epsilon("fp32")
    scale = Tolerance(dtype="fp32", relative_error=error, max_error=2 * error, row_error=error)
    return q, scale


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    x, dtype = inputs["x"], dtypes.torch_dtype(problem.dtype)
    return lambda: quantize(x, dtype, problem.variant)


def _triton_unsupported(problem: Problem, device: torch.device) -> str | None:
    if problem.variant == "token" and problem["H"] > _MAX_BLOCK_H:
        return f"A row is held in registers, which ends at H={_MAX_BLOCK_H}; H={problem['H']}."
    return triton_unsupported(problem, device)


def _aot(kernel: object, variant: str, num_warps: int, **constexprs: int) -> list[AotKernel]:
    """The kernel for each kind of 8 bits."""
    sizes = {"T": "i32:16", "H": "i32:16"} if variant == "tile" else {"H": "i32:16"}
    return [
        AotKernel(
            label=f"quantize {variant} bf16 to {kind}",
            kernel=kernel,
            signature={
                "x_ptr": "*bf16:16",
                "q_ptr": pointer,
                "scale_ptr": "*fp32:16",
                **sizes,
                "largest": "fp32",
                "least_amax": "fp32",
                **dict.fromkeys(constexprs, "constexpr"),
                "KIND": "constexpr",
            },
            constexprs={**constexprs, "KIND": kind},
            num_warps=num_warps,
            num_stages=3,
            families=eight_bit.KIND_FAMILIES[kind],
        )
        for kind, pointer in eight_bit.KIND_POINTERS.items()
    ]


# Rows of Llama-3.1 8B, and the widest.
AOT = (
    *(
        description
        for width in (4096, _MAX_BLOCK_H)
        for description in _aot(
            _token_kernel, f"token {width}", row_norm.num_warps(width), BLOCK_H=width
        )
    ),
    *_aot(_block_kernel, "block", _BLOCK_WARPS, GROUP=GROUP, GROUPS=_BLOCK_GROUPS),
    *_aot(_tile_kernel, "tile", _TILE_WARPS, GROUP=GROUP),
)

OP = Op(
    name="quantize",
    formula="q[T,H] = round(x[T,H] / scale), scale = amax |x| / largest of each group",
    source="DeepSeek-V3 technical report, section 3.3.2, https://arxiv.org/abs/2412.19437",
    axes=("T", "H"),
    dtypes=("fp8", "int8"),
    modes=(Mode.FORWARD,),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        *eager_outputs_impls(_eager, ("x",), eight_bit.compile_unsupported),
        Impl("triton", _prepare_triton, _triton_unsupported),
    ),
    variants=("token", "block", "tile"),
)
