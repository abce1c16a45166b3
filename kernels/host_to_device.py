"""Host to device: y[N] = x[N] with x in the host's pinned memory and y in the device's.

Shape letters: N elements. y is there before the copy, so that nothing is allocated in the sample.
Only `torch` has it: no kernel is run.
Counted: no FLOPs; N elements written to the device's memory. What is read lies in the host's, so
that bytes per second are those of the link, in one direction.
Source: the bandwidthTest sample of CUDA, https://github.com/NVIDIA/cuda-samples.
"""

import torch

from kernels import dtypes
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run
from kernels.stream import exact, random_inputs
from kernels.transfer import transfer_unsupported, without_kernels


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """(y,)."""
    del problem
    return (inputs["x"].clone(),)


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    num_bytes = problem["N"] * dtypes.size_bytes(problem.dtype)
    return Cost(flops=0, bytes_read=0, bytes_written=num_bytes)


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """x[N], standard normal, on the device; its copy in the host's memory is made untimed."""
    return random_inputs(problem, generator, "x")


def _prepare_torch(problem: Problem, inputs: Inputs) -> Run:
    del problem
    y = torch.empty_like(inputs["x"])
    x = inputs["x"].cpu().pin_memory()
    return lambda: (y.copy_(x, non_blocking=True),)


OP = Op(
    name="host_to_device",
    formula="y[N] = x[N], x in the host's memory",
    source="bandwidthTest, https://github.com/NVIDIA/cuda-samples",
    axes=("N",),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD,),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=exact,
    impls=(
        # Copied to the host's pinned memory beforehand.
        Impl("torch", _prepare_torch, transfer_unsupported, packs=("x",)),
        *without_kernels(),
    ),
)
