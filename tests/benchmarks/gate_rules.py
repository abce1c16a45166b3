"""Rules that say of each case whether the head is slower: the gate's, and those of other tools.

An alarm is a case called slower, the direction in which all of them fail a build.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
from scipy.stats import mannwhitneyu

from harness.gate.decide import judge, screen
from harness.gate.floors import Floors
from harness.gate.policy import GatePolicy
from harness.gate.rounds import Round
from harness.gate_result import State
from tests.benchmarks.gate_trials import Trial, samples_of

Looks = Callable[[Trial], Sequence[frozenset[str]]]
"""The alarms of every look that a rule takes at a trial; the gate takes one."""

MAX_MEDIAN_CHANGE = 0.05
"""`--benchmark-compare-fail=median:5%`."""
SIGNIFICANCE = 0.05
"""Of google/benchmark's compare.py, `--alpha`."""
DAY = date(2026, 1, 1)
"""Rules without exemptions are the same on any day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule with what it costs."""

    name: str
    processes: str
    """That it takes, each side together."""
    looks: Looks


def gate(name: str, policy: GatePolicy, floors: Floors | None = None) -> Rule:
    """The gate: screened, and confirmed by fresh rounds."""

    def looks(trial: Trial) -> Sequence[frozenset[str]]:
        flagged = set(screen(trial.first, policy, floors))
        fresh = tuple(_only(one, flagged) for one in trial.fresh) if flagged else ()
        cases, _ = judge(trial.first, fresh, policy, floors, today=DAY)
        return [frozenset(one.case_id for one in cases if one.state is State.REGRESSED)]

    return Rule(name=name, processes="10, 20 flagged", looks=looks)


def unconfirmed(name: str, policy: GatePolicy) -> Rule:
    """The gate's first look alone: what the second one is for."""

    def looks(trial: Trial) -> Sequence[frozenset[str]]:
        cases, _ = judge(trial.first, (), policy, today=DAY)
        alarms = [
            one.case_id
            for one in cases
            if one.screen is not None and one.screen.change.value > one.tolerance
        ]
        return [frozenset(alarms)]

    return Rule(name=name, processes="10", looks=looks)


def one_process_a_side(name: str, is_slower: Callable[[np.ndarray, np.ndarray], bool]) -> Rule:
    """A rule for one run of each side; every pair of processes is a look of its own."""

    def looks(trial: Trial) -> Sequence[frozenset[str]]:
        return [_alarms([one], is_slower) for one in trial.first]

    return Rule(name=name, processes="2", looks=looks)


def pooled(name: str, is_slower: Callable[[np.ndarray, np.ndarray], bool]) -> Rule:
    """The same rule with the samples of all first rounds in one heap, as many as the gate's."""

    def looks(trial: Trial) -> Sequence[frozenset[str]]:
        return [_alarms(trial.first, is_slower)]

    return Rule(name=name, processes="10", looks=looks)


def median_rule(base_s: np.ndarray, head_s: np.ndarray) -> bool:
    """pytest-benchmark's `--benchmark-compare-fail=median:5%`.

    Source: pytest_benchmark/utils.py, PercentageRegressionCheck: fails above the percentage.
    """
    return bool(np.median(head_s) / np.median(base_s) - 1 > MAX_MEDIAN_CHANGE)


def rank_rule(base_s: np.ndarray, head_s: np.ndarray) -> bool:
    """google/benchmark's two-sided Mann-Whitney U at 0.05, where the head's median is larger.

    Source: google/benchmark, tools/gbench/report.py, calc_utest.
    """
    if np.median(head_s) <= np.median(base_s):
        return False
    return bool(mannwhitneyu(base_s, head_s, alternative="two-sided").pvalue < SIGNIFICANCE)


def rules(policy: GatePolicy, floors: Floors | None) -> tuple[Rule, ...]:
    """All that are held against each other."""
    wide = replace(policy, tolerance=0.05)
    return (
        gate(f"gate, {100 * policy.tolerance:g} %", policy),
        *([gate("gate, calibrated", policy, floors)] if floors is not None else []),
        gate(f"gate, {100 * wide.tolerance:g} %", wide),
        unconfirmed(f"gate, {100 * policy.tolerance:g} %, not confirmed", policy),
        one_process_a_side("pytest-benchmark median:5%", median_rule),
        pooled("median:5%, 5 processes pooled", median_rule),
        one_process_a_side("Mann-Whitney p < 0.05", rank_rule),
        pooled("Mann-Whitney, 5 processes pooled", rank_rule),
    )


def _only(one: Round, case_ids: Collection[str]) -> Round:
    """The round as the gate takes it again: of the flagged cases alone."""
    return replace(
        one,
        base=tuple(record for record in one.base if record.case.id in case_ids),
        head=tuple(record for record in one.head if record.case.id in case_ids),
    )


def _alarms(
    rounds: Sequence[Round], is_slower: Callable[[np.ndarray, np.ndarray], bool]
) -> frozenset[str]:
    base, head = _heap(rounds, "base"), _heap(rounds, "head")
    return frozenset(
        case_id for case_id in base if case_id in head and is_slower(base[case_id], head[case_id])
    )


def _heap(rounds: Sequence[Round], side: str) -> dict[str, np.ndarray]:
    heap: dict[str, list[float]] = {}
    for one in rounds:
        for record in getattr(one, side):
            heap.setdefault(record.case.id, []).extend(samples_of(record))
    return {case_id: np.asarray(samples) for case_id, samples in heap.items()}
