"""Case: a problem, an implementation and why it is run; and the stable order of many of them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from kernels.op import Problem
from kernels.tuning import Config

CHECK_ROLE = "check"
"""The role of the cases that are there to be right, at sizes too small to say anything of speed."""

CLOSURE_ROLE = "closure"
"""The role of the cases that hold a whole layer against the sum of its ops."""

ROOF_ROLE = "roof"
"""The role of the cases whose best rates are the measured roofs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a suite asks for: this problem, computed this way."""

    problem: Problem
    impl: str
    roles: tuple[str, ...] = ()
    """What the problem stands for in the suite: `roof`, `training`, `prefill`, `decode`."""
    forced: tuple[tuple[str, Config], ...] = ()
    """Kernels with the launch configuration that a tuner tries for them; usually empty."""
    cache: str = ""
    """`hot` or `cold` where the case has a state of the cache of its own, as the cache's own
    bandwidth is hot whatever else is measured; empty for that of the policy."""

    @property
    def id(self) -> str:
        """A stable, unique name: `gemm.bf16.forward[M=1,N=2,K=3]/triton`, or `.../triton@hot`."""
        cache = f"@{self.cache}" if self.cache else ""
        tried = "".join(f"@{kernel}({config})" for kernel, config in self.forced)
        return f"{self.problem.id}/{self.impl}{cache}{tried}"

    @property
    def group(self) -> str:
        """The problem without its sizes: `gemm.bf16.forward`, or `copy.bf16.forward@hot`."""
        return f"{self.problem.group}@{self.cache}" if self.cache else self.problem.group


def distinct(cases: Iterable[Case]) -> tuple[Case, ...]:
    """Each problem and implementation once, in first-seen order, the roles of repeats joined.

    The implementations of one problem come next to each other, so that they share inputs and
    see the same state of the chip; among them, those of one state of the cache.
    """
    found: dict[Problem, dict[str, Case]] = {}
    for case in cases:
        of_problem = found.setdefault(case.problem, {})
        first = of_problem.setdefault(case.id, case)
        new = tuple(role for role in case.roles if role not in first.roles)
        of_problem[case.id] = replace(first, roles=first.roles + new)
    return tuple(
        case
        for of_problem in found.values()
        for case in sorted(of_problem.values(), key=lambda case: case.cache)
    )
