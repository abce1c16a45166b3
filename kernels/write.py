"""Write: y[N] = value[1], the yardstick of bandwidth where nothing is read.

Shape letters: N elements, all of them the one number that is given.
`torch` fills with that number as the host knows it, which needs no read at all; the others read it
from the device's memory. The number is random: zeros may be written by a shorter way than others.
There is no backward pass: it is there to write.
Counted: no FLOPs; 1 element read and N written.
Source: the write test of LMbench (McVoy and Staelin 1996, "lmbench: Portable Tools for Performance
Analysis", section 5.1, https://www.usenix.org/legacy/publications/library/proceedings/sd96/).
"""

import torch

from kernels import dtypes
from kernels.compiled import Eager, compile_unsupported, prepare_compiled
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run
from kernels.stream import BLOCK, NUM_WARPS, bf16_aot, exact
from kernels.triton_support import cdiv, require_dtype, tl, triton, triton_unsupported


@triton.jit
def _write_kernel(value_ptr, y_ptr, N, BLOCK: tl.constexpr):
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(value_ptr)
    tl.store(y_ptr + offsets, tl.zeros([BLOCK], dtype=value.dtype) + value, mask=offsets < N)


@torch.library.custom_op("chipscale::write", mutates_args=())
def write(value: torch.Tensor, size: int) -> torch.Tensor:
    """A tensor of that many elements, all equal to value[1]."""
    require_dtype("write", value.dtype)
    if value.numel() != 1:
        raise ValueError(f"write: value is one number, not of shape {tuple(value.shape)}.")
    if size < 1:
        raise ValueError(f"write: size is at least 1, not {size}.")
    y = value.new_empty(size)
    _write_kernel[(cdiv(size, BLOCK),)](value, y, size, BLOCK=BLOCK, num_warps=NUM_WARPS)
    return y


@write.register_fake
def _(value: torch.Tensor, size: int) -> torch.Tensor:
    return value.new_empty(size)


def _filled(size: int) -> Eager:
    """The function of a value that fills so many elements, for torch.compile."""

    def filled(value: torch.Tensor) -> torch.Tensor:
        return value.expand(size).clone(memory_format=torch.contiguous_format)

    return filled


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """(y,)."""
    return (_filled(problem["N"])(inputs["value"]),)


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    size_bytes = dtypes.size_bytes(problem.dtype)
    return Cost(flops=0, bytes_read=size_bytes, bytes_written=problem["N"] * size_bytes)


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """value[1], uniform from 1.0625 to 1.1875: never zero, and no number of 3 bits."""
    uniform = torch.rand(1, generator=generator, device=generator.device)
    return {"value": (1.0625 + 0.125 * uniform).to(dtypes.torch_dtype(problem.dtype))}


def _prepare_torch(problem: Problem, inputs: Inputs) -> Run:
    value = inputs["value"]
    number = value.item()
    return lambda: (value.new_full((problem["N"],), number),)


def _prepare_compile(problem: Problem, inputs: Inputs) -> Run:
    return prepare_compiled(_filled(problem["N"]), (inputs["value"],))


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    value, size = inputs["value"], problem["N"]
    return lambda: (write(value, size),)


AOT = (bf16_aot("write bf16", _write_kernel, "value", "y"),)

OP = Op(
    name="write",
    formula="y[N] = value[1]",
    source="LMbench, memory write, https://www.usenix.org/legacy/publications/library/proceedings/sd96/",
    axes=("N",),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD,),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=exact,
    impls=(
        # The number is a part of the call, as in everybody's code.
        Impl("torch", _prepare_torch, packs=("value",)),
        Impl("compile", _prepare_compile, compile_unsupported),
        Impl("triton", _prepare_triton, triton_unsupported),
    ),
)
