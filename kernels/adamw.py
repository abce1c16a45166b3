"""AdamW: one step on N parameters kept in fp32, and on the copy of them that the model uses.

Shape letters: N parameters. param, exp_avg and exp_avg_sq are fp32; grad and weight have the type
of the problem. With b1, b2 the decay rates and t the step:
    param      = param * (1 - lr * weight_decay)
    exp_avg    = b1 * exp_avg + (1 - b1) * grad
    exp_avg_sq = b2 * exp_avg_sq + (1 - b2) * grad^2
    param      = param - lr / (1 - b1^t) * exp_avg / (sqrt(exp_avg_sq) / sqrt(1 - b2^t) + eps)
    weight     = param in the type of the problem
The step is fixed at t = 10, where both bias corrections still matter.
Hyperparameters: b1 = 0.9, b2 = 0.95, eps = 1e-5, weight decay 0.1 from Llama 2, section 2.2,
https://arxiv.org/abs/2307.09288; lr = 8e-5, the peak of Llama 3 405B, section 3.4.1,
https://arxiv.org/abs/2407.21783.
Counted: 14 FLOPs per parameter (decay 1, exp_avg 3, exp_avg_sq 4, denominator 3, update 3), what is
the same for all parameters not counted. Bytes: param, both averages and grad read; param, both
averages and weight written.
Source: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2,
https://arxiv.org/abs/1711.05101, with the learning rate in the decay as in torch.optim.AdamW.
"""

import torch

from kernels import dtypes
from kernels.compiled import compile_unsupported, compiled
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run, Tolerance
from kernels.triton_support import (
    AotKernel,
    cdiv,
    require_contiguous,
    require_dtype,
    tl,
    triton,
    triton_unsupported,
)

LEARNING_RATE = 8e-5
BETA_1 = 0.9
BETA_2 = 0.95
EPS = 1e-5
WEIGHT_DECAY = 0.1
STEP = 10

_DECAY = 1 - LEARNING_RATE * WEIGHT_DECAY
_STEP_SIZE = LEARNING_RATE / (1 - BETA_1**STEP)
_ROOT_CORRECTION = (1 - BETA_2**STEP) ** 0.5

# 8 parameters per thread: two 16-byte accesses of each fp32 array, one of a 16-bit one. Five arrays
# are in flight, so more would cost registers and bring no more bytes in flight.
_BLOCK = 1024
_NUM_WARPS = 4

_OPERANDS = ("param", "exp_avg", "exp_avg_sq", "grad", "weight")


@triton.jit
def _adamw_kernel(
    param_ptr, exp_avg_ptr, exp_avg_sq_ptr, grad_ptr, weight_ptr, N,
    decay, beta_1, beta_2, step_size, root_correction, eps, BLOCK: tl.constexpr,
):  # fmt: skip
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < N
    param = tl.load(param_ptr + offsets, mask=mask, other=0.0)
    exp_avg = tl.load(exp_avg_ptr + offsets, mask=mask, other=0.0)
    exp_avg_sq = tl.load(exp_avg_sq_ptr + offsets, mask=mask, other=0.0)
    grad = tl.load(grad_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    exp_avg = beta_1 * exp_avg + (1.0 - beta_1) * grad
    exp_avg_sq = beta_2 * exp_avg_sq + (1.0 - beta_2) * grad * grad
    denominator = tl.sqrt(exp_avg_sq) / root_correction + eps
    param = param * decay - step_size * (exp_avg / denominator)
    tl.store(param_ptr + offsets, param, mask=mask)
    tl.store(exp_avg_ptr + offsets, exp_avg, mask=mask)
    tl.store(exp_avg_sq_ptr + offsets, exp_avg_sq, mask=mask)
    tl.store(weight_ptr + offsets, param.to(weight_ptr.dtype.element_ty), mask=mask)


@torch.library.custom_op(
    "chipscale::adamw", mutates_args=("param", "exp_avg", "exp_avg_sq", "weight")
)
def adamw(
    param: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    grad: torch.Tensor,
    weight: torch.Tensor,
) -> None:
    """Updates param[N], exp_avg[N] and exp_avg_sq[N] (fp32) and writes weight[N]."""
    state = {"param": param, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    require_contiguous("adamw", **state, grad=grad, weight=weight)
    require_dtype("adamw", torch.float32, **state)
    require_dtype("adamw", grad.dtype, weight=weight)
    num_elements = param.numel()
    _adamw_kernel[(cdiv(num_elements, _BLOCK),)](
        param, exp_avg, exp_avg_sq, grad, weight, num_elements,
        _DECAY, BETA_1, BETA_2, _STEP_SIZE, _ROOT_CORRECTION, EPS,
        BLOCK=_BLOCK, num_warps=_NUM_WARPS,
    )  # fmt: skip


@adamw.register_fake
def _(
    param: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    grad: torch.Tensor,
    weight: torch.Tensor,
) -> None:
    del param, exp_avg, exp_avg_sq, grad, weight


def eager(
    param: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    grad: torch.Tensor,
    weight: torch.Tensor,
) -> None:
    """The step in plain torch, in place, for torch.compile, which fuses it.

    The passes are those of the single-tensor path of torch.optim.AdamW.
    """
    grad = grad.float()
    param.mul_(_DECAY)
    exp_avg.lerp_(grad, 1 - BETA_1)
    exp_avg_sq.mul_(BETA_2).addcmul_(grad, grad, value=1 - BETA_2)
    denominator = (exp_avg_sq.sqrt() / _ROOT_CORRECTION).add_(EPS)
    param.addcdiv_(exp_avg, denominator, value=-_STEP_SIZE)
    weight.copy_(param)


def fused(
    params: list[torch.Tensor],
    exp_avgs: list[torch.Tensor],
    exp_avg_sqs: list[torch.Tensor],
    grads: list[torch.Tensor],
    weights: list[torch.Tensor],
    step: torch.Tensor,
) -> None:
    """The step of many parameters as eager torch does it best.

    That is what torch.optim.AdamW(fused=True) calls. It wants the gradient in the type of the
    parameters and leaves the copy to another pass: 40 bytes a parameter of a 16-bit type, where
    the passes of `eager` move 92 and the least are 28.
    """
    torch._fused_adamw_(
        params, [grad.float() for grad in grads], exp_avgs, exp_avg_sqs, [], [step] * len(params),
        lr=LEARNING_RATE, beta1=BETA_1, beta2=BETA_2, weight_decay=WEIGHT_DECAY, eps=EPS,
        amsgrad=False, maximize=False,
    )  # fmt: skip
    for weight, param in zip(weights, params, strict=True):
        weight.copy_(param)


def step_on(device: torch.device) -> torch.Tensor:
    """The number of the step as `fused` reads it."""
    return torch.full((), float(STEP), device=device)


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """New (param, exp_avg, exp_avg_sq, weight); the inputs stay."""
    del problem
    grad = inputs["grad"].to(inputs["param"].dtype)
    exp_avg = BETA_1 * inputs["exp_avg"] + (1 - BETA_1) * grad
    exp_avg_sq = BETA_2 * inputs["exp_avg_sq"] + (1 - BETA_2) * grad.square()
    denominator = exp_avg_sq.sqrt() / _ROOT_CORRECTION + EPS
    param = inputs["param"] * _DECAY - _STEP_SIZE * exp_avg / denominator
    return param, exp_avg, exp_avg_sq, param.to(inputs["weight"].dtype)


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    N = problem["N"]
    num_bytes = N * (3 * 4 + dtypes.size_bytes(problem.dtype))
    return Cost(flops=14 * N, bytes_read=num_bytes, bytes_written=num_bytes)


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """The five arrays of N; parameters as large as one update, so that a wrong update shows."""
    N = problem["N"]
    device = generator.device
    dtype = dtypes.torch_dtype(problem.dtype)

    def normal() -> torch.Tensor:
        return torch.randn(N, generator=generator, device=device)

    param = normal().mul_(LEARNING_RATE)
    return {
        "param": param,
        "exp_avg": normal(),
        # Away from zero, where a single update would dwarf all others and hide them in the norm.
        "exp_avg_sq": torch.rand(N, generator=generator, device=device).add_(0.5),
        "grad": normal().to(dtype),
        # Not a copy of param, so that an implementation that leaves it as it is shows.
        "weight": normal().to(dtype),
    }


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """The state takes a handful of roundings in fp32, the weight copy one more in its own type.

    The largest of many standard normals is about 6 times their root mean square.
    """
    fp32 = 4 * dtypes.epsilon("fp32")
    state = Tolerance(dtype="fp32", relative_error=fp32, max_error=8 * fp32, row_error=fp32)
    error = fp32 + dtypes.epsilon(problem.dtype)
    weight = Tolerance(
        dtype=problem.dtype, relative_error=error, max_error=8 * error, row_error=error
    )
    return state, state, state, weight


def _outputs(inputs: Inputs) -> Outputs:
    return inputs["param"], inputs["exp_avg"], inputs["exp_avg_sq"], inputs["weight"]


def _prepare_torch(problem: Problem, inputs: Inputs) -> Run:
    del problem
    param, exp_avg, exp_avg_sq, grad, weight = (inputs[name] for name in _OPERANDS)
    step = step_on(param.device)

    def run() -> Outputs:
        fused([param], [exp_avg], [exp_avg_sq], [grad], [weight], step)
        return _outputs(inputs)

    return run


def _fused_unsupported(problem: Problem, device: torch.device) -> str | None:
    del problem
    # Those of `torch.optim.AdamW(fused=True)` in torch 2.11.
    if device.type in ("cpu", "cuda", "mps", "xpu"):
        return None
    return f"torch has no fused AdamW for {device.type}."


def _prepare_compile(problem: Problem, inputs: Inputs) -> Run:
    del problem
    operands = tuple(inputs[name] for name in _OPERANDS)
    step = compiled(eager)
    # Compiles on copies: preparing is no step.
    step(*(tensor.clone() for tensor in operands))

    def run() -> Outputs:
        step(*operands)
        return _outputs(inputs)

    return run


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    del problem
    operands = tuple(inputs[name] for name in _OPERANDS)

    def run() -> Outputs:
        adamw(*operands)
        return _outputs(inputs)

    return run


AOT = (
    AotKernel(
        label="adamw bf16",
        kernel=_adamw_kernel,
        signature={
            "param_ptr": "*fp32:16", "exp_avg_ptr": "*fp32:16", "exp_avg_sq_ptr": "*fp32:16",
            "grad_ptr": "*bf16:16", "weight_ptr": "*bf16:16", "N": "i64:16",
            "decay": "fp32", "beta_1": "fp32", "beta_2": "fp32", "step_size": "fp32",
            "root_correction": "fp32", "eps": "fp32", "BLOCK": "constexpr",
        },
        constexprs={"BLOCK": _BLOCK},
        num_warps=_NUM_WARPS,
        num_stages=1,
    ),
)  # fmt: skip

OP = Op(
    name="adamw",
    formula="param[N], exp_avg[N], exp_avg_sq[N], weight[N] = adamw(..., grad[N])",
    source="Loshchilov and Hutter 2019, algorithm 2, https://arxiv.org/abs/1711.05101",
    axes=("N",),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD,),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        Impl("torch", _prepare_torch, _fused_unsupported),
        Impl("compile", _prepare_compile, compile_unsupported),
        Impl("triton", _prepare_triton, triton_unsupported),
    ),
    mutates=("param", "exp_avg", "exp_avg_sq", "weight"),
    # What is divided by: with zeros in it, a few updates dwarf all others.
    fixed=("exp_avg_sq",),
)
