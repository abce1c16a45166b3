"""Brings one MLflow run to what the layout says: from nothing, from a part, or not at all."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from harness.store.mlflow.experiments import Experiments
from harness.store.mlflow.keeper import Kept, is_gone, kept_run
from harness.store.mlflow.layout import (
    CONTENT_TAG,
    NOTE_TAG,
    SYNC_TAG,
    UID_TAG,
    Artifact,
    RunContent,
)
from harness.store.mlflow.outcome import SyncState

ARTIFACTS_TAG = "chipscale.artifacts"
NOTE_HASH_TAG = "chipscale.note_sha256"
MAX_ENTITIES_OF_A_BATCH = 1000
"""MLflow's own limit, on metrics, params and tags together."""
MAX_ATTEMPTS = 5
"""To find the run deleted as often while writing it, all of that many writers must have come."""
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
    points = [(point.key, point.value, point.step, point.time_ms) for point in content.points]
    return _short_hash(json.dumps([parts, points], sort_keys=True))


def _log_values(client: MlflowClient, run: Run, content: RunContent) -> None:
    """Metrics, and the params that are not there yet, since MLflow never changes a param.

    A case's points carry the time it was measured at, all others the run's end: sent again they
    are the same points, and a resumed run's newer ones win.
    """
    params = [
        Param(key, value[:MAX_PARAM]) for key, value in content.params if key not in run.data.params
    ]
    end_ms = max(content.end_ms, 0)
    metrics = [
        Metric(
            point.key, point.value, end_ms if point.time_ms is None else point.time_ms, point.step
        )
        for point in content.points
    ]
    partial = [RunTag(SYNC_TAG, "partial")]
    first = MAX_ENTITIES_OF_A_BATCH - len(params) - len(partial)
    client.log_batch(run.info.run_id, metrics=metrics[:first], params=params, tags=partial)
    for start in range(first, len(metrics), MAX_ENTITIES_OF_A_BATCH):
        batch = metrics[start : start + MAX_ENTITIES_OF_A_BATCH]
        client.log_batch(run.info.run_id, metrics=batch)


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


def write_run(client: MlflowClient, experiments: Experiments, content: RunContent) -> Written:
    """One run, with its experiment and views; its times are those of the measurement.

    The tag `chipscale.sync` is `partial` from the first call to the last, so that whatever
    stops this, the next sync finds the run and finishes it.
    """
    artifacts = {artifact.path: artifact for artifact in content.artifacts}
    hashes = {path: artifact.sha256()[:16] for path, artifact in artifacts.items()}
    experiment_id = experiments.id_of(content)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        kept = kept_run(client, experiment_id, content.uid)
        is_new = kept.run is None
        if kept.run is None:
            client.create_run(
                experiment_id,
                start_time=content.start_ms,
                tags={UID_TAG: content.uid, SYNC_TAG: "partial"},
                run_name=content.name,
            )
            kept = kept_run(client, experiment_id, content.uid)
        assert kept.run is not None
        run_id = kept.run.info.run_id
        try:
            state = _bring_up_to_date(client, kept, content, artifacts, hashes)
        except MlflowException:
            # Another writer has made one that is kept instead, or a person deleted it just now.
            if attempt == MAX_ATTEMPTS or not is_gone(client, run_id):
                raise
            continue
        if is_new and state is SyncState.COMPLETED:
            state = SyncState.CREATED
        return Written(experiment_id=experiment_id, run_id=run_id, state=state)
    raise AssertionError("the last attempt returns or raises")


def _bring_up_to_date(
    client: MlflowClient,
    kept: Kept,
    content: RunContent,
    artifacts: Mapping[str, Artifact],
    hashes: Mapping[str, str],
) -> SyncState:
    assert kept.run is not None
    run, held = kept.run, kept.run.data.tags
    wanted = content_hash(content, hashes)
    if kept.is_deleted:
        return SyncState.DELETED
    if held.get(CONTENT_TAG) == wanted:
        return SyncState.UNCHANGED
    _log_values(client, run, content)
    _log_artifacts(client, run, artifacts, hashes)
    tags = _tags(content, held)
    tags[ARTIFACTS_TAG] = json.dumps(hashes)[:MAX_TAG]
    _log_tags(client, run.info.run_id, tags)
    client.set_terminated(
        run.info.run_id,
        "FINISHED" if content.is_finished else "KILLED",
        end_time=content.end_ms,
    )
    done = {SYNC_TAG: "complete" if content.is_finished else "partial", CONTENT_TAG: wanted}
    _log_tags(client, run.info.run_id, done)
    return SyncState.COMPLETED
