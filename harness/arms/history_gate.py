"""A gate against the history of a branch: the head is measured, the base was, night after night.

It advises: runs of other days differ though nothing changed. See `harness/history/` for the rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from harness.arms.hold import held
from harness.arms.measuring import (
    OpenGate,
    Ready,
    arm_of,
    prepared,
    refuse_nothing,
    round_folders,
    round_warnings,
)
from harness.arms.source import StoredHistory
from harness.arms.turns import GateWatcher, Notices, Turns
from harness.errors import NothingMeasured
from harness.fingerprint import fingerprint
from harness.gate.decide import with_exemption
from harness.gate.exemptions import read_exemptions
from harness.gate.rounds import Round
from harness.gate.validity import fault_of
from harness.gate_result import Arm, GateResult
from harness.history.choosing import HistoryQuery, choose_runs
from harness.history.stored_baseline import MAX_RUNS, MIN_RUNS, judge_against
from harness.record import Record
from harness.run import RUNS
from harness.store.history import history_run, stored_history
from harness.store.mlflow import tracking_target
from harness.store.mlflow.history import MAX_RUNS as MAX_READ
from harness.store.mlflow.history import mlflow_history
from harness.trend import HistoryRun
from harness.units import signed_percent

HEAD_PROCESSES = 3
"""The median of three keeps one disturbed process from raising an alarm."""
TOLD_FROM = 0.01
"""Shift of a whole suite, as a share; sessions of one machine differ by as much or more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    runs: tuple[HistoryRun, ...]
    warnings: tuple[str, ...]


def measure_against_history(gate: OpenGate, watcher: GateWatcher) -> GateResult:
    """Measure the head in fresh processes, and hold it against the newest runs of the history.

    Raises:
        NothingMeasured: when the history has no run of this machine, or the head has no time.
        RecordError: when MLflow cannot be read, or no run has what is asked for.
        ConfigError, DeviceBusyError, StorageError, KeyboardInterrupt: as `measure_gate`.
    """
    order = gate.order
    assert isinstance(order.base, StoredHistory), "asked of gates against a history"
    exemptions = read_exemptions(order.exemptions_file).exemptions
    notices = Notices(watcher)
    ready = prepared(gate, notices)
    # Before anything is measured: without a history there is nothing to measure for.
    chosen = _history(order.base, gate, ready)
    turns = Turns(base=ready.base, head=ready.head, watcher=watcher)
    with held(ready.environment, order.job.device.index, order.gate_id, notices):
        rounds = tuple(turns.rounds(range(1, HEAD_PROCESSES + 1), ready.case_ids))
    refuse_nothing(rounds, order, ("head",))
    folders = round_folders(order, "head")
    # The rounds' records and not the folders': what failed once was measured again.
    heads = [
        history_run(folder, fingerprint, one.head)
        for folder, one in zip(folders, rounds, strict=False)
    ]
    found = judge_against(chosen.runs, heads, order.policy.tolerance, _faults(rounds))
    today = datetime.now(UTC).date()
    wanted = set(ready.case_ids)
    cases = (
        with_exemption(case, exemptions, today)
        for case in found.cases
        if not order.only or case.case_id in wanted
    )
    common = (
        f"The cases' median is {signed_percent(found.common)} against the stored runs. That is "
        "taken off each, being of the day and not of a case; name a revision as base to measure "
        "both now."
    )
    return GateResult(
        gate_id=order.gate_id,
        suite=order.job.run.suite,
        model=order.job.run.model,
        chip=order.chip_name(ready.environment),
        fingerprint=ready.fingerprint,
        base=_base_arm(order.base.label, chosen.runs),
        head=arm_of(gate.head, folders),
        cases=tuple(replace(case, reproduce=order.reproduce(case.case_id)) for case in cases),
        num_rounds=len(rounds),
        is_interleaved=False,
        is_advisory=order.is_advisory or not order.is_strict_stored,
        common_shift=found.shift,
        warnings=(
            *notices.sentences,
            *chosen.warnings,
            *([common] if abs(found.common) > TOLD_FROM else []),
            *round_warnings({"head": folders}, rounds),
        ),
        started_at=order.started_at,
        ended_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=order.command,
    )


def _faults(rounds: Sequence[Round]) -> dict[str, str]:
    """The head's cases that are wrong, failed or were disturbed, with the reason."""
    by_case: dict[str, list[Record]] = {}
    for one in rounds:
        for record in one.head:
            by_case.setdefault(record.case.id, []).append(record)
    found = {case_id: fault_of(records) for case_id, records in by_case.items()}
    return {case_id: fault for case_id, fault in found.items() if fault}


def _history(base: StoredHistory, gate: OpenGate, ready: Ready) -> _Chosen:
    """The newest runs of this suite and machine, on the branch that is asked for.

    Raises:
        NothingMeasured: where there are none, or too few to know their spread.
    """
    order = gate.order
    results_dir = order.folder.parents[1]
    query = replace(
        base.query,
        suite=order.job.run.suite,
        model=order.job.run.model,
        fingerprint=base.query.fingerprint or ready.fingerprint,
        last=base.query.last or MAX_RUNS,
    )
    runs, warnings = _runs(base.store, query, results_dir)
    of_machine = [
        run
        for run in runs
        if (run.suite, run.model, run.fingerprint) == (query.suite, query.model, query.fingerprint)
    ]
    if not of_machine:
        raise NothingMeasured(
            f"base: {base.label} has no run of suite {query.suite} and model {query.model} on this "
            f"machine ({query.fingerprint}). `chipscale run suite={query.suite}` makes one each "
            "night; a baseline needs "
            f"{MIN_RUNS}."
        )
    kept = choose_runs(of_machine, query).runs
    if len(kept) < MIN_RUNS:
        raise NothingMeasured(
            f"base: {base.label} has {len(kept)} runs of suite {query.suite} on this machine, and "
            f"the spread of fewer than {MIN_RUNS} is not known. Let it run some nights more, or "
            "name a revision as base: then both are measured now."
        )
    return _Chosen(runs=kept, warnings=warnings)


def _runs(
    store: str, query: HistoryQuery, results_dir: Path
) -> tuple[tuple[HistoryRun, ...], tuple[str, ...]]:
    if store == "history":
        return stored_history(results_dir / RUNS, fingerprint)
    tags = {"suite": query.suite, "model": query.model, "fingerprint": query.fingerprint}
    if query.branch not in ("", "any"):
        tags["git_branch"] = query.branch
    known = {key: value for key, value in tags.items() if value}
    # Without a branch it is chosen among all runs, so none may be cut off before.
    max_runs = query.last if "git_branch" in known else MAX_READ
    return mlflow_history(tracking_target(results_dir), known, max_runs=max_runs), ()


def _base_arm(label: str, runs: Sequence[HistoryRun]) -> Arm:
    newest = runs[-1]
    return Arm(
        label=f"{label} ({len(runs)} runs)",
        commit=newest.commit,
        branch=newest.branch,
        run_ids=tuple(run.run_id for run in runs),
    )
