"""Case: a problem, an implementation and why it is run; and the stable order of many of them."""

from collections.abc import Iterable
from dataclasses import dataclass

from kernels.op import Problem

ROOF_ROLE = "roof"
"""The role of the cases whose best rates are the measured roofs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a suite asks for: this problem, computed this way."""

    problem: Problem
    impl: str
    roles: tuple[str, ...] = ()
    """What the problem stands for in the suite: `roof`, `training`, `prefill`, `decode`."""

    @property
    def id(self) -> str:
        """A stable, unique name: `gemm.bf16.forward[M=512,N=768,K=4096]/triton`."""
        return f"{self.problem.id}/{self.impl}"


def distinct(cases: Iterable[Case]) -> tuple[Case, ...]:
    """Each problem and implementation once, in first-seen order, the roles of repeats joined.

    The implementations of one problem come next to each other, so that they share inputs and
    see the same state of the chip.
    """
    found: dict[Problem, dict[str, tuple[str, ...]]] = {}
    for case in cases:
        roles = found.setdefault(case.problem, {}).setdefault(case.impl, ())
        new = tuple(role for role in case.roles if role not in roles)
        found[case.problem][case.impl] = roles + new
    return tuple(
        Case(problem=problem, impl=impl, roles=roles)
        for problem, impls in found.items()
        for impl, roles in impls.items()
    )
