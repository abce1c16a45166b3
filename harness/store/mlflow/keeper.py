"""One MLflow run for each uid, however many processes of however many hosts write it at once.

MLflow has no key that may exist only once, so two writers that find nothing may both create. Each
therefore looks again after it created. Of the runs that are there the one with the smallest id is
the keeper; whoever sees another deletes that one and goes on with the keeper. Then:

- The smallest of all ids ever created is never deleted, since a run is deleted only by somebody
  who sees a smaller one.
- Whoever created last looks after all others were created, so it sees, and deletes, all but the
  smallest that are still there. Nobody creates after it, so one run is left.
- A writer whose run was deleted under it is refused by MLflow with its next value or tag. It
  looks again and brings the keeper up to date; writing the same values twice changes nothing.
- A writer that dies between creating and looking leaves one too many. It has told nobody that it
  was done, so its folder is synced again, and that sync looks first.

Searches must see what was committed before them: so do one server over one database, and several
over one. A run that a person deleted has no tag `chipscale.duplicate_of`, and stays deleted.
"""

from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run, ViewType
from mlflow.exceptions import MlflowException

from harness.store.mlflow.layout import UID_TAG

DUPLICATE_TAG = "chipscale.duplicate_of"
MAX_RUNS_OF_A_UID = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What MLflow has of a uid."""

    run: Run | None = None
    """The keeper; None when there is none yet."""
    is_deleted: bool = False
    """A person deleted it, so it is not there, and shall not be."""


def kept_run(client: MlflowClient, experiment_id: str, uid: str) -> Kept:
    """The keeper of that uid; all other runs with it are deleted."""
    quoted = uid.replace("'", "")  # Run ids hold none; a filter cannot escape one.
    found = sorted(
        client.search_runs(
            [experiment_id],
            filter_string=f"tags.`{UID_TAG}` = '{quoted}'",
            run_view_type=ViewType.ALL,
            max_results=MAX_RUNS_OF_A_UID,
        ),
        key=lambda run: str(run.info.run_id),
    )
    active = [run for run in found if run.info.lifecycle_stage == LifecycleStage.ACTIVE]
    if not active:
        by_person = any(DUPLICATE_TAG not in run.data.tags for run in found)
        return Kept(run=found[0] if by_person else None, is_deleted=by_person)
    keeper, *others = active
    for other in others:
        _delete(client, other.info.run_id, keeper.info.run_id)
    return Kept(run=keeper)


def is_gone(client: MlflowClient, run_id: str) -> bool:
    """Whether the run was deleted since it was found."""
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage != LifecycleStage.ACTIVE)
    except MlflowException:
        return False


def _delete(client: MlflowClient, run_id: str, keeper_id: str) -> None:
    """Two writers may see the same duplicate, and both be right."""
    try:
        client.set_tag(run_id, DUPLICATE_TAG, keeper_id)
        client.delete_run(run_id)
    except MlflowException:
        if not is_gone(client, run_id):
            raise
