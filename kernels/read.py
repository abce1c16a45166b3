"""Read: total[1] = sum over N of x[N], the yardstick of bandwidth where nothing is written.

Shape letters: N elements. total is fp32 whatever x is. x is drawn between 0 and 1, so that the sum
does not cancel and its relative error says something.
The sum is taken in fp32 in a fixed order, in two passes: a fixed number of programs each add what
they are dealt, and one program adds their sums. There is no backward pass: it is there to read.
Counted: 1 FLOP per element. Bytes: x read, total written; the sums of the first pass are an
implementation's own.
Source: the read test of LMbench (McVoy and Staelin 1996, "lmbench: Portable Tools for Performance
Analysis", section 5.1, https://www.usenix.org/legacy/publications/library/proceedings/sd96/).
"""

import torch

from kernels import dtypes
from kernels.compiled import eager_impls, reference_from
from kernels.op import Cost, Impl, Inputs, Mode, Op, Problem, Run, Tolerance
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

# As the gradient norm, whose loads are the same: two 16-byte loads in flight for each thread, and
# eight programs on each of an H100's 132 SMs, all at once.
_BLOCK = 4096
_NUM_WARPS = 8
_NUM_PROGRAMS = 1056


@triton.jit
def _sums_kernel(x_ptr, sums_ptr, N, BLOCK: tl.constexpr):
    """sums[P] in fp32; each program takes every P-th block."""
    program = tl.program_id(0).to(tl.int64)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for first in range(program * BLOCK, N, tl.num_programs(0) * BLOCK):
        offsets = first + tl.arange(0, BLOCK)
        total += tl.load(x_ptr + offsets, mask=offsets < N, other=0.0).to(tl.float32)
    tl.store(sums_ptr + program, tl.sum(total, axis=0))


@triton.jit
def _total_kernel(sums_ptr, total_ptr, P, BLOCK_P: tl.constexpr):
    """total[1] from sums[P]."""
    programs = tl.arange(0, BLOCK_P)
    sums = tl.load(sums_ptr + programs, mask=programs < P, other=0.0)
    tl.store(total_ptr, tl.sum(sums, axis=0))


@torch.library.custom_op("chipscale::read", mutates_args=())
def read(x: torch.Tensor) -> torch.Tensor:
    """total[1] in fp32 of a tensor of any shape."""
    require_contiguous("read", x=x)
    require_dtype("read", x.dtype)
    # One where there is nothing to add, so that the sum of nothing is written.
    num_programs = max(min(cdiv(x.numel(), _BLOCK), _NUM_PROGRAMS), 1)
    sums = x.new_empty(num_programs, dtype=torch.float32)
    total = x.new_empty(1, dtype=torch.float32)
    _sums_kernel[(num_programs,)](x, sums, x.numel(), BLOCK=_BLOCK, num_warps=_NUM_WARPS)
    _total_kernel[(1,)](
        sums, total, num_programs, BLOCK_P=next_power_of_2(num_programs), num_warps=4
    )
    return total


@read.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(1, dtype=torch.float32)


# One pass on an accelerator. On a CPU torch copies a 16-bit x to fp32 first, so that only fp32
# shows the bandwidth there.
def _eager(x: torch.Tensor) -> torch.Tensor:
    return x.sum(dtype=torch.float32).reshape(1)


def _formula(x: torch.Tensor) -> torch.Tensor:
    return x.sum().reshape(1)


reference = reference_from(_formula, ("x",))


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    return Cost(
        flops=problem["N"],
        bytes_read=problem["N"] * dtypes.size_bytes(problem.dtype),
        bytes_written=dtypes.size_bytes("fp32"),
    )


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """x[N], uniform from 0 to 1."""
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device
    return {"x": torch.rand(problem["N"], generator=generator, device=device, dtype=dtype)}


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """The type of x does not matter: its values are exact, and their sum is fp32.

    A sum of N numbers one after the other is off by about sqrt(N) / 2 roundings of half an epsilon,
    whatever the order; twice that, and a rounding for the result.
    """
    epsilon = dtypes.epsilon("fp32")
    error = epsilon + epsilon * problem["N"] ** 0.5 / 2
    return (Tolerance(dtype="fp32", relative_error=error, max_error=error, row_error=error),)


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    del problem
    x = inputs["x"]
    return lambda: (read(x),)


AOT = (
    AotKernel(
        label="read sums bf16",
        kernel=_sums_kernel,
        signature={
            "x_ptr": "*bf16:16",
            "sums_ptr": "*fp32:16",
            "N": "i64:16",
            "BLOCK": "constexpr",
        },
        constexprs={"BLOCK": _BLOCK},
        num_warps=_NUM_WARPS,
        num_stages=3,
    ),
    AotKernel(
        label="read total",
        kernel=_total_kernel,
        signature={
            "sums_ptr": "*fp32:16",
            "total_ptr": "*fp32:16",
            "P": "i32:16",
            "BLOCK_P": "constexpr",
        },
        constexprs={"BLOCK_P": next_power_of_2(_NUM_PROGRAMS)},
        num_warps=4,
        num_stages=1,
    ),
)

OP = Op(
    name="read",
    formula="total[1] = sum over N of x[N]",
    source="LMbench, memory read, https://www.usenix.org/legacy/publications/library/proceedings/sd96/",
    axes=("N",),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD,),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(*eager_impls(_eager, ("x",)), Impl("triton", _prepare_triton, triton_unsupported)),
)
