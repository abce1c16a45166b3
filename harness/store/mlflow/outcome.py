"""What became of bringing a run folder into MLflow."""

from dataclasses import dataclass
from enum import StrEnum


class SyncState(StrEnum):
    """What a sync did."""

    CREATED = "created"
    """MLflow had nothing of the folder."""
    COMPLETED = "completed"
    """MLflow had a part or an older state of it, and now has all."""
    UNCHANGED = "unchanged"
    """MLflow had all of it."""
    DELETED = "deleted"
    """A person deleted the run in MLflow, so it is left away."""
    FAILED = "failed"
    """The folder is as safe as before, and can be synced later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncedRun:
    """The MLflow run of one of the things that a folder holds."""

    kind: str
    """`run`, `projection` ...: the names of `kinds.py`."""
    experiment_id: str
    run_id: str
    """MLflow's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncResult:
    """One folder's sync; a value, since MLflow being away is no error of a measurement."""

    folder: str
    state: SyncState
    message: str
    """A sentence for people; for FAILED it names the command that tries again."""
    runs: tuple[SyncedRun, ...] = ()
    """One for each thing that the folder holds."""
    seconds: float = 0.0

    @property
    def run_id(self) -> str:
        """MLflow's id of the first of them; empty when there is none."""
        return self.runs[0].run_id if self.runs else ""

    @property
    def experiment_id(self) -> str:
        """Where the first of them is; empty when there is none."""
        return self.runs[0].experiment_id if self.runs else ""

    def run_of(self, kind: str) -> SyncedRun | None:
        """That of one kind, if the folder holds one."""
        return next((run for run in self.runs if run.kind == kind), None)

    @property
    def is_done(self) -> bool:
        """MLflow holds all of the folder, or a person wanted it away."""
        return self.state is not SyncState.FAILED
