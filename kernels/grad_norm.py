"""Gradient norm: norm[1] = sqrt(sum over N of grad[N]^2), as before gradients are clipped.

Shape letters: N elements of all gradients, laid out as one flat tensor. norm is fp32 whatever the
gradients are; where the scaling of a clipped gradient happens, and over which ranks the squares
are summed before the root, is left to who calls it. There is no backward pass: nothing is trained
through this norm.
The squares are added in fp32 in a fixed order, in two passes: a fixed number of programs each add
what they are dealt, and one program adds their sums. Atomics would give another norm in each run.
Counted: 2 FLOPs per element (square, add), the root not counted. Bytes: grad read, norm written;
the sums of the first pass are an implementation's own.
Source: Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent neural networks",
algorithm 1, https://arxiv.org/abs/1211.5063.
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

# 16 elements per thread, two 16-byte loads in a 16-bit type.
_BLOCK = 4096
_NUM_WARPS = 8

# Eight programs of 256 threads fill each of an H100's 132 SMs, all at once: with 32 bytes a thread
# that is 64 KiB in flight per SM, and 3.35 TB/s for a microsecond are 25 KB. Larger chips are
# filled less densely; more programs would be a second, shorter wave on an H100.
_NUM_PROGRAMS = 1056


@triton.jit
def _square_sums_kernel(grad_ptr, sums_ptr, N, BLOCK: tl.constexpr):
    """sums[P] in fp32; each program takes every P-th block."""
    program = tl.program_id(0).to(tl.int64)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for first in range(program * BLOCK, N, tl.num_programs(0) * BLOCK):
        offsets = first + tl.arange(0, BLOCK)
        grad = tl.load(grad_ptr + offsets, mask=offsets < N, other=0.0).to(tl.float32)
        total += grad * grad
    tl.store(sums_ptr + program, tl.sum(total, axis=0))


@triton.jit
def _norm_kernel(sums_ptr, norm_ptr, P, BLOCK_P: tl.constexpr):
    """norm[1] from sums[P]."""
    programs = tl.arange(0, BLOCK_P)
    sums = tl.load(sums_ptr + programs, mask=programs < P, other=0.0)
    tl.store(norm_ptr, tl.sqrt(tl.sum(sums, axis=0)))


@torch.library.custom_op("chipscale::grad_norm", mutates_args=())
def grad_norm(grad: torch.Tensor) -> torch.Tensor:
    """norm[1] in fp32 from a gradient of any shape."""
    require_contiguous("grad_norm", grad=grad)
    require_dtype("grad_norm", grad.dtype)
    # One where there is nothing to add, so that the sum of nothing is written.
    num_programs = max(min(cdiv(grad.numel(), _BLOCK), _NUM_PROGRAMS), 1)
    sums = grad.new_empty(num_programs, dtype=torch.float32)
    norm = grad.new_empty(1, dtype=torch.float32)
    _square_sums_kernel[(num_programs,)](
        grad, sums, grad.numel(), BLOCK=_BLOCK, num_warps=_NUM_WARPS
    )
    _norm_kernel[(1,)](sums, norm, num_programs, BLOCK_P=next_power_of_2(num_programs), num_warps=4)
    return norm


@grad_norm.register_fake
def _(grad: torch.Tensor) -> torch.Tensor:
    return grad.new_empty(1, dtype=torch.float32)


# One pass over memory, with fp32 sums: squares in fp16 would overflow from 256 on.
#
# On a CPU PyTorch 2.13 adds the squares in few long sums, and small ones are lost beside a large
# one: in bf16 the norm is off by 3.2e-5 at N = 2^20, 3.6e-4 at 2^24 and 5e-3 at 2^26, where 3.1e-5,
# 1.2e-4 and 2.4e-4 are allowed. Such a case is `incorrect`; torch.compile is off by 3e-6 there.
def _eager(grad: torch.Tensor) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(grad, dtype=torch.float32)
    return norm.reshape(1)


def _formula(grad: torch.Tensor) -> torch.Tensor:
    return grad.square().sum().sqrt().reshape(1)


reference = reference_from(_formula, ("grad",))


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    return Cost(
        flops=2 * problem["N"],
        bytes_read=problem["N"] * dtypes.size_bytes(problem.dtype),
        bytes_written=dtypes.size_bytes("fp32"),
    )


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """grad[N], standard normal."""
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device
    return {"grad": torch.randn(problem["N"], generator=generator, device=device, dtype=dtype)}


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """The type of the gradients does not matter: they are exact, and their squares are fp32.

    A sum of N squares one after the other is off by about sqrt(N) / 2 roundings of half an epsilon,
    and the root halves it; twice that, and two roundings for the square and the root.
    """
    epsilon = dtypes.epsilon("fp32")
    error = 2 * epsilon + epsilon * problem["N"] ** 0.5 / 4
    return (Tolerance(dtype="fp32", relative_error=error, max_error=error, row_error=error),)


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    del problem
    grad = inputs["grad"]
    return lambda: (grad_norm(grad),)


AOT = (
    AotKernel(
        label="grad_norm square sums bf16",
        kernel=_square_sums_kernel,
        signature={
            "grad_ptr": "*bf16:16",
            "sums_ptr": "*fp32:16",
            "N": "i64:16",
            "BLOCK": "constexpr",
        },
        constexprs={"BLOCK": _BLOCK},
        num_warps=_NUM_WARPS,
        num_stages=3,
    ),
    AotKernel(
        label="grad_norm root",
        kernel=_norm_kernel,
        signature={
            "sums_ptr": "*fp32:16",
            "norm_ptr": "*fp32:16",
            "P": "i32:16",
            "BLOCK_P": "constexpr",
        },
        constexprs={"BLOCK_P": next_power_of_2(_NUM_PROGRAMS)},
        num_warps=4,
        num_stages=1,
    ),
)

OP = Op(
    name="grad_norm",
    formula="norm[1] = sqrt(sum over N of grad[N]^2)",
    source="Pascanu et al. 2013, algorithm 1, https://arxiv.org/abs/1211.5063",
    axes=("N",),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD,),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        *eager_impls(_eager, ("grad",)),
        Impl("triton", _prepare_triton, triton_unsupported),
    ),
)
