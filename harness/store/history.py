"""The history of a results folder: its runs, as far as a history needs them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from harness.environment import Environment
from harness.errors import ChipscaleError
from harness.record import Record, Status
from harness.store.folder import RunFolder, run_folders
from harness.trend import HistoryRun


def history_run(
    folder: RunFolder,
    fingerprint: Callable[[Environment], str],
    records: Sequence[Record] | None = None,
) -> HistoryRun:
    """One run of the past.

    Args:
        folder: Of the run.
        fingerprint: Names the machine.
        records: Those to take in place of the folder's, as where some were measured again.

    Raises:
        RecordError: when the folder cannot be read.
    """
    info, environment = folder.info, folder.environment
    timed = [
        (record, record.measurement)
        for record in (folder.records() if records is None else records)
        if record.status is Status.OK and record.measurement is not None
    ]
    return HistoryRun(
        run_id=info.run_id,
        started_at=info.started_at,
        suite=info.suite,
        model=info.model,
        # A run that was killed has no name of its chip yet.
        chip=info.chip or environment.device.name,
        branch=environment.branch,
        commit=environment.commit,
        fingerprint=fingerprint(environment),
        medians_s=tuple(
            (record.case.id, float(np.median(measured.steady_samples_s)))
            for record, measured in timed
        ),
        protocols=tuple((record.case.id, record.protocol_hash) for record, _ in timed),
    )


def stored_history(
    root: Path, fingerprint: Callable[[Environment], str]
) -> tuple[tuple[HistoryRun, ...], tuple[str, ...]]:
    """All runs below `root` that have a time, oldest first, and a sentence on each unreadable."""
    runs, warnings = [], []
    for folder in run_folders(root):
        if not folder.has_records:
            continue
        try:
            run = history_run(folder, fingerprint)
        except ChipscaleError as error:
            warnings.append(f"left out of the history: {error}")
            continue
        if run.medians_s:
            runs.append(run)
    return tuple(runs), tuple(warnings)
