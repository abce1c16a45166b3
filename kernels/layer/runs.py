"""The implementations of a whole layer: its definition run by one set of operations."""

from functools import partial
from typing import Protocol

import torch

from kernels import adamw, registry
from kernels.compiled import compiled
from kernels.layer.block import STATE, Block, Function, gradients_of
from kernels.layer.operations import CUSTOM, TORCH, Operations
from kernels.op import Impl, Inputs, Mode, Outputs, Problem, Run

Tensors = list[torch.Tensor]


def impls(block: Block) -> tuple[Impl, Impl, Impl]:
    """`torch`, `compile` and `triton`."""

    def prepare(problem: Problem, inputs: Inputs, operations: Operations) -> Run:
        _use_full_fp32()
        update = _fused_update if operations is TORCH else _custom_update
        return _run(block, problem, inputs, block.function(problem, operations), update)

    def prepare_torch(problem: Problem, inputs: Inputs) -> Run:
        return prepare(problem, inputs, TORCH)

    def prepare_triton(problem: Problem, inputs: Inputs) -> Run:
        return prepare(problem, inputs, CUSTOM)

    def prepare_compile(problem: Problem, inputs: Inputs) -> Run:
        _use_full_fp32()
        function = compiled(block.function(problem, TORCH))
        update = compiled(_plain_update)
        # Compiles on copies: preparing is no step.
        copies = {name: tensor.clone() for name, tensor in inputs.items()}
        _run(block, problem, copies, function, update)()
        return _run(block, problem, inputs, function, update)

    def unsupported(problem: Problem, device: torch.device, name: str) -> str | None:
        """What the first part says that cannot run."""
        for part in block.parts(problem):
            reason = registry.load(part.op).impl(name).unsupported(part, device)
            if reason is not None:
                return reason
        return None

    return (
        Impl("torch", prepare_torch),
        Impl("compile", prepare_compile, partial(unsupported, name="compile")),
        Impl("triton", prepare_triton, partial(unsupported, name="triton")),
    )


def _use_full_fp32() -> None:
    # A library in the same process may have allowed tf32, and fp32 here means fp32.
    torch.set_float32_matmul_precision("highest")


def _run(
    block: Block, problem: Problem, inputs: Inputs, function: Function, update: "_Update"
) -> Run:
    if problem.mode != Mode.TRAINING:
        tensors = dict(inputs)
        return lambda: function(tensors)
    step = gradients_of(block, problem, function, inputs)
    # By kind, and then by weight.
    states = [
        [view.flatten() for view in block.views(problem, inputs[name]).values()] for name in STATE
    ]
    judged = block.judged(problem, inputs)

    def run() -> Outputs:
        y, dx, gradients = step()
        update(states, [gradient.reshape(-1) for gradient in gradients])
        return (y, dx, *judged)

    return run


class _Update(Protocol):
    def __call__(self, states: list[Tensors], gradients: Tensors, /) -> None:
        """Updates all params, exp_avgs, exp_avg_sqs and weights with their gradients."""


def _fused_update(states: list[Tensors], gradients: Tensors) -> None:
    params, exp_avgs, exp_avg_sqs, weights = states
    step = adamw.step_on(params[0].device)
    adamw.fused(params, exp_avgs, exp_avg_sqs, gradients, weights, step)


def _plain_update(states: list[Tensors], gradients: Tensors) -> None:
    params, exp_avgs, exp_avg_sqs, weights = states
    for one in zip(params, exp_avgs, exp_avg_sqs, gradients, weights, strict=True):
        adamw.eager(*one)


def _custom_update(states: list[Tensors], gradients: Tensors) -> None:
    params, exp_avgs, exp_avg_sqs, weights = states
    for one in zip(params, exp_avgs, exp_avg_sqs, gradients, weights, strict=True):
        adamw.adamw(*one)
