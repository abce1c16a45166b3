"""Error rates of a rule: how often it alarms at nothing, and how often it finds what is there."""

from collections.abc import Iterable
from dataclasses import dataclass

from scipy.stats import binomtest

from harness.stats import CONFIDENCE
from tests.benchmarks.gate_rules import Rule
from tests.benchmarks.gate_trials import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """So many of so many, with its exact interval (Clopper and Pearson 1934)."""

    count: int
    of: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share; of none, 0."""
        return self.count / self.of if self.of else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Slow-downs of one size: how many were found."""

    level: float
    found: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRates:
    """Of one rule."""

    rule: str
    processes: str
    alarms_per_case: Share
    alarms_per_suite: Share
    """Suites in which at least one case raised an alarm."""
    power: tuple[Power, ...]
    alarms_beside: Share
    """In suites with slower cases, alarms at the others."""


def share(count: int, of: int) -> Share:
    """With its 95 % interval."""
    if not of:
        return Share(count=0, of=0, low=0.0, high=1.0)
    interval = binomtest(count, of).proportion_ci(CONFIDENCE, method="exact")
    return Share(count=count, of=of, low=float(interval.low), high=float(interval.high))


def error_rates(rule: Rule, trials: Iterable[Trial]) -> ErrorRates:
    """What the rule makes of the trials."""
    nothing = [0, 0, 0, 0]  # alarms, cases, suites with any, suites
    found: dict[float, list[int]] = {}
    beside = [0, 0]
    for trial in trials:
        num_cases = len(trial.first[0].head)
        for alarms in rule.looks(trial):
            if not trial.slower:
                nothing[0] += len(alarms)
                nothing[1] += num_cases
                nothing[2] += bool(alarms)
                nothing[3] += 1
            else:
                counted = found.setdefault(trial.level, [0, 0])
                counted[0] += len(alarms & trial.slower)
                counted[1] += len(trial.slower)
                beside[0] += len(alarms - trial.slower)
                beside[1] += num_cases - len(trial.slower)
    return ErrorRates(
        rule=rule.name,
        processes=rule.processes,
        alarms_per_case=share(nothing[0], nothing[1]),
        alarms_per_suite=share(nothing[2], nothing[3]),
        power=tuple(
            Power(level=level, found=share(*counted)) for level, counted in sorted(found.items())
        ),
        alarms_beside=share(*beside),
    )
