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
    FAILED = "failed"
    """The folder is as safe as before, and can be synced later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncResult:
    """One folder's sync; a value, since MLflow being away is no error of a measurement."""

    folder: str
    state: SyncState
    message: str
    """A sentence for people; for FAILED it names the command that tries again."""
    experiment_id: str = ""
    run_id: str = ""
    """MLflow's id of the run; empty when there is none."""
    projection_experiment_id: str = ""
    projection_run_id: str = ""
    seconds: float = 0.0

    @property
    def is_done(self) -> bool:
        """MLflow holds all of the folder."""
        return self.state is not SyncState.FAILED
