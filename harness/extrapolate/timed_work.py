"""A list of work with its times: longest first, by op, by source, and whether all was measured."""

from collections.abc import Iterable
from typing import TypeAlias

from harness.errors import PlanError
from harness.extrapolate.lookup import Lookup, share_of_role
from harness.projection import OpShare, Source
from harness.workload.step import WorkItem

TimedWork: TypeAlias = tuple[tuple[WorkItem, float, Source], ...]
"""Each piece of work, its seconds all times together, and where they come from."""


def timed_work(lookup: Lookup, items: Iterable[tuple[WorkItem, float]]) -> TimedWork:
    """The items, each done so often beyond its own count; longest first."""
    found: list[tuple[WorkItem, float, Source]] = []
    for item, times in items:
        time = lookup.time(item.problem)
        seconds = times * item.count * time.seconds
        if time.source is Source.ROOFLINE:
            seconds /= share_of_role(item, lookup.constants)
        found.append((item, seconds, time.source))
    return tuple(sorted(found, key=lambda entry: -entry[1]))


def op_shares(work: TimedWork) -> tuple[OpShare, ...]:
    """The work as a projection keeps it."""
    return tuple(
        OpShare(
            op=f"{item.problem.op}.{item.problem.dtype}.{item.problem.mode}",
            role=item.role,
            seconds=seconds,
            source=source,
            problem_id=item.problem.id,
        )
        for item, seconds, source in work
    )


def source_share(work: TimedWork) -> tuple[tuple[Source, float], ...]:
    """Share of the seconds that comes from each source, best source first."""
    total = sum(seconds for _, seconds, _ in work)
    shares: dict[Source, float] = {}
    for _, seconds, source in work:
        shares[source] = shares.get(source, 0.0) + seconds / total
    return tuple((source, shares[source]) for source in Source if source in shares)


def refuse_unmeasured(work: TimedWork, of: str, advice: str) -> None:
    """Refuse work of which a problem was not measured; one that stands in several places is one.

    Args:
        work: All that is done.
        of: What does it, as `the plan`.
        advice: What measures it, as a sentence without its end.

    Raises:
        PlanError: with every problem that is missing.
    """
    missing: dict[str, str] = {}
    for item, _, source in work:
        if source is not Source.MEASURED:
            missing.setdefault(item.problem.id, f"{item.problem.id} ({item.role})")
    if missing:
        raise PlanError(
            f"strict: {len(missing)} problems of {of} were not measured: "
            f"{'; '.join(missing.values())}. {advice}, or set strict=false to project from "
            "other sizes and rates."
        )
