"""Two sets of records of equal work -> a ratio with its interval and a verdict for each case.

The interval speaks of the samples of these two runs. Two sessions on one chip differ by more than
their samples tell (1.5 % is common), which is why a difference inside the tolerance is `same`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from harness.errors import RecordError
from harness.protocol_difference import protocol_difference
from harness.record import Record, Status
from harness.stats import geometric_mean, ratio_interval

TOLERANCE = 0.03
"""Smaller differences are called `same`: between sessions, medians of one chip move by 1 to 3 %
though nothing changed (A/A measurements of 12 kernels in 160 processes)."""

MAX_DIFFERENCES = 5
"""A refusal names so many; what differs is mostly one setting, the same in all cases."""


class Verdict(StrEnum):
    """How the second run stands to the first."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "same"
    AMBIGUOUS = "ambiguous"
    """The interval holds both a difference that matters and none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One case in two runs."""

    case_id: str
    op: str
    first_s: float
    second_s: float
    speedup: float
    """First time over second time: above 1, the second is faster."""
    low: float
    high: float
    verdict: Verdict
    first_steps: float
    """The first median in steps of its timer; below SHORT_RESOLUTIONS it is too short for it."""
    second_steps: float
    difference: str = ""
    """What of the protocol differs, with both values, where the comparison was forced."""
    first_input_sets: int = 1
    """Sets of inputs the runs took turns between; the protocol names those that were asked for,
    and where memory is short there are fewer."""
    second_input_sets: int = 1

    @property
    def has_other_input_sets(self) -> bool:
        """One of the two had fewer sets of inputs."""
        return self.first_input_sets != self.second_input_sets


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRuns:
    """All that two runs have in common, and what they have not."""

    comparisons: tuple[Comparison, ...]
    only_first: tuple[str, ...]
    """Cases with a time in the first run alone."""
    only_second: tuple[str, ...]
    different_protocol: tuple[str, ...]
    """Cases whose protocol hashes differ; compared only when that was forced."""

    @property
    def geomean_speedup(self) -> float | None:
        """Geometric mean of the speedups, or None without a common case."""
        speedups = [comparison.speedup for comparison in self.comparisons]
        return geometric_mean(speedups) if speedups else None


def compare_records(
    first: Sequence[Record],
    second: Sequence[Record],
    tolerance: float = TOLERANCE,
    is_forced: bool = False,
) -> ComparedRuns:
    """Every case both runs have a time for.

    Raises:
        RecordError: when a case was measured by different protocols and that is not forced.
    """
    ours, theirs = _timed(first), _timed(second)
    common = [case_id for case_id in ours if case_id in theirs]
    differences = {
        case_id: protocol_difference(ours[case_id], theirs[case_id])
        for case_id in common
        if ours[case_id].protocol_hash != theirs[case_id].protocol_hash
    }
    if differences and not is_forced:
        counts = Counter(differences.values()).most_common()
        shown = "; ".join(f"{text} ({count} cases)" for text, count in counts[:MAX_DIFFERENCES])
        more = len(counts) - MAX_DIFFERENCES
        raise RecordError(
            f"{len(differences)} of {len(common)} common cases were measured by different "
            f"protocols, so their times are not of equal work. {shown}"
            f"{f'; and {more} other differences' if more > 0 else ''}. --force compares them all "
            "the same and labels them."
        )
    return ComparedRuns(
        comparisons=tuple(
            _compare(ours[case_id], theirs[case_id], tolerance, differences.get(case_id, ""))
            for case_id in common
        ),
        only_first=tuple(case_id for case_id in ours if case_id not in theirs),
        only_second=tuple(case_id for case_id in theirs if case_id not in ours),
        different_protocol=tuple(differences),
    )


def _timed(records: Sequence[Record]) -> dict[str, Record]:
    return {record.case.id: record for record in records if record.status is Status.OK}


def _compare(first: Record, second: Record, tolerance: float, difference: str) -> Comparison:
    assert first.measurement is not None
    assert second.measurement is not None
    first_s, second_s = first.measurement.steady_samples_s, second.measurement.steady_samples_s
    low, high = ratio_interval(first_s, second_s)
    return Comparison(
        case_id=first.case.id,
        op=first.case.problem.op,
        first_s=float(np.median(first_s)),
        second_s=float(np.median(second_s)),
        speedup=float(np.median(first_s) / np.median(second_s)),
        low=low,
        high=high,
        verdict=verdict(low, high, tolerance),
        first_steps=first.measurement.num_timer_steps,
        second_steps=second.measurement.num_timer_steps,
        difference=difference,
        first_input_sets=first.measurement.num_input_sets,
        second_input_sets=second.measurement.num_input_sets,
    )


def verdict(low: float, high: float, tolerance: float) -> Verdict:
    """What an interval of the speedup says, given the difference that matters."""
    if low > 1 + tolerance:
        return Verdict.FASTER
    if high < 1 / (1 + tolerance):
        return Verdict.SLOWER
    if low >= 1 / (1 + tolerance) and high <= 1 + tolerance:
        return Verdict.SAME
    return Verdict.AMBIGUOUS
