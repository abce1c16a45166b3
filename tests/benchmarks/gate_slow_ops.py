"""Implementations that are really slower, added to every op of a copied tree.

`torch_slow_0.05` does what `torch` does and then work of its own, as much as takes 5 % of the time:
additions on a tensor that stays in the first-level cache, counted out when it is made ready. The
copied `kernels/registry.py` ends with `load = slowed(load)`.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch

from kernels.op import Impl, Inputs, Op, Outputs, Problem, Run

LEVELS = (0.03, 0.05, 0.10, 0.20)
BURN_ELEMENTS = 1024
WARM_UP, COUNTED = 3, 15
"""Runs before and while the time of the op and of the extra work are held against each other."""
UNITS = 32
"""Additions that are timed together, so that the timer's own cost is no part of one."""


def slowed(load: Callable[[str], Op]) -> Callable[[str], Op]:
    """The registry's `load`, its ops with a slower implementation for each level."""

    @cache
    def load_slowed(name: str) -> Op:
        op = load(name)
        torch_impl = op.impl("torch")
        return replace(op, impls=(*op.impls, *(_slower(torch_impl, level) for level in LEVELS)))

    return load_slowed


def _slower(impl: Impl, level: float) -> Impl:
    def prepare(problem: Problem, inputs: Inputs) -> Run:
        run = impl.prepare(problem, inputs)
        tensor = torch.ones(BURN_ELEMENTS)
        count = _count(run, tensor, level)

        def slower() -> Outputs:
            outputs = run()
            _burn(tensor, count)
            return outputs

        return slower

    return Impl(name=f"{impl.name}_slow_{level:g}", prepare=prepare, unsupported=impl.unsupported)


def _burn(tensor: torch.Tensor, count: int) -> None:
    for _ in range(count):
        tensor.add_(1.0)


def _count(run: Run, tensor: torch.Tensor, level: float) -> int:
    """Additions that take `level` of the time of a run, both timed in turns."""
    runs_s, burns_s = [], []
    for _ in range(WARM_UP + COUNTED):
        began_s = time.perf_counter()
        run()
        ran_s = time.perf_counter()
        _burn(tensor, UNITS)
        runs_s.append(ran_s - began_s)
        burns_s.append(time.perf_counter() - ran_s)
    run_s = statistics.median(runs_s[WARM_UP:])
    burn_s = statistics.median(burns_s[WARM_UP:]) / UNITS
    return max(1, round(level * run_s / burn_s))
