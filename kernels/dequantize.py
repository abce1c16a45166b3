"""Dequantize: x[T,H] = q[T,H] * scale, with one scale for each group of q.

Shape letters: T tokens, H hidden size. The problem's type is that of q: `fp8` (E4M3) or `int8`.
x is bf16. Scales are fp32, one for each row (`token`), each 128 columns of a row (`block`) or each
128 rows by 128 columns (`tile`); `kernels/eight_bit.py` has their shapes.
Counted: 1 FLOP per element. Bytes: q and the fp32 scales read, x written in bf16.
Source: DeepSeek-V3 technical report, section 3.3.2, https://arxiv.org/abs/2412.19437.
"""

from collections.abc import Callable

import torch

from kernels import dtypes, eight_bit
from kernels.compiled import eager_outputs_impls
from kernels.eight_bit import GROUP, LARGEST, as_bits, from_eight_bits
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run, Tolerance
from kernels.triton_support import (
    AotKernel,
    cdiv,
    require_contiguous,
    tl,
    triton,
    triton_unsupported,
)

# 8 groups of 128 columns in 4 warps are 8 elements per thread: one 16-byte store of bf16. With 16,
# one 16-byte load of q, values would go through shared memory between load and store.
_GROUPS = 8
_NUM_WARPS = 4


@triton.jit
def _dequantize_kernel(
    q_ptr, scale_ptr, x_ptr, H,
    VARIANT: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    groups = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    columns = groups[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    mask = columns < H
    bits = tl.load(q_ptr + row * H + columns, mask=mask, other=0)
    if VARIANT == "token":
        x = from_eight_bits(bits, KIND) * tl.load(scale_ptr + row)
    else:
        num_groups = tl.cdiv(H, GROUP)
        scale_row = row // GROUP if VARIANT == "tile" else row
        scale_ptrs = scale_ptr + scale_row * num_groups + groups
        scale = tl.load(scale_ptrs, mask=groups < num_groups, other=0.0)
        x = from_eight_bits(bits, KIND) * scale[:, None]
    tl.store(x_ptr + row * H + columns, x.to(x_ptr.dtype.element_ty), mask=mask)


@torch.library.custom_op("chipscale::dequantize", mutates_args=())
def dequantize(q: torch.Tensor, scale: torch.Tensor, scales: str) -> torch.Tensor:
    """x[T,H] in bf16 from q[T,H] and its scales, which are `token`, `block` or `tile`."""
    require_contiguous("dequantize", q=q, scale=scale)
    eight_bit.require_eight_bits("dequantize", "q", q.dtype)
    if q.ndim != 2:
        raise ValueError(f"dequantize: q[T,H] is expected, not {tuple(q.shape)}.")
    T, H = q.shape
    shape = eight_bit.scale_shape("dequantize", scales, T, H)
    if scale.shape != shape or scale.dtype != torch.float32:
        raise ValueError(
            f"dequantize: scale{list(shape)} in float32 is expected for {scales!r} scales of "
            f"q{[T, H]}, not {tuple(scale.shape)} in {scale.dtype}."
        )
    x = torch.empty_like(q, dtype=torch.bfloat16)
    _dequantize_kernel[(T, cdiv(H, GROUP * _GROUPS))](
        as_bits(q), scale, x, H,
        VARIANT=scales, GROUP=GROUP, GROUPS=_GROUPS, KIND=eight_bit.kind(q.dtype, q.device),
        num_warps=_NUM_WARPS,
    )  # fmt: skip
    return x


@dequantize.register_fake
def _(q: torch.Tensor, scale: torch.Tensor, scales: str) -> torch.Tensor:
    del scale, scales
    return torch.empty_like(q, dtype=torch.bfloat16)


def _eager(problem: Problem) -> Callable[..., Outputs]:
    variant = problem.variant

    def run(q: torch.Tensor, scale: torch.Tensor) -> Outputs:
        groups = eight_bit.split(q.float(), variant)
        x = (groups * scale[:, None, :, None]).to(torch.bfloat16)
        return (eight_bit.merge(x, *q.shape),)

    return run


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """(x,)."""
    q, scale = inputs["q"], inputs["scale"]
    groups = eight_bit.split(q.to(scale.dtype), problem.variant)
    return (eight_bit.merge(groups * scale[:, None, :, None], *q.shape),)


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    T, H = problem["T"], problem["H"]
    rows, columns = eight_bit.scale_shape("dequantize", problem.variant, T, H)
    return Cost(flops=T * H, bytes_read=T * H + 4 * rows * columns, bytes_written=2 * T * H)


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """q[T,H] as standard normal values have it, and scales uniform between half and one and a half.

    A normal value of 4 is the largest that q can be, and what lies beyond is cut off there.
    """
    T, H = problem["T"], problem["H"]
    device = generator.device
    dtype = dtypes.torch_dtype(problem.dtype)
    largest = LARGEST[dtype]
    x = torch.randn(T, H, generator=generator, device=device).mul_(largest / 4)
    shape = eight_bit.scale_shape("dequantize", problem.variant, T, H)
    return {
        # The conversion to E4M3 rounds by itself, to codes of every size.
        "q": (x.round_() if dtype == torch.int8 else x).clamp_(-largest, largest).to(dtype),
        "scale": torch.rand(shape, generator=generator, device=device).add_(0.5).mul_(4 / largest),
    }


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """One rounding to bf16, of a value that is at most 6 times the root mean square."""
    del problem
    error = dtypes.epsilon("bf16") + dtypes.epsilon("fp32")
    return (
        Tolerance(dtype="bf16", relative_error=error, max_error=8 * error, row_error=2 * error),
    )


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    q, scale = inputs["q"], inputs["scale"]
    return lambda: (dequantize(q, scale, problem.variant),)


AOT = tuple(
    AotKernel(
        label=f"dequantize {variant} {kind} to bf16",
        kernel=_dequantize_kernel,
        signature={
            "q_ptr": pointer,
            "scale_ptr": "*fp32:16",
            "x_ptr": "*bf16:16",
            "H": "i32:16",
            "VARIANT": "constexpr",
            "GROUP": "constexpr",
            "GROUPS": "constexpr",
            "KIND": "constexpr",
        },
        constexprs={"VARIANT": variant, "GROUP": GROUP, "GROUPS": _GROUPS, "KIND": kind},
        num_warps=_NUM_WARPS,
        num_stages=3,
        families=eight_bit.KIND_FAMILIES[kind],
    )
    for variant in eight_bit.VARIANTS
    for kind, pointer in eight_bit.KIND_POINTERS.items()
)

OP = Op(
    name="dequantize",
    formula="x[T,H] = q[T,H] * scale of its group",
    source="DeepSeek-V3 technical report, section 3.3.2, https://arxiv.org/abs/2412.19437",
    axes=("T", "H"),
    dtypes=("fp8", "int8"),
    modes=(Mode.FORWARD,),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        *eager_outputs_impls(_eager, ("q", "scale"), eight_bit.compile_unsupported),
        Impl("triton", _prepare_triton, triton_unsupported),
    ),
    variants=("token", "block", "tile"),
    fixed=("scale",),
)
