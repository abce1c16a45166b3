"""The experiments that runs go to: found or made, and described, once in a process."""

from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from harness.errors import ChipscaleError
from harness.store.mlflow.layout import NOTE_TAG, RunContent
from harness.store.mlflow.target import TrackingTarget


class Experiments:
    """Those of one target that this process has to do with."""

    def __init__(self, client: MlflowClient, target: TrackingTarget) -> None:
        self._client = client
        self._target = target
        self._id_of: dict[str, str] = {}
        self._made_ms: dict[str, int] = {}

    def id_of(self, content: RunContent) -> str:
        """Of the experiment of the run, which then has its note and its views.

        Raises:
            ChipscaleError: when it was deleted in MLflow, with the command that brings it back.
        """
        if content.experiment not in self._id_of:
            found = self._find_or_make(content.experiment)
            self._describe(found, content)
            self._id_of[content.experiment] = found
        return self._id_of[content.experiment]

    def made_ms(self, experiment_id: str) -> int:
        """When it was made; 0 when there is none of that id any more."""
        if experiment_id not in self._made_ms:
            try:
                found = self._client.get_experiment(experiment_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return 0
            if found.lifecycle_stage == "deleted":
                return 0
            self._made_ms[experiment_id] = int(found.creation_time or 0)
        return self._made_ms[experiment_id]

    def _find_or_make(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            location = None
            if self._target.artifact_root is not None:
                location = (Path(self._target.artifact_root) / name).as_uri()
            try:
                return str(self._client.create_experiment(name, artifact_location=location))
            except MlflowException:
                # Another process may have made it since; if not, there is a reason to tell.
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage == "deleted":
            raise ChipscaleError(
                f"The experiment {name} was deleted in MLflow; "
                f"`mlflow experiments restore -x {experiment.experiment_id}` brings it back"
            )
        return str(experiment.experiment_id)

    def _describe(self, experiment_id: str, content: RunContent) -> None:
        """Its note and saved views; best effort, since the format of views is not a public one.

        Nor may everyone who logs a run change an experiment.
        """
        try:
            held = self._client.get_experiment(experiment_id).tags
            if NOTE_TAG not in held:
                self._client.set_experiment_tag(experiment_id, NOTE_TAG, content.about)
            for view in content.views:
                if not view.is_held_by(held.get(view.tag, "")):
                    value = view.value(content.end_ms)
                    self._client.set_experiment_tag(experiment_id, view.tag, value)
        except MlflowException:
            return
