"""A/A floors: how far a machine differs from itself, case by case, when nothing has changed.

Measured by gating a tree against itself (`chipscale gate calibrate`); one file keeps those of many
machines, each by its fingerprint, since the noise of one says nothing of another's.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.codec import to_json
from harness.gate.estimate import hodges_lehmann, log_ratios
from harness.gate.kept_file import read_versioned
from harness.gate.pairs import pairs_by_case
from harness.gate.rounds import Round
from harness.stats import NORMAL_CONSISTENCY

FLOORS_SCHEMA_VERSION = 1
"""Raised when the meaning of a field changes; a newer file is refused."""

MIN_ESTIMATES = 5
"""With fewer A/A estimates a deviation is a guess, and the policy's tolerance stands alone."""

MAX_KEPT = 50
"""Estimates kept for a case, the newest: a machine's noise of last year is not today's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFloor:
    """The A/A estimates of one case: logarithms of ratios whose truth is 0."""

    case_id: str
    estimates: tuple[float, ...]

    @property
    def deviation(self) -> float:
        """Robust standard deviation around the truth, which for A/A is known: it is 0.

        Taken around 0 and not around their own median, so that one side being always slower, as
        the second process of a pair may be, is part of the floor.
        """
        return NORMAL_CONSISTENCY * statistics.median(abs(one) for one in self.estimates)

    @property
    def is_enough(self) -> bool:
        """There are enough of them to be used."""
        return len(self.estimates) >= MIN_ESTIMATES


@dataclass(frozen=True, slots=True, kw_only=True)
class Floors:
    """Those of one machine."""

    fingerprint: str
    chip: str
    num_rounds: int
    """Pairs of processes behind each estimate."""
    cases: tuple[CaseFloor, ...]
    measured_at: str = ""
    """Of the newest, UTC, ISO 8601."""

    def of(self, case_id: str) -> CaseFloor | None:
        """The floor of that case, or None where it was not calibrated."""
        return next((one for one in self.cases if one.case_id == case_id), None)

    def is_of_a_kind(self, other: "Floors") -> bool:
        """Of the same machine, and of as many rounds: of fewer, an estimate deviates by more."""
        return (self.fingerprint, self.num_rounds) == (other.fingerprint, other.num_rounds)

    def joined(self, newer: "Floors") -> "Floors":
        """With further estimates of the same machine, of as many rounds."""
        assert self.is_of_a_kind(newer), "floors of two machines or kinds are never joined"
        estimates = {one.case_id: one.estimates for one in self.cases}
        for one in newer.cases:
            estimates[one.case_id] = estimates.get(one.case_id, ()) + one.estimates
        return Floors(
            fingerprint=self.fingerprint,
            chip=newer.chip,
            num_rounds=self.num_rounds,
            cases=_floors_of(estimates),
            measured_at=newer.measured_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorsFile:
    """What the file holds."""

    schema_version: int = FLOORS_SCHEMA_VERSION
    machines: tuple[Floors, ...] = ()
    """One for each machine and number of rounds."""

    def with_floors(self, newer: Floors) -> "FloorsFile":
        """With further estimates of one machine.

        Those of others stay, and so do those of another number of rounds: a quick calibration
        must not cost a careful one.
        """
        kept = tuple(one for one in self.machines if not one.is_of_a_kind(newer))
        known = next((one for one in self.machines if one.is_of_a_kind(newer)), None)
        return FloorsFile(machines=(*kept, newer if known is None else known.joined(newer)))


def floors_from(
    suites: Sequence[Sequence[Round]], fingerprint: str, chip: str, measured_at: str = ""
) -> Floors:
    """The floors that A/A suites show: each is the rounds of one gate of a tree against itself.

    A case counts in the suites in which every process has a time for it.
    """
    assert suites, "a calibration has at least one suite"
    estimates: dict[str, tuple[float, ...]] = {}
    for rounds in suites:
        for case_id, pairs in pairs_by_case(rounds).items():
            if pairs.is_timed:
                estimate = hodges_lehmann(log_ratios(pairs.base_s, pairs.head_s))
                estimates[case_id] = (*estimates.get(case_id, ()), estimate)
    return Floors(
        fingerprint=fingerprint,
        chip=chip,
        num_rounds=len(suites[0]),
        cases=_floors_of(estimates),
        measured_at=measured_at,
    )


def _floors_of(estimates: Mapping[str, tuple[float, ...]]) -> tuple[CaseFloor, ...]:
    return tuple(
        CaseFloor(case_id=case_id, estimates=found[-MAX_KEPT:])
        for case_id, found in estimates.items()
    )


def widened(deviation: float, measured_rounds: int, rounds: int) -> float:
    """The deviation of an estimate of fewer rounds than it was calibrated with.

    Of independent pairs it falls as the root of their number; with more rounds than calibrated it
    is left as it is, since neighbouring processes are alike and the root promises too much.
    """
    return deviation * math.sqrt(max(1.0, measured_rounds / rounds))


def choose(file: FloorsFile, fingerprint: str, rounds: int = 0) -> tuple[Floors | None, str]:
    """The floors of that machine, and a warning where there are none.

    Those of as many rounds as the gate has, else those of the most.
    """
    found = [one for one in file.machines if one.fingerprint == fingerprint]
    if found:
        return max(found, key=lambda one: (one.num_rounds == rounds, one.num_rounds)), ""
    others = ", ".join(dict.fromkeys(f"{one.chip} ({one.fingerprint})" for one in file.machines))
    known = f"There are floors of {others}, which say nothing of this one. " if others else ""
    return None, (
        f"No A/A floors of this machine ({fingerprint}) are known, so the tolerance is the "
        f"policy's alone. {known}`chipscale gate calibrate` measures them."
    )


def floors_text(file: FloorsFile) -> str:
    """What is written into the file."""
    return to_json(file) + "\n"


def read_floors(path: Path) -> FloorsFile:
    """The floors in that file; none where there is no such file.

    Raises:
        RecordError: when it cannot be read; NewerRecordError when a newer chipscale wrote it.
    """
    return read_versioned(
        path,
        FloorsFile,
        FLOORS_SCHEMA_VERSION,
        "Move the file away, and `chipscale gate calibrate` makes it anew.",
    )
