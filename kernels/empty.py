"""Empty: a kernel that is given x[N] and does nothing, so that its time is that of a launch.

Shape letters: N elements of the tensor that the kernel is given; 1 is the usual size.
There is no result to be right or wrong. `triton` launches a kernel without an instruction of its
own. torch has none such: `torch` negates x into memory that is already there, and `compile`
negates x into new memory, so each is the least launch that its way has; for N = 1 the arithmetic
takes nothing beside the launch. The sample is what the device spends between two events; the host's
own time for the call is `enqueue_s` of the record.
Counted: no FLOPs and no bytes, whatever an implementation has to do to launch at all.
Source: the null kernel of NVIDIA's and others' launch tests, as in Jia et al. 2018, "Dissecting the
NVIDIA Volta GPU Architecture via Microbenchmarking", https://arxiv.org/abs/1804.06826.
"""

import torch

from kernels import dtypes
from kernels.compiled import compile_unsupported, prepare_compiled
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run, Tolerance
from kernels.triton_support import AotKernel, require_contiguous, triton, triton_unsupported


@triton.jit
def _empty_kernel(x_ptr):
    pass


@torch.library.custom_op("chipscale::empty", mutates_args=())
def empty(x: torch.Tensor) -> None:
    """Launches one program that does nothing."""
    require_contiguous("empty", x=x)
    _empty_kernel[(1,)](x, num_warps=1)


@empty.register_fake
def _(x: torch.Tensor) -> None:
    del x


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """()."""
    del problem, inputs
    return ()


def cost(problem: Problem) -> Cost:
    """Nothing."""
    del problem
    return Cost(flops=0, bytes_read=0, bytes_written=0)


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """x[N], standard normal."""
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device
    return {"x": torch.randn(problem["N"], generator=generator, device=device, dtype=dtype)}


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """There is no output."""
    del problem
    return ()


def _negated(x: torch.Tensor) -> torch.Tensor:
    return -x


def _prepare_torch(problem: Problem, inputs: Inputs) -> Run:
    del problem
    x = inputs["x"]
    y = torch.empty_like(x)

    def run() -> Outputs:
        torch.neg(x, out=y)
        return ()

    return run


def _prepare_compile(problem: Problem, inputs: Inputs) -> Run:
    del problem
    negated = prepare_compiled(_negated, (inputs["x"],))

    def run() -> Outputs:
        negated()
        return ()

    return run


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    del problem
    x = inputs["x"]

    def run() -> Outputs:
        empty(x)
        return ()

    return run


AOT = (
    AotKernel(
        label="empty",
        kernel=_empty_kernel,
        signature={"x_ptr": "*fp32:16"},
        constexprs={},
        num_warps=1,
        num_stages=1,
    ),
)

OP = Op(
    name="empty",
    formula="() of x[N]",
    source="Jia et al. 2018, launch overhead, https://arxiv.org/abs/1804.06826",
    axes=("N",),
    dtypes=("fp32",),
    modes=(Mode.FORWARD,),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        Impl("torch", _prepare_torch),
        Impl("compile", _prepare_compile, compile_unsupported),
        Impl("triton", _prepare_triton, triton_unsupported),
    ),
)
