"""Cross entropy of each token: loss[T] = logsumexp(logits[T,V]) - logits[T, targets[T]].

Shape letters: T tokens, V vocabulary. targets[T] are int64 in [0, V); there is no ignored class.
The loss is fp32 whatever the logits are, one value per token: the mean over tokens is another op.
Backward, from a gradient dloss[T] (fp32) of each token:
    dlogits = (exp(logits - lse) - onehot(targets)) * dloss,  lse = logsumexp(logits).
The Triton forward pass saves lse, so that its backward pass reads the logits once.
Counted: forward 4 FLOPs per logit (maximum, subtract, exp, add), backward 3 (subtract, exp,
multiply). Bytes: forward logits and targets read, loss written; backward logits, targets and dloss
read, dlogits written; lse is an implementation's own.
Source: the online softmax of Milakov and Gimelshein 2018, algorithm 3,
https://arxiv.org/abs/1805.02867.
"""

from typing import Any

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

# 16 logits per thread, two 16-byte loads in a 16-bit type, between two reductions over the block;
# a vocabulary of 128256 takes 32 of them.
_MAX_BLOCK_V = 4096
_NUM_WARPS = 8

# Spread of the random logits. With 3 about exp(9) = 8000 classes' worth of probability is uneven,
# so that wrong probabilities show in the norm of dlogits and not only its entries at the targets.
_LOGIT_SCALE = 3.0


@triton.jit
def _forward_kernel(logits_ptr, targets_ptr, loss_ptr, lse_ptr, V, BLOCK_V: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * V
    columns = tl.arange(0, BLOCK_V)
    peak = -float("inf")
    total = 0.0
    for first in range(0, V, BLOCK_V):
        mask = columns < V - first
        x = tl.load(logits_ptr + first + columns, mask=mask, other=-float("inf")).to(tl.float32)
        new_peak = tl.maximum(peak, tl.max(x, axis=0))
        total = total * tl.exp(peak - new_peak) + tl.sum(tl.exp(x - new_peak), axis=0)
        peak = new_peak
    lse = peak + tl.log(total)
    target = tl.load(targets_ptr + row)
    tl.store(loss_ptr + row, lse - tl.load(logits_ptr + target).to(tl.float32))
    tl.store(lse_ptr + row, lse)


@triton.jit
def _backward_kernel(
    dloss_ptr, logits_ptr, targets_ptr, lse_ptr, dlogits_ptr, V, BLOCK_V: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    mask = columns < V
    dloss = tl.load(dloss_ptr + row)
    lse = tl.load(lse_ptr + row)
    target = tl.load(targets_ptr + row)
    x = tl.load(logits_ptr + row * V + columns, mask=mask, other=-float("inf")).to(tl.float32)
    dlogits = (tl.exp(x - lse) - tl.where(columns == target, 1.0, 0.0)) * dloss
    dlogits_ptrs = dlogits_ptr + row * V + columns
    tl.store(dlogits_ptrs, dlogits.to(dlogits_ptr.dtype.element_ty), mask=mask)


def _check(logits: torch.Tensor, targets: torch.Tensor, **per_token: torch.Tensor) -> None:
    require_contiguous("cross_entropy", logits=logits, targets=targets, **per_token)
    require_dtype("cross_entropy", logits.dtype)
    require_dtype("cross_entropy", torch.float32, **per_token)
    if targets.dtype != torch.int64:
        raise ValueError(f"cross_entropy: targets are {targets.dtype}, but must be torch.int64.")
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(
            "cross_entropy: logits[T,V] and targets[T] are expected, "
            f"not {tuple(logits.shape)} and {tuple(targets.shape)}."
        )


def _block_v(V: int) -> int:
    return min(next_power_of_2(V), _MAX_BLOCK_V)


@torch.library.custom_op("chipscale::cross_entropy", mutates_args=())
def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss[T], lse[T]) in fp32 from logits[T,V] and targets[T]; only loss has a gradient."""
    _check(logits, targets)
    T, V = logits.shape
    loss = logits.new_empty(T, dtype=torch.float32)
    lse = torch.empty_like(loss)
    _forward_kernel[(T,)](logits, targets, loss, lse, V, BLOCK_V=_block_v(V), num_warps=_NUM_WARPS)
    return loss, lse


@cross_entropy.register_fake
def _(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    del targets
    loss = logits.new_empty(logits.shape[0], dtype=torch.float32)
    return loss, torch.empty_like(loss)


@torch.library.custom_op("chipscale::cross_entropy_backward", mutates_args=())
def cross_entropy_backward(
    dloss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, lse: torch.Tensor
) -> torch.Tensor:
    """dlogits[T,V] from dloss[T], the operands, and lse[T] of the forward pass."""
    _check(logits, targets, dloss=dloss, lse=lse)
    T, V = logits.shape
    dlogits = torch.empty_like(logits)
    block_v = _block_v(V)
    _backward_kernel[(T, cdiv(V, block_v))](
        dloss, logits, targets, lse, dlogits, V, BLOCK_V=block_v, num_warps=_NUM_WARPS
    )
    return dlogits


@cross_entropy_backward.register_fake
def _(
    dloss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, lse: torch.Tensor
) -> torch.Tensor:
    del dloss, targets, lse
    return torch.empty_like(logits)


def _save(
    ctx: Any,
    inputs: tuple[torch.Tensor, torch.Tensor],
    output: tuple[torch.Tensor, torch.Tensor],
) -> None:
    _, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(*inputs, lse)


def _backward(ctx: Any, dloss: torch.Tensor, dlse: torch.Tensor) -> tuple[torch.Tensor, None]:
    del dlse
    logits, targets, lse = ctx.saved_tensors
    return cross_entropy_backward(dloss.contiguous(), logits, targets, lse), None


cross_entropy.register_autograd(_backward, setup_context=_save)


def _eager(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")


def _formula(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return logits.logsumexp(dim=1) - logits.gather(1, targets[:, None])[:, 0]


reference = reference_from(_formula, ("logits", "targets"), "dloss")


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    T = problem["T"]
    num_logits = T * problem["V"]
    logits_bytes = num_logits * dtypes.size_bytes(problem.dtype)
    targets_bytes, token_bytes = 8 * T, 4 * T
    if problem.mode == Mode.FORWARD:
        return Cost(
            flops=4 * num_logits,
            bytes_read=logits_bytes + targets_bytes,
            bytes_written=token_bytes,
        )
    return Cost(
        flops=3 * num_logits,
        bytes_read=logits_bytes + targets_bytes + token_bytes,
        bytes_written=logits_bytes,
    )


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """logits[T,V] and targets[T], and for the backward mode dloss[T], standard normal."""
    T, V = problem["T"], problem["V"]
    device = generator.device
    dtype = dtypes.torch_dtype(problem.dtype)
    logits = torch.randn(T, V, generator=generator, device=device, dtype=dtype)
    inputs = {
        "logits": logits.mul_(_LOGIT_SCALE),
        "targets": torch.randint(V, (T,), generator=generator, device=device),
    }
    if problem.mode == Mode.BACKWARD:
        inputs["dloss"] = torch.randn(T, generator=generator, device=device)
    return inputs


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """The loss is an fp32 sum over V whatever the logits are; dlogits are rounded to their type.

    The largest dlogits, at the targets, are sqrt(V) times their root mean square.
    """
    length = problem["V"] ** 0.5
    growth = dtypes.epsilon("fp32") * (4 + length)
    if problem.mode == Mode.FORWARD:
        loss = Tolerance(
            dtype="fp32", relative_error=growth, max_error=8 * growth, row_error=growth
        )
        return (loss,)
    error = dtypes.epsilon(problem.dtype) + growth
    return (
        Tolerance(
            dtype=problem.dtype,
            relative_error=2 * error,
            max_error=4 * error * length,
            row_error=3 * error,
        ),
    )


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    logits, targets = inputs["logits"], inputs["targets"]
    if problem.mode == Mode.FORWARD:
        return lambda: (cross_entropy(logits, targets)[0],)
    dloss = inputs["dloss"]
    _, lse = cross_entropy(logits, targets)
    return lambda: (cross_entropy_backward(dloss, logits, targets, lse),)


AOT = (
    AotKernel(
        label="cross_entropy forward bf16",
        kernel=_forward_kernel,
        signature={
            "logits_ptr": "*bf16:16",
            "targets_ptr": "*i64:16",
            "loss_ptr": "*fp32:16",
            "lse_ptr": "*fp32:16",
            "V": "i32:16",
            "BLOCK_V": "constexpr",
        },
        constexprs={"BLOCK_V": _MAX_BLOCK_V},
        num_warps=_NUM_WARPS,
        num_stages=3,
    ),
    AotKernel(
        label="cross_entropy backward bf16",
        kernel=_backward_kernel,
        signature={
            "dloss_ptr": "*fp32:16",
            "logits_ptr": "*bf16:16",
            "targets_ptr": "*i64:16",
            "lse_ptr": "*fp32:16",
            "dlogits_ptr": "*bf16:16",
            "V": "i32:16",
            "BLOCK_V": "constexpr",
        },
        constexprs={"BLOCK_V": _MAX_BLOCK_V},
        num_warps=_NUM_WARPS,
        num_stages=3,
    ),
)

OP = Op(
    name="cross_entropy",
    formula="loss[T] = logsumexp(logits[T,V]) - logits[T, targets[T]]",
    source="Milakov and Gimelshein 2018, algorithm 3, https://arxiv.org/abs/1805.02867",
    axes=("T", "V"),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD, Mode.BACKWARD),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        *eager_impls(_eager, ("logits", "targets"), "dloss"),
        Impl("triton", _prepare_triton, triton_unsupported),
    ),
)
