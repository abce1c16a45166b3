"""What every report of a trend says, in words."""

import math
from collections.abc import Sequence

from harness.trend import CaseTrend, ChangePoint, SharedChange, Trend
from harness.units import duration, signed_percent

HEADS = ("case", "before", "after", "change", "95 % interval", "since", "commits", "runs since")
NOTE = (
    "A change point is a run from which on a case was faster or slower and stayed so for three "
    "runs or more, by more than the noise of its own history makes. It is a place to look, and no "
    "verdict: `chipscale gate` with both commits measures whether the code did it."
)
SPARKS = " .:-=+*#%@"
"""From the shortest time to the longest; plain letters, since not every terminal has blocks."""
MAX_SPARKS = 40


def headline(trend: Trend) -> str:
    """The first line of every report."""
    changed = trend.changed
    place = f"{trend.suite} on {trend.chip}, branch {trend.branch or 'unknown'}"
    runs = f"{len(trend.runs)} run{'' if len(trend.runs) == 1 else 's'}"
    if not changed:
        return f"No change point in {len(trend.cases)} cases over {runs} of {place}."
    latest = [case.latest_change for case in changed]
    slower = sum(1 for change in latest if change is not None and change.change.value > 0)
    return (
        f"{len(changed)} of {len(trend.cases)} cases changed over {runs} of {place}: {slower} "
        f"slower and {len(changed) - slower} faster than before their last change."
    )


def commits(change: ChangePoint) -> str:
    """The commits between which it lies, as git takes them."""
    before, after = (one[:10] or "unknown" for one in (change.commit_before, change.commit))
    return after if before == after else f"{before}..{after}"


def change_rows(cases: Sequence[CaseTrend]) -> tuple[tuple[str, ...], ...]:
    """One row for each change point, of each case the newest first."""
    return tuple(
        (
            case.case_id,
            duration(change.before_s),
            duration(change.after_s),
            signed_percent(change.change.value),
            f"{signed_percent(change.change.low)} to {signed_percent(change.change.high)}",
            change.started_at[:16].replace("T", " "),
            commits(change),
            str(change.num_after),
        )
        for case in cases
        for change in reversed(case.change_points)
    )


def shared_sentence(shared: SharedChange, trend: Trend) -> str:
    """What many cases have in common."""
    run = next(one for one in trend.runs if one.run_id == shared.run_id)
    return (
        f"{shared.num_cases} cases changed together at {run.started_at[:16].replace('T', ' ')} "
        f"({run.commit[:10] or 'unknown commit'}), by {signed_percent(shared.change)} in the "
        "median: look at the machine, its driver and its clocks first, then at what the whole "
        "build shares."
    )


def left_out_sentence(trend: Trend) -> str:
    """Runs that the history has and this trend has not; empty where there are none."""
    if not trend.num_other_runs:
        return ""
    return (
        f"{trend.num_other_runs} further runs of that suite and chip are of other branches or "
        "machines and are left out: branch=any or fingerprint=... takes them."
    )


def sparkline(case: CaseTrend) -> str:
    """The newest times, one letter a run, higher letters for longer times."""
    times = case.medians_s[-MAX_SPARKS:]
    low, high = math.log(min(times)), math.log(max(times))
    # A change of less than 5 % fills no more than its part of the scale.
    span = max(high - low, math.log(1.05))
    top = len(SPARKS) - 1
    return "".join(SPARKS[1 + round((math.log(t) - low) / span * (top - 1))] for t in times)
