"""What the norms share: rows held in registers, and gradients of weights summed strip by strip.

The backward pass deals the rows to strips. Each strip adds its rows in fp32 in registers and writes
its sum once; a second kernel adds the strips. Both go in a fixed order, so that a gradient comes
out the same in every run, as it would not with atomics.
"""

import torch

from kernels import triton_support
from kernels.op import Problem
from kernels.triton_support import AotKernel, next_power_of_2, tl, triton

# A row is held in registers: 65536 fp32 values are 64 per thread at 1024 threads, the most before
# they spill. The widest published model has H = 18432.
MAX_BLOCK_H = 65536

# Rows are dealt to this many programs in the backward pass, each of which keeps its own sum for dw
# and writes it once. Two for each of an H100's 132 SMs; on MI300 (304) most units get one.
NUM_STRIPS = 264

# Columns and strips of the partial sums that one program of the second step reads at a time:
# 128 bytes of fp32 per row, a full cache line.
SUM_BLOCK_H = 32
SUM_BLOCK_P = 64

# The width of a row in the kernels that are compiled ahead of time: that of Llama-3.1 8B.
AOT_BLOCK_H = 4096


def num_warps(block_h: int) -> int:
    """16 elements per thread, so that a 16-bit row is loaded in two 16-byte accesses."""
    return min(max(block_h // 512, 1), 16)


@triton.jit
def sum_strips_kernel(partial_ptr, dw_ptr, P, H, BLOCK_P: tl.constexpr, BLOCK_H: tl.constexpr):
    """dw[H] from partial[P,H] in fp32."""
    columns = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    total = tl.zeros([BLOCK_P, BLOCK_H], dtype=tl.float32)
    for first in range(0, P, BLOCK_P):
        strips = first + tl.arange(0, BLOCK_P)
        mask = (strips < P)[:, None] & (columns < H)[None, :]
        offsets = strips[:, None].to(tl.int64) * H + columns[None, :]
        total += tl.load(partial_ptr + offsets, mask=mask, other=0.0)
    dw = tl.sum(total, axis=0)
    tl.store(dw_ptr + columns, dw.to(dw_ptr.dtype.element_ty), mask=columns < H)


def row_unsupported(problem: Problem, device: torch.device) -> str | None:
    """Why no Triton kernel that holds a row can run the problem, or None if one can."""
    if next_power_of_2(problem["H"]) > MAX_BLOCK_H:
        return f"A row is held in registers, which ends at H={MAX_BLOCK_H}; H={problem['H']}."
    return triton_support.unsupported(device)


def sum_strips_aot(label: str) -> AotKernel:
    """The sum of strips as a norm launches it."""
    return AotKernel(
        label=label,
        kernel=sum_strips_kernel,
        signature={
            "partial_ptr": "*fp32:16",
            "dw_ptr": "*bf16:16",
            "P": "i32",
            "H": "i32:16",
            "BLOCK_P": "constexpr",
            "BLOCK_H": "constexpr",
        },
        constexprs={"BLOCK_P": SUM_BLOCK_P, "BLOCK_H": SUM_BLOCK_H},
        num_warps=4,
        num_stages=3,
        small=("dw_ptr",),
    )
