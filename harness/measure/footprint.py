"""How much memory a case needs, known before anything of it is made.

Shapes and types of the inputs are found by drawing them on torch's device `meta`, which holds no
numbers. An op that draws again until its numbers fit cannot be drawn so; its cost says how many
bytes it reads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from harness.device.base import Device
from harness.device.host_memory import available_memory_bytes
from harness.measure.policy import Cache, MeasurePolicy
from harness.units import capacity
from kernels import dtypes
from kernels.op import Op, Problem

FP64_BYTES = 8

Outline = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and type of each input."""


class NotEnoughMemory(MemoryError):  # noqa: N818 - it is a state, told as one
    """What a case needs is more than there is; the text says how much of both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Least bytes of a problem; what an implementation needs beside them is not known before."""

    inputs: int
    """Of one set, with the copies of those that a run overwrites."""
    outputs: int
    """Beside those that are inputs which are overwritten."""
    exact_inputs: int
    """Copies in fp64, from which the reference is computed."""
    exact_outputs: int
    """The reference of one set."""


def outline(op: Op, problem: Problem) -> Outline | None:
    """The inputs without their numbers, or None where the numbers decide."""
    # Keyed by the function: an op that is replaced, as in a test, makes inputs of its own.
    return _outline(op.make_inputs, problem)


@lru_cache(maxsize=256)
def _outline(
    make_inputs: Callable[[Problem, torch.Generator], dict[str, torch.Tensor]], problem: Problem
) -> Outline | None:
    try:
        with _OnMeta():
            inputs = make_inputs(problem, torch.Generator())
    except Exception:
        # A size that the op refuses is refused again, with its words, where inputs are made.
        return None
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in inputs.items()}


def footprint(op: Op, problem: Problem) -> Footprint:
    """The least memory of the problem; computed in a millisecond."""
    cost = op.cost(problem)
    found = outline(op, problem)
    if found is None:
        return Footprint(
            inputs=cost.bytes_read,
            outputs=cost.bytes_written,
            exact_inputs=cost.bytes_read,
            exact_outputs=cost.bytes_written,
        )
    sizes = {name: prod(shape) * dtype.itemsize for name, (shape, dtype) in found.items()}
    overwritten = sum(size for name, size in sizes.items() if name in op.mutates)
    outputs = max(0, cost.bytes_written - overwritten)
    # An output has at least an element for every 8 bytes of the widest type it may have.
    types = [dtypes.torch_dtype(one.dtype).itemsize for one in op.tolerance(problem)]
    widest = max(types, default=FP64_BYTES)
    return Footprint(
        inputs=sum(sizes.values()) + overwritten,
        outputs=outputs,
        exact_inputs=sum(
            prod(shape) * (FP64_BYTES if dtype.is_floating_point else dtype.itemsize)
            for shape, dtype in found.values()
        ),
        exact_outputs=(outputs + overwritten) // widest * FP64_BYTES,
    )


def num_wanted_sets(policy: MeasurePolicy) -> int:
    """How many sets of inputs the policy asks for; in a hot cache there is one, which stays."""
    return policy.num_input_sets if policy.cache is Cache.COLD else 1


def require_host_memory(op: Op, problem: Problem) -> None:
    """Make sure that the reference can be computed on the host.

    Raises:
        NotEnoughMemory: when it would not fit, and the system would kill the worker.
    """
    needed = footprint(op, problem)
    exact = needed.exact_inputs + needed.exact_outputs
    _sets_within(available_memory_bytes(), 1, 0, exact, "the fp64 reference on the host")


def affordable_sets(op: Op, problem: Problem, device: Device, wanted: int) -> int:
    """How many sets of inputs there is memory for, at most as many as are wanted.

    Raises:
        NotEnoughMemory: when there is not enough for one.
    """
    needed = footprint(op, problem)
    free = device.available_memory_bytes()
    if device.info.torch_device_type == "fake":
        return _sets_within(free, wanted, needed.inputs, needed.outputs, "inputs and outputs")
    # The values of two sets are compared with their references, however many sets there are.
    exact = 2 * needed.exact_outputs
    if device.torch_device.type != "cuda":
        # Where the device may not know fp64, the references are computed on the host.
        exact += needed.exact_inputs
    if device.torch_device.type == "cpu":
        what = "inputs, outputs and their fp64 references"
        return _sets_within(free, wanted, needed.inputs, needed.outputs + exact, what)
    host_free = available_memory_bytes()
    _sets_within(host_free, 1, 0, exact, "fp64 references on the host")
    return _sets_within(free, wanted, needed.inputs, needed.outputs, "inputs and outputs")


SHARE_FOR_MORE_SETS = 0.5
"""Of the free memory: further sets of inputs are taken only as far as this goes, so that no case
that fits with one set fails for the sake of a second."""


def _sets_within(free: int | None, wanted: int, each: int, beside: int, what: str) -> int:
    """How many times `each` fits into the free bytes with what is needed beside."""
    if free is None:
        return wanted
    if each + beside > free:
        raise NotEnoughMemory(
            f"needs at least {capacity(each + beside)} for {what}, {capacity(free)} are free"
        )
    # What implementations hold between, and the outputs of all that take turns, must fit as well.
    roomy = int(SHARE_FOR_MORE_SETS * free) - beside
    return wanted if each == 0 else max(1, min(wanted, roomy // each))


_FACTORIES = frozenset(
    {torch.arange, torch.empty, torch.eye, torch.full, torch.ones, torch.tensor, torch.zeros}
)
_DRAWS = frozenset({torch.rand, torch.randn})


class _OnMeta(TorchFunctionMode):
    """Makes every tensor on `meta`, whatever device is named, and draws nothing.

    What draws is replaced by `torch.empty`: torch's own for `meta` are written in Python and
    import 500 modules, which takes a second.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        kwargs.pop("generator", None)
        if func in _FACTORIES or func in _DRAWS:
            kwargs["device"] = "meta"
            return (torch.empty if func in _DRAWS else func)(*args, **kwargs)
        if func in (torch.randint, torch.randperm):
            dtype = kwargs.get("dtype", torch.int64)
            size = args[-1] if func is torch.randint else (args[0],)
            return torch.empty(size, dtype=dtype, device="meta")
        if func in (torch.Tensor.cpu, torch.Tensor.cuda):
            return args[0]
        if func is torch.Tensor.to:
            kwargs.pop("device", None)
            args = (args[0], *(each for each in args[1:] if not isinstance(each, torch.device)))
            if len(args) == 1 and not kwargs:
                return args[0]
        return func(*args, **kwargs)
