"""Runs of the past -> the trend of each case, and the runs at which many changed together."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from harness.history.change_points import MIN_CHANGE, change_interval, change_points, noise_of
from harness.projection import Interval
from harness.trend import CaseTrend, ChangePoint, HistoryRun, SharedChange, Trend

SHARED_SHARE = 0.5
"""Where more than this share of the cases change at one run the same way, the run is named: what
they have in common is the machine or the whole build, not a kernel."""
SHARED_MIN_CASES = 4


def case_trends(
    runs: Sequence[HistoryRun], min_change: float = MIN_CHANGE
) -> tuple[CaseTrend, ...]:
    """Every case over the runs that have it: the last to change first, the largest change first.

    A protocol that changed ends the series of a case: its earlier times are of other work.

    Args:
        runs: Of one machine and suite, oldest first.
        min_change: The smallest change that is reported.
    """
    series: dict[str, list[tuple[HistoryRun, float]]] = defaultdict(list)
    protocols: dict[str, str] = {}
    for run in runs:
        hashes = dict(run.protocols)
        for case_id, median_s in run.medians_s:
            if case_id in hashes and hashes[case_id] != protocols.get(case_id, hashes[case_id]):
                series[case_id] = []
            protocols[case_id] = hashes.get(case_id, protocols.get(case_id, ""))
            series[case_id].append((run, median_s))
    place = {run.run_id: index for index, run in enumerate(runs)}

    def rank(case: CaseTrend) -> tuple[int, float]:
        latest = case.latest_change
        if latest is None:
            return (len(runs), 0.0)
        return (len(runs) - 1 - place[latest.run_id], -abs(latest.change.value))

    found = (_case_trend(case_id, points, min_change) for case_id, points in series.items())
    return tuple(sorted(found, key=rank))


def _case_trend(
    case_id: str, points: Sequence[tuple[HistoryRun, float]], min_change: float
) -> CaseTrend:
    runs = [run for run, _ in points]
    medians_s = tuple(median_s for _, median_s in points)
    boundaries = change_points(medians_s, min_change)
    noise, correlation = noise_of(np.log(np.asarray(medians_s)), boundaries)
    edges = [0, *boundaries, len(points)]
    changes = []
    for number, at in enumerate(boundaries, start=1):
        value, low, high = change_interval(medians_s, boundaries, at)
        changes.append(
            ChangePoint(
                index=at,
                run_id=runs[at].run_id,
                started_at=runs[at].started_at,
                commit=runs[at].commit,
                commit_before=runs[at - 1].commit,
                before_s=statistics.median(medians_s[edges[number - 1] : at]),
                after_s=statistics.median(medians_s[at : edges[number + 1]]),
                change=Interval(value=value, low=low, high=high),
                num_after=edges[number + 1] - at,
            )
        )
    return CaseTrend(
        case_id=case_id,
        run_ids=tuple(run.run_id for run in runs),
        medians_s=medians_s,
        noise=noise,
        correlation=correlation,
        change_points=tuple(changes),
    )


def shared_changes(
    cases: Sequence[CaseTrend], runs: Sequence[HistoryRun]
) -> tuple[SharedChange, ...]:
    """Runs at which most cases changed the same way, oldest first."""
    moved: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for case in cases:
        for change in case.change_points:
            moved[change.run_id, change.change.value > 0].append(change.change.value)
    present = Counter(run_id for case in cases for run_id in case.run_ids)
    found = [
        SharedChange(run_id=run_id, num_cases=len(values), change=statistics.median(values))
        for (run_id, _), values in moved.items()
        if len(values) >= max(SHARED_MIN_CASES, SHARED_SHARE * present[run_id])
    ]
    order = [run.run_id for run in runs]
    return tuple(sorted(found, key=lambda one: order.index(one.run_id)))


def trend_of(
    runs: Sequence[HistoryRun], *, num_other_runs: int = 0, min_change: float = MIN_CHANGE
) -> Trend:
    """The trend of those runs, which are of one machine, suite and branch.

    Args:
        runs: Oldest first; at least one.
        num_other_runs: That were left out, being of other branches or machines.
        min_change: The smallest change that is reported, as 0.05 for 5 %.
    """
    newest = runs[-1]
    cases = case_trends(runs, min_change)
    return Trend(
        suite=newest.suite,
        model=newest.model,
        chip=newest.chip,
        branch=newest.branch,
        fingerprint=newest.fingerprint,
        runs=tuple(runs),
        cases=cases,
        shared_changes=shared_changes(cases, runs),
        num_other_runs=num_other_runs,
    )
