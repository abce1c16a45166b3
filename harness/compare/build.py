"""Several runs -> a ChipComparison: the first is the reference that each other is held against."""

import string
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.closure import closures_of, complete, headlines
from harness.compare.groups import groups_of, means_of, missing_of, pairings, remarks_of
from harness.compare.records import compare_records, refuse
from harness.compare.waterfall import Side, waterfall
from harness.comparison import (
    CaseComparison,
    ChipComparison,
    ClosureComparison,
    ComparedRun,
    ProjectedRun,
    RunPair,
    Waterfall,
)
from harness.environment import Environment
from harness.errors import ConfigError, NothingMeasured
from harness.projection import Projection
from harness.protocol_difference import protocol_difference
from harness.record import Record, Status
from harness.results import ResultRow, accepted, result_rows
from harness.roofline import Roofline
from harness.workload.whole_step import PhaseWork

LABELS = string.ascii_uppercase
FAKE = "fake"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInput:
    """A run as the comparison takes it."""

    run_id: str
    suite: str
    model: str
    device: str
    chip: str
    started_at: str
    environment: Environment
    records: tuple[Record, ...]
    roofs: Roofline
    projection: Projection | None = None
    work: tuple[PhaseWork, ...] = ()
    """The steps that its suite measures; empty where its configuration does not tell."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Labelled:
    label: str
    run: RunInput
    rows: tuple[ResultRow, ...]

    @property
    def side(self) -> Side:
        return Side(
            label=self.label,
            rows=self.rows,
            roofs=self.run.roofs,
            projection=self.run.projection,
        )


def compare_runs(
    runs: Sequence[RunInput],
    *,
    comparison_id: str,
    tolerance: float,
    is_forced: bool = False,
    projections: tuple[ProjectedRun, ...] = (),
    created_at: str = "",
    command: str = "",
) -> ChipComparison:
    """The comparison of at least two runs.

    Raises:
        ConfigError: for fewer than two runs, more than there are letters, or the same one twice.
        NothingMeasured: when a run has no problem with a time in common with the first.
        RecordError: when cases were measured by different protocols and that is not forced.
    """
    _check(runs)
    labelled = [
        _Labelled(label, run, result_rows(run.records, run.roofs))
        for label, run in zip(LABELS, runs, strict=False)
    ]
    reference, *others = labelled
    return ChipComparison(
        comparison_id=comparison_id,
        runs=tuple(_told(one) for one in labelled),
        pairs=tuple(_pair(reference, other, tolerance, is_forced) for other in others),
        projections=projections,
        tolerance=tolerance,
        is_forced=is_forced,
        created_at=created_at,
        command=command,
    )


def _check(runs: Sequence[RunInput]) -> None:
    if len(runs) < 2:
        raise ConfigError("compare: one run is named, and two are needed. Name another one.")
    if len(runs) > len(LABELS):
        raise ConfigError(f"compare: {len(runs)} runs are too many; {len(LABELS)} are the most.")
    seen: set[str] = set()
    for run in runs:
        if run.run_id in seen:
            raise ConfigError(
                f"compare: {run.run_id} is named twice, and a run does not differ from itself. "
                "Name another one; `chipscale list runs` shows all."
            )
        seen.add(run.run_id)


def _told(one: _Labelled) -> ComparedRun:
    run = one.run
    return ComparedRun(
        label=one.label,
        run_id=run.run_id,
        chip=run.chip,
        suite=run.suite,
        model=run.model,
        device=run.device,
        host=run.environment.host,
        commit=run.environment.commit,
        branch=run.environment.branch,
        started_at=run.started_at,
        num_cases=len(one.rows),
        num_timed=sum(row.is_ok for row in one.rows),
        roofs=tuple((roof.what, roof.value, roof.unit) for roof in run.roofs.roofs),
        is_fake=run.environment.device.torch_device_type == FAKE,
        warnings=run.warnings,
    )


def _pair(first: _Labelled, second: _Labelled, tolerance: float, is_forced: bool) -> RunPair:
    ours, theirs = (accepted(one.run.records, one.run.roofs) for one in (first, second))
    compared = compare_records(ours, theirs, tolerance, is_forced)
    found = pairings(first.rows, second.rows)
    if not found:
        raise NothingMeasured(
            f"{first.run.run_id} and {second.run.run_id} have no problem with a time in common. "
            f"The first is suite {first.run.suite} of {first.run.model or 'no model'}, the second "
            f"{second.run.suite} of {second.run.model or 'no model'}; compare runs of one suite."
        )
    other_impls = _different_by_problem(ours, theirs)
    if other_impls and not is_forced:
        refuse(other_impls, len(found), "problems")
    labels = (first.label, second.label)
    waterfalls, reasons = _waterfalls(first, second)
    return RunPair(
        label=second.label,
        cases=_with_remarks(compared.comparisons, first, second),
        groups=groups_of(found, labels, tolerance),
        means=means_of(found, tolerance),
        missing=missing_of(first.rows, second.rows, labels),
        different_protocol=(*compared.different_protocol, *other_impls),
        waterfalls=waterfalls,
        no_waterfall=reasons,
        closures=_closures(ours, theirs),
    )


def _closures(first: Sequence[Record], second: Sequence[Record]) -> tuple[ClosureComparison, ...]:
    """The sums that a projection makes, where both have a layer and all of its ops."""
    theirs = {(one.layer, one.part): one.error for one in complete(headlines(closures_of(second)))}
    return tuple(
        ClosureComparison(layer=one.layer, part=one.part, first=one.error, second=other)
        for one in complete(headlines(closures_of(first)))
        if one.error is not None and (other := theirs.get((one.layer, one.part))) is not None
    )


def _different_by_problem(first: Sequence[Record], second: Sequence[Record]) -> dict[str, str]:
    """Problems that no implementation has in common and whose protocols differ, with the parts."""
    sides = [
        {
            record.case.id: record
            for record in records
            if record.status is Status.OK and record.protocol_hash
        }
        for records in (first, second)
    ]
    common = {_problem(sides[0][case_id]) for case_id in sides[0] if case_id in sides[1]}
    ours, theirs = ({_problem(record): record for record in side.values()} for side in sides)
    return {
        name: protocol_difference(record, theirs[name])
        for name, record in ours.items()
        if name in theirs
        and name not in common
        and record.protocol_hash != theirs[name].protocol_hash
    }


def _problem(record: Record) -> str:
    return (
        f"{record.case.problem.id}@{record.case.cache}"
        if record.case.cache
        else (record.case.problem.id)
    )


def _with_remarks(
    cases: Sequence[CaseComparison], first: _Labelled, second: _Labelled
) -> tuple[CaseComparison, ...]:
    """The cases with what to know of the two times of each."""
    sides = [(one.label, {row.case_id: row for row in one.rows}) for one in (first, second)]
    return tuple(
        replace(
            case,
            remarks=tuple(
                f"{label} {words}"
                for label, rows in sides
                for words in remarks_of(rows[case.case_id])
            ),
        )
        for case in cases
    )


def _waterfalls(
    first: _Labelled, second: _Labelled
) -> tuple[tuple[Waterfall, ...], tuple[str, ...]]:
    """Each step that both suites measure, taken apart; and why others are not."""
    ours, theirs = first.run.work, second.run.work
    if not ours or not theirs:
        without = [one.label for one in (first, second) if not one.run.work]
        return (), (
            f"No step is taken apart: the configuration of {' and '.join(without)} names no phase "
            "of a model. Suites training, inference and quick do.",
        )
    found: list[Waterfall] = []
    reasons: list[str] = []
    for work in ours:
        if work not in theirs:
            reasons.append(f"{second.label} does not measure the {work.title}.")
            continue
        made = waterfall(work, first.side, second.side)
        if made is None:
            reasons.append(f"No op of the {work.title} has a time on both.")
        else:
            found.append(made)
    reasons += [
        f"{first.label} does not measure the {work.title}." for work in theirs if work not in ours
    ]
    return tuple(found), tuple(reasons)
