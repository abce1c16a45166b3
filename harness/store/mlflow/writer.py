"""Brings one MLflow run to what the layout says: from nothing, from a part, or not at all."""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from harness.errors import ChipscaleError
from harness.store.mlflow.layout import (
    CONTENT_TAG,
    NOTE_TAG,
    SYNC_TAG,
    UID_TAG,
    Artifact,
    Point,
    RunContent,
)
from harness.store.mlflow.outcome import SyncState
from harness.store.mlflow.target import TrackingTarget

ARTIFACTS_TAG = "chipscale.artifacts"
NOTE_HASH_TAG = "chipscale.note_sha256"
MAX_METRICS_OF_A_BATCH = 1000
MAX_TAGS_OF_A_BATCH = 100
MAX_TAG = 7900
MAX_PARAM = 5900


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The MLflow run, and what had to be done."""

    experiment_id: str
    run_id: str
    state: SyncState


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def content_hash(content: RunContent, artifacts: Mapping[str, str]) -> str:
    """Equal for contents that would leave MLflow as it is."""
    parts = (content.tags, content.params, content.is_finished, content.end_ms, artifacts)
    points = [(point.key, point.value, point.step) for point in content.points]
    return _short_hash(json.dumps([parts, points], sort_keys=True))


def _experiment_id(client: MlflowClient, target: TrackingTarget, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = None
        if target.artifact_root is not None:
            location = (Path(target.artifact_root) / name).as_uri()
        try:
            return client.create_experiment(name, artifact_location=location)
        except MlflowException:
            # Another process may have made it since; if not, there is a reason to tell.
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        raise ChipscaleError(
            f"The experiment {name} was deleted in MLflow; "
            f"`mlflow experiments restore -x {experiment.experiment_id}` brings it back"
        )
    return str(experiment.experiment_id)


def _describe_experiment(client: MlflowClient, experiment_id: str, content: RunContent) -> None:
    """Its note and saved views; best effort, since the format of views is not a public one."""
    try:
        held = client.get_experiment(experiment_id).tags
        if NOTE_TAG not in held:
            client.set_experiment_tag(experiment_id, NOTE_TAG, content.about)
        for view in content.views:
            if not view.is_held_by(held.get(view.tag, "")):
                client.set_experiment_tag(experiment_id, view.tag, view.value(content.end_ms))
    except MlflowException:
        return


def _find(client: MlflowClient, experiment_id: str, uid: str) -> Run | None:
    quoted = uid.replace("'", "")  # Run ids hold none; a filter cannot escape one.
    runs = client.search_runs(
        [experiment_id], filter_string=f"tags.`{UID_TAG}` = '{quoted}'", max_results=1
    )
    return runs[0] if runs else None


def _batches(points: tuple[Point, ...]) -> Iterator[tuple[Point, ...]]:
    for start in range(0, len(points), MAX_METRICS_OF_A_BATCH):
        yield points[start : start + MAX_METRICS_OF_A_BATCH]


def _log_values(client: MlflowClient, run: Run, content: RunContent) -> None:
    """Metrics and the params that are not there yet, since MLflow never changes a param.

    All points carry the run's end as their time: sent again they are the same points, and a
    resumed run's newer ones win.
    """
    params = [
        Param(key, value[:MAX_PARAM]) for key, value in content.params if key not in run.data.params
    ]
    client.log_batch(run.info.run_id, params=params)
    for batch in _batches(content.points):
        metrics = [
            Metric(point.key, point.value, max(content.end_ms, 0), point.step) for point in batch
        ]
        client.log_batch(run.info.run_id, metrics=metrics)


def _log_artifacts(
    client: MlflowClient, run: Run, artifacts: Mapping[str, Artifact], hashes: Mapping[str, str]
) -> None:
    """The files whose content MLflow does not hold yet, by their hashes."""
    try:
        held = json.loads(run.data.tags.get(ARTIFACTS_TAG, "{}"))
    except json.JSONDecodeError:
        held = {}
    for path, artifact in artifacts.items():
        if held.get(path) == hashes[path]:
            continue
        folder, _, name = path.rpartition("/")
        if artifact.source is not None:
            client.log_artifact(run.info.run_id, str(artifact.source), folder or None)
            continue
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / name
            file.write_text(artifact.text, encoding="utf-8")
            client.log_artifact(run.info.run_id, str(file), folder or None)


def _tags(content: RunContent, held: Mapping[str, str]) -> dict[str, str]:
    """The run's tags; a description that a person has edited since is left as it is."""
    tags = {key: value[:MAX_TAG] for key, value in content.tags}
    note = tags.get(NOTE_TAG, "")
    held_note = held.get(NOTE_TAG)
    if held_note is not None and _short_hash(held_note) != held.get(NOTE_HASH_TAG):
        tags.pop(NOTE_TAG, None)
    else:
        tags[NOTE_HASH_TAG] = _short_hash(note)
    return tags


def _log_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    items = [RunTag(key, value) for key, value in tags.items()]
    for start in range(0, len(items), MAX_TAGS_OF_A_BATCH):
        client.log_batch(run_id, tags=items[start : start + MAX_TAGS_OF_A_BATCH])


def write_run(client: MlflowClient, target: TrackingTarget, content: RunContent) -> Written:
    """One run, with its experiment and views; its times are those of the measurement.

    The tag `chipscale.sync` is `partial` from the first call to the last, so that whatever
    stops this, the next sync finds the run and finishes it.
    """
    artifacts = {artifact.path: artifact for artifact in content.artifacts}
    hashes = {path: artifact.sha256()[:16] for path, artifact in artifacts.items()}
    wanted = content_hash(content, hashes)
    experiment_id = _experiment_id(client, target, content.experiment)
    run = _find(client, experiment_id, content.uid)
    held = run.data.tags if run is not None else {}
    if run is not None and held.get(CONTENT_TAG) == wanted:
        return Written(
            experiment_id=experiment_id, run_id=run.info.run_id, state=SyncState.UNCHANGED
        )
    state = SyncState.CREATED if run is None else SyncState.COMPLETED
    _describe_experiment(client, experiment_id, content)
    if run is None:
        run = client.create_run(
            experiment_id,
            start_time=content.start_ms,
            tags={UID_TAG: content.uid, SYNC_TAG: "partial"},
            run_name=content.name,
        )
    else:
        client.set_tag(run.info.run_id, SYNC_TAG, "partial")
    run_id = run.info.run_id
    _log_values(client, run, content)
    _log_artifacts(client, run, artifacts, hashes)
    tags = _tags(content, held)
    tags[ARTIFACTS_TAG] = json.dumps(hashes)[:MAX_TAG]
    _log_tags(client, run_id, tags)
    client.set_terminated(
        run_id, "FINISHED" if content.is_finished else "KILLED", end_time=content.end_ms
    )
    done = {SYNC_TAG: "complete" if content.is_finished else "partial", CONTENT_TAG: wanted}
    _log_tags(client, run_id, done)
    return Written(experiment_id=experiment_id, run_id=run_id, state=state)
