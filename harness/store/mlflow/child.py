"""The process that talks to MLflow: a request on standard input, one result a line on output.

Started by `bounded.py`, which stops it when its time is up; what it has printed by then counts.
"""

import contextlib
import json
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mlflow import MlflowClient

from harness.codec import to_json
from harness.store.folder import RunFolder
from harness.store.mlflow.bounded import failed
from harness.store.mlflow.database import create_database, lock_of
from harness.store.mlflow.experiments import Experiments
from harness.store.mlflow.kinds import kinds_of
from harness.store.mlflow.ledger import Entry, folder_state, open_ledger
from harness.store.mlflow.outcome import SyncedRun, SyncResult, SyncState
from harness.store.mlflow.probe import unreachable
from harness.store.mlflow.reasons import is_conflict, is_outage, reason
from harness.store.mlflow.target import TrackingTarget
from harness.store.mlflow.writer import write_run

FIRST_WAIT_S = 0.5
MAX_WAIT_S = 10.0
"""Between two looks at a server that is away; each wait is twice the one before."""
MAX_TRIES = 10
"""Of eight writers of one folder two lost such a race; a bound, so that none tries for ever."""
MAX_PAUSE_S = 0.5
MAX_OUTAGES_OF_A_FOLDER = 5
"""A server that is well again after each failure with one folder does not like that folder."""


_VERBS = {
    SyncState.CREATED: "logged to",
    SyncState.COMPLETED: "brought up to date in",
    SyncState.UNCHANGED: "already in",
}


def _message(runs: Sequence[SyncedRun], state: SyncState, target: TrackingTarget) -> str:
    names = " and its ".join(run.kind for run in runs)
    if state is SyncState.DELETED:
        return (
            f"The {names} was deleted in MLflow at {target.shown} and is left so; "
            f"`mlflow runs restore --run-id {runs[-1].run_id}` brings it back."
        )
    be = "is" if len(runs) == 1 else "are"
    return f"The {names} {be} {_VERBS[state]} MLflow at {target.shown}."


class Session:
    """One client and what it knows of its target."""

    def __init__(self, target: TrackingTarget, vendors: Mapping[str, str]) -> None:
        self.target = target
        self.vendors = vendors
        self.client = MlflowClient(tracking_uri=target.uri, registry_uri=target.uri)
        self._experiments = Experiments(self.client, target)
        self._ledger = open_ledger(target)

    def sync_folder(self, folder: RunFolder) -> SyncResult:
        """All that the folder holds, each its own MLflow run. Raises whatever goes wrong."""
        began = time.monotonic()
        known = self._known(folder.path)
        if known is not None:
            return self._result(folder, SyncState.UNCHANGED, known.runs, began)
        # Before reading: what is written to the folder since is seen by the next sync.
        seen = folder_state(folder.path)
        kinds = kinds_of(folder)
        with self._writing():
            written = [
                write_run(self.client, self._experiments, kind.layout(folder, self.vendors))
                for kind in kinds
            ]
        runs = tuple(
            SyncedRun(kind=kind.name, experiment_id=one.experiment_id, run_id=one.run_id)
            for kind, one in zip(kinds, written, strict=True)
        )
        self._ledger.note(
            Entry(
                folder=str(folder.path),
                state=seen,
                runs=runs,
                experiments=tuple(
                    (run.experiment_id, self._experiments.made_ms(run.experiment_id))
                    for run in runs
                ),
            )
        )
        states = {one.state for one in written}
        deleted = [
            run for run, one in zip(runs, written, strict=True) if one.state is SyncState.DELETED
        ]
        if deleted:
            return self._result(folder, SyncState.DELETED, deleted, began)
        state = states.pop() if len(states) == 1 else SyncState.COMPLETED
        return self._result(folder, state, runs, began)

    def _known(self, folder: Path) -> Entry | None:
        """What the ledger says of the folder, where MLflow is still the one that it tells of."""
        entry = self._ledger.entry(folder)
        if entry is None:
            return None
        is_same = all(
            made_ms and self._experiments.made_ms(experiment_id) == made_ms
            for experiment_id, made_ms in entry.experiments
        )
        return entry if is_same else None

    def _writing(self) -> contextlib.AbstractContextManager[object]:
        """Writers of a SQLite file come one after the other; servers see to that themselves."""
        database = self.target.database_path
        return contextlib.nullcontext() if database is None else lock_of(database)

    def _result(
        self, folder: RunFolder, state: SyncState, runs: Sequence[SyncedRun], began: float
    ) -> SyncResult:
        return SyncResult(
            folder=str(folder.path),
            state=state,
            message=_message(runs, state, self.target),
            runs=tuple(runs),
            seconds=time.monotonic() - began,
        )


def open_session(target: TrackingTarget, vendors: Mapping[str, str]) -> Session:
    """A session, with the embedded database made by one process where there is none."""
    database = target.database_path
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
        with lock_of(database):
            create_database(database)
    return Session(target, vendors)


class Outage(Exception):  # noqa: N818 - it is a state of MLflow's, told as one
    """MLflow is away, or broken in a way that may pass; the text says how."""


def folder_result(session: Session, path: Path) -> SyncResult:
    """One folder, with what is wrong with it, or is refused, as a result that says so.

    Raises:
        Outage: when the same may go well later.
    """
    tries = 0
    while True:
        try:
            return session.sync_folder(RunFolder(path))
        except Exception as error:  # noqa: BLE001,RUF100 - one folder must not cost the others
            tries += 1
            if is_conflict(error) and tries < MAX_TRIES:
                # Not in step with the other writer.
                time.sleep(random.uniform(0, MAX_PAUSE_S))
                continue
            why = reason(error, session.target)
            if is_outage(error):
                raise Outage(why) from error
            return failed(path, why)


def sync_all(
    session: Session, paths: Sequence[Path], patience_s: float, tell: Callable[[SyncResult], None]
) -> None:
    """Each folder in turn; what MLflow's outages leave undone is told when patience ends."""
    for index, path in enumerate(paths):
        for outages in range(1, MAX_OUTAGES_OF_A_FOLDER + 1):
            try:
                tell(folder_result(session, path))
                break
            except Outage as outage:
                why = str(outage)
            still = wait_until_there(session.target, patience_s)
            if still or outages == MAX_OUTAGES_OF_A_FOLDER or not patience_s:
                # Whoever is broken for one folder is so for the next: nobody waits for each.
                for left in paths[index:]:
                    tell(failed(left, still or why))
                return


def wait_until_there(target: TrackingTarget, patience_s: float) -> str:
    """Wait while the server is away; why it still is after that time, or an empty string."""
    deadline = time.monotonic() + patience_s
    wait_s = FIRST_WAIT_S
    if not target.is_server:
        time.sleep(min(wait_s, patience_s))  # A port that answers says little of a database.
    while True:
        why = unreachable(target)
        left_s = deadline - time.monotonic()
        if not why or left_s <= 0:
            return why
        time.sleep(min(wait_s, left_s))
        wait_s = min(2 * wait_s, MAX_WAIT_S)


def main() -> None:
    """Read the request, sync each folder, print each result as soon as it is there."""
    request = json.load(sys.stdin)
    synced_file = request["synced_file"]
    target = TrackingTarget(
        uri=request["uri"],
        artifact_root=request["artifact_root"],
        ui_url=request["ui_url"],
        synced_file=Path(synced_file) if synced_file else None,
    )
    paths = [Path(path) for path in request["folders"]]
    # MLflow prints links and progress where it likes; results must stay alone.
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.disable(logging.WARNING)

    def tell(result: SyncResult) -> None:
        output.write(to_json(result) + "\n")
        output.flush()

    try:
        session = open_session(target, request["vendors"])
    except Exception as error:  # noqa: BLE001,RUF100 - told once, in one line
        sys.exit(reason(error, target))
    sync_all(session, paths, request["patience_s"], tell)


if __name__ == "__main__":
    main()
