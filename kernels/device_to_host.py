"""Device to host: y[N] = x[N] with x in the device's memory and y in the host's pinned memory.

Shape letters: N elements. y is there before the copy, so that nothing is allocated in the sample.
Only `torch` has it: no kernel is run.
Counted: no FLOPs; N elements read from the device's memory. What is written lies in the host's, so
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
    return Cost(flops=0, bytes_read=num_bytes, bytes_written=0)


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """x[N], standard normal."""
    return random_inputs(problem, generator, "x")


def _prepare_torch(problem: Problem, inputs: Inputs) -> Run:
    del problem
    x = inputs["x"]
    y = torch.empty_like(x, device="cpu").pin_memory()
    # Who reads y waits for the device first, as the check and the timer do.
    return lambda: (y.copy_(x, non_blocking=True),)


OP = Op(
    name="device_to_host",
    formula="y[N] = x[N], y in the host's memory",
    source="bandwidthTest, https://github.com/NVIDIA/cuda-samples",
    axes=("N",),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD,),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=exact,
    impls=(Impl("torch", _prepare_torch, transfer_unsupported), *without_kernels()),
)
