"""Error rates of a rule: how often it alarms at nothing, and how often it finds what is there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

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


def error_rates(rules: Sequence[Rule], trials: Iterable[Trial]) -> tuple[ErrorRates, ...]:
    """What each rule makes of the trials, which are gone through once."""
    counts = [_Counts() for _ in rules]
    for trial in trials:
        for rule, counted in zip(rules, counts, strict=True):
            for alarms in rule.looks(trial):
                counted.add(trial, alarms)
    return tuple(
        ErrorRates(
            rule=rule.name,
            processes=rule.processes,
            alarms_per_case=share(counted.alarms, counted.cases),
            alarms_per_suite=share(counted.suites_with_any, counted.suites),
            power=tuple(
                Power(level=level, found=share(*found))
                for level, found in sorted(counted.found.items())
            ),
            alarms_beside=share(*counted.beside),
        )
        for rule, counted in zip(rules, counts, strict=True)
    )


@dataclass(slots=True)
class _Counts:
    """Of one rule, while it goes through the trials."""

    alarms: int = 0
    cases: int = 0
    suites_with_any: int = 0
    suites: int = 0
    found: dict[float, list[int]] = field(default_factory=dict)
    beside: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, trial: Trial, alarms: frozenset[str]) -> None:
        """One look of the rule."""
        num_cases = len(trial.first[0].head)
        if not trial.slower:
            self.alarms += len(alarms)
            self.cases += num_cases
            self.suites_with_any += bool(alarms)
            self.suites += 1
            return
        found = self.found.setdefault(trial.level, [0, 0])
        found[0] += len(alarms & trial.slower)
        found[1] += len(trial.slower)
        self.beside[0] += len(alarms - trial.slower)
        self.beside[1] += num_cases - len(trial.slower)
