"""Groups: chips compared op by op, each by the fastest implementation it has of every problem."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.compare.records import verdict
from harness.comparison import GroupComparison, MeanComparison, MissingTime
from harness.projection import Interval
from harness.record import Status
from harness.results import ResultRow, best_rows
from harness.stats import geometric_mean
from harness.workload.step import Phase

PHASES = tuple(str(phase) for phase in Phase)
OTHER = "other"
ABSENT = "absent"
"""In place of a status: the run has no record of the case."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """One problem that both chips have a time for, each with its fastest implementation."""

    first: ResultRow
    second: ResultRow

    @property
    def speedup(self) -> Interval:
        """First median over the second, from the interval of each."""
        return ratio_of(median_of(self.first), median_of(self.second))


def phases_of(row: ResultRow) -> tuple[str, ...]:
    """The phases a problem belongs to; its first role where it belongs to none."""
    found = tuple(role for role in row.roles if role in PHASES)
    return found or row.roles[:1] or (OTHER,)


def median_of(row: ResultRow) -> Interval:
    """The median with its interval."""
    assert row.median_s is not None
    assert row.low_s is not None
    assert row.high_s is not None
    return Interval(value=row.median_s, low=row.low_s, high=row.high_s)


def ratio_of(first: Interval, second: Interval) -> Interval:
    """First over second, positive and independent: distances are added as squares, in logarithms.

    Source: Zou and Donner 2008 (MOVER), as `harness.stats.ratio_interval`.
    """
    value = math.log(first.value / second.value)
    below = math.hypot(math.log(first.value / first.low), math.log(second.high / second.value))
    above = math.hypot(math.log(first.high / first.value), math.log(second.value / second.low))
    return Interval(
        value=math.exp(value), low=math.exp(value - below), high=math.exp(value + above)
    )


def mean_of(ratios: Sequence[Interval]) -> Interval:
    """Their geometric mean; each is measured by itself, so distances are added as squares."""
    value = sum(math.log(ratio.value) for ratio in ratios) / len(ratios)
    below = math.hypot(*(math.log(ratio.value / ratio.low) for ratio in ratios)) / len(ratios)
    above = math.hypot(*(math.log(ratio.high / ratio.value) for ratio in ratios)) / len(ratios)
    return Interval(
        value=math.exp(value), low=math.exp(value - below), high=math.exp(value + above)
    )


def pairings(first: Sequence[ResultRow], second: Sequence[ResultRow]) -> tuple[Pairing, ...]:
    """The problems both have a time for, in the order of the first."""
    theirs = {row.problem_id: row for row in best_rows(second) if row.median_s}
    return tuple(
        Pairing(row, theirs[row.problem_id])
        for row in best_rows(first)
        if row.median_s and row.problem_id in theirs
    )


def groups_of(
    found: Sequence[Pairing], labels: tuple[str, str], tolerance: float
) -> tuple[GroupComparison, ...]:
    """One for each phase, op, type and mode, phases together, in first-seen order."""
    groups: dict[tuple[str, str], list[Pairing]] = {}
    for pairing in found:
        for phase in phases_of(pairing.first):
            groups.setdefault((phase, pairing.first.group), []).append(pairing)
    places = {phase: place for place, phase in enumerate(PHASES)}
    ordered = sorted(groups.items(), key=lambda entry: places.get(entry[0][0], len(places)))
    return tuple(
        _group(phase, group, members, labels, tolerance) for (phase, group), members in ordered
    )


def _group(
    phase: str,
    group: str,
    members: Sequence[Pairing],
    labels: tuple[str, str],
    tolerance: float,
) -> GroupComparison:
    speedup = mean_of([pairing.speedup for pairing in members])
    sides = ([one.first for one in members], [one.second for one in members])
    remarks = [
        f"{label}: {count} {words}"
        for label, rows in zip(labels, sides, strict=True)
        for words, count in Counter(words for row in rows for words in remarks_of(row)).items()
    ]
    return GroupComparison(
        phase=phase,
        group=group,
        op=members[0].first.op,
        num_problems=len(members),
        speedup=speedup,
        verdict=verdict(speedup.low, speedup.high, tolerance),
        first_s=geometric_mean([median_of(row).value for row in sides[0]]),
        second_s=geometric_mean([median_of(row).value for row in sides[1]]),
        first_impls=_impls(sides[0]),
        second_impls=_impls(sides[1]),
        first_roof_share=_roof_share(sides[0]),
        second_roof_share=_roof_share(sides[1]),
        joules_ratio=_joules_ratio(members),
        remarks=tuple(remarks),
    )


def remarks_of(row: ResultRow) -> tuple[str, ...]:
    """What to know of a time before building on it, in a word or two each."""
    marks = {
        "throttled": row.is_throttled,
        "power capped": row.is_power_capped,
        "noisy": row.is_noisy,
        "short": row.is_short,
        "not alone": bool(row.foreign_processes),
    }
    return tuple(words for words, is_so in marks.items() if is_so)


def _impls(rows: Iterable[ResultRow]) -> tuple[str, ...]:
    return tuple(impl for impl, _ in Counter(row.impl for row in rows).most_common())


def _roof_share(rows: Iterable[ResultRow]) -> float | None:
    shares = [row.roof_share for row in rows if row.roof_share]
    return geometric_mean(shares) if shares else None


def _joules_ratio(members: Iterable[Pairing]) -> float | None:
    """Second over first, of the problems where both measured energy."""
    ratios = [
        one.second.energy.joules_per_run / one.first.energy.joules_per_run
        for one in members
        if one.first.energy is not None
        and one.second.energy is not None
        and one.first.energy.joules_per_run > 0
        and one.second.energy.joules_per_run > 0
    ]
    return geometric_mean(ratios) if ratios else None


def means_of(found: Sequence[Pairing], tolerance: float) -> tuple[MeanComparison, ...]:
    """Over all problems, then over those of each phase of a model."""
    members = {"": list(found)}
    for phase in PHASES:
        members[phase] = [one for one in found if phase in phases_of(one.first)]
    return tuple(_mean(phase, some, tolerance) for phase, some in members.items() if some)


def _mean(phase: str, members: Sequence[Pairing], tolerance: float) -> MeanComparison:
    speedup = mean_of([one.speedup for one in members])
    return MeanComparison(
        phase=phase,
        num_problems=len(members),
        speedup=speedup,
        verdict=verdict(speedup.low, speedup.high, tolerance),
        first_roof_share=_roof_share(one.first for one in members),
        second_roof_share=_roof_share(one.second for one in members),
        joules_ratio=_joules_ratio(members),
    )


def missing_of(
    first: Sequence[ResultRow], second: Sequence[ResultRow], labels: tuple[str, str]
) -> tuple[MissingTime, ...]:
    """Cases with a time in one of the two alone, those that only the first has before the rest."""
    sides = [{row.case_id: row for row in rows} for rows in (first, second)]
    found: list[MissingTime] = []
    for ours, theirs, label in ((sides[0], sides[1], labels[1]), (sides[1], sides[0], labels[0])):
        timed = {row.problem_id for row in theirs.values() if row.is_ok}
        found += [
            _missing(row, theirs.get(case_id), label, timed)
            for case_id, row in ours.items()
            if row.is_ok and not _has_time(theirs, case_id)
        ]
    return tuple(found)


def _has_time(rows: Mapping[str, ResultRow], case_id: str) -> bool:
    row = rows.get(case_id)
    return row is not None and row.is_ok


def _missing(row: ResultRow, other: ResultRow | None, label: str, timed: set[str]) -> MissingTime:
    return MissingTime(
        case_id=row.case_id,
        label=label,
        status=ABSENT if other is None else other.status_word,
        reason="the run has no record of it" if other is None else other.reason,
        has_other=row.problem_id in timed,
    )


def num_unsupported(missing: Sequence[MissingTime]) -> int:
    """Those that cannot run there at all."""
    return sum(one.status == Status.UNSUPPORTED for one in missing)
