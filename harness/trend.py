"""Trend: the history of a suite on one chip, and where it changed; the result as data.

Made by `harness/history/`, shown by `harness/report/trend_*.py`.
"""

from dataclasses import dataclass

from harness.projection import Interval

TREND_SCHEMA_VERSION = 1
"""Of `trend.json`; raised when the meaning of a field changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRun:
    """One run of the past, as far as a history needs it."""

    run_id: str
    started_at: str
    """UTC, ISO 8601."""
    suite: str
    model: str
    chip: str
    branch: str
    commit: str
    fingerprint: str
    """Equal for runs whose numbers may be compared."""
    medians_s: tuple[tuple[str, float], ...]
    """Case id and median of its samples, of every case with a time."""
    protocols: tuple[tuple[str, str], ...] = ()
    """Case id and protocol hash; empty where the store does not keep it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePoint:
    """From this run on, a case was faster or slower, and stayed so."""

    index: int
    """Of the first run after the change, among the runs of the case."""
    run_id: str
    started_at: str
    commit: str
    commit_before: str
    """Of the last run before it: what lies between the two is to be looked at."""
    before_s: float
    """Median of the runs between the change before and this one."""
    after_s: float
    change: Interval
    """After over before, less 1, with the 95 % interval of the noise that the case has."""
    num_after: int
    """Runs since, up to the next change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseTrend:
    """One case over the runs that have it."""

    case_id: str
    run_ids: tuple[str, ...]
    medians_s: tuple[float, ...]
    noise: float
    """Robust standard deviation from run to run, as a share of the time."""
    correlation: float
    """Of neighbouring runs; it makes what looks like a change likelier, and is allowed for."""
    change_points: tuple[ChangePoint, ...]

    @property
    def latest_change(self) -> ChangePoint | None:
        """The last one, if there is any."""
        return self.change_points[-1] if self.change_points else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedChange:
    """A run at which many cases changed the same way: a driver, a clock, or the whole build."""

    run_id: str
    num_cases: int
    change: float
    """Median of the cases' changes, as 0.04 for 4 % slower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """The history of one suite on one chip, branch and fingerprint."""

    schema_version: int = TREND_SCHEMA_VERSION
    suite: str
    model: str
    chip: str
    branch: str
    fingerprint: str
    runs: tuple[HistoryRun, ...]
    """Oldest first."""
    cases: tuple[CaseTrend, ...]
    """Those that changed last first, then by how much."""
    shared_changes: tuple[SharedChange, ...]
    num_other_runs: int
    """Of that suite and chip on other branches or with other fingerprints, which are left out."""

    @property
    def changed(self) -> tuple[CaseTrend, ...]:
        """Cases that have a change point."""
        return tuple(case for case in self.cases if case.change_points)
