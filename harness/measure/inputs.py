"""What the inputs of a case hold: drawn numbers, zeros, or half of each; and what of it may change.

Integers are indices, lengths and offsets, and `Op.fixed` names the floating inputs that decide
how data is used. Both stay as they are drawn; everything else is data, codes of 8 and of 4 bits
included.
"""

import math
from dataclasses import replace

import torch

from harness.measure.footprint import outline
from harness.measure.policy import MeasurePolicy, Values
from kernels.op import Mode, Op, Problem, Tolerance

Tensors = dict[str, torch.Tensor]

INDEX_TYPES = (torch.int32, torch.int64)

SPARSE_SEED = 1_000_000_007
"""Added to the seed of the inputs for the choice of those that are zero, so that this choice has
nothing to do with what was drawn. A prime, far from any seed that somebody writes down."""


def draw(
    op: Op, problem: Problem, policy: MeasurePolicy, device: torch.device, nth: int
) -> Tensors:
    """The nth set of inputs of the policy on that device; the first is the 0th."""
    seed = policy.seed + nth
    drawing = _generator(device, seed)
    inputs = op.make_inputs(problem, drawing)
    if policy.inputs is not Values.NORMAL:
        chosen = _generator(device, SPARSE_SEED + seed)
        # One tensor may have two names: a weight and its copy in the same type.
        tensors = {inputs[name].data_ptr(): inputs[name] for name in data_names(op, inputs)}
        for tensor in tensors.values():
            if policy.inputs is Values.ZEROS:
                tensor.view(torch.uint8).zero_()
            else:
                _zero_half(tensor, chosen)
    if drawing.device.type == device.type:
        return inputs
    moved = {id(tensor): tensor.to(device) for tensor in inputs.values()}
    return {name: moved[id(tensor)] for name, tensor in inputs.items()}


def _generator(device: torch.device, seed: int) -> torch.Generator:
    """The device's own, or the host's where a back-end has none and its inputs are moved there."""
    try:
        return torch.Generator(device).manual_seed(seed)
    except RuntimeError:
        return torch.Generator().manual_seed(seed)


def data_names(op: Op, inputs: Tensors) -> tuple[str, ...]:
    """Names of the inputs that are data."""
    return tuple(
        name
        for name, tensor in inputs.items()
        if tensor.dtype not in INDEX_TYPES and name not in op.fixed
    )


def changing_names(op: Op, problem: Problem, inputs: Tensors) -> tuple[str, ...]:
    """Names of the data in which the sets of inputs of a problem differ.

    A backward pass starts from what the forward pass has left, which is computed once, so its sets
    differ in the gradients that it starts from.
    """
    names = data_names(op, inputs)
    if problem.mode is not Mode.BACKWARD:
        return names
    forward = Problem(op.name, problem.axes, problem.dtype, Mode.FORWARD, problem.variant)
    operands = outline(op, forward)
    assert operands is not None, f"{op.name}: inputs of the forward pass depend on their values"
    return tuple(name for name in names if name not in operands)


def tolerances(op: Op, problem: Problem, policy: MeasurePolicy) -> tuple[Tolerance, ...]:
    """How far each output may be from its reference, given what the inputs hold.

    Where half of the data is zero, the root mean square of a result is smaller by up to sqrt(2),
    and an error that does not shrink with it, as the rounding to whole numbers, weighs that more.
    """
    found = op.tolerance(problem)
    if policy.inputs is not Values.SPARSE:
        return found
    return tuple(
        replace(
            one,
            relative_error=math.sqrt(2) * one.relative_error,
            max_error=math.sqrt(2) * one.max_error,
            row_error=math.sqrt(2) * one.row_error,
        )
        for one in found
    )


def _zero_half(tensor: torch.Tensor, generator: torch.Generator) -> None:
    """Make each element zero with a probability of one half."""

    def heads() -> torch.Tensor:
        found = torch.empty(tensor.shape, dtype=torch.bool, device=tensor.device)
        return found.bernoulli_(0.5, generator=generator)

    if tensor.dtype is torch.uint8:
        # Two codes of 4 bits, each kept or not.
        kept = heads().to(torch.uint8) * 0x0F + heads().to(torch.uint8) * 0xF0
        tensor.bitwise_and_(kept)
    else:
        # Those of 8 bits by their bits, since devices compute little with them.
        bits = tensor.view(torch.uint8) if tensor.itemsize == 1 else tensor
        bits.masked_fill_(heads(), 0)


def checksum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of the bits as integers of 64, which wraps: any one element that changes shows."""
    bits = tensor.detach().reshape(-1).view(torch.uint8)
    whole = bits.numel() // 8 * 8
    return bits[:whole].view(torch.int64).sum() + bits[whole:].sum(dtype=torch.int64)
