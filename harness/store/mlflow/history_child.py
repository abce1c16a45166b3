"""The process that reads a history: a request on standard input, a run a line on output.

Started by `history.py`, which stops it when its time is up.
"""

import json
import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from harness.codec import to_json
from harness.store.mlflow.layout import EXPERIMENT, TABLE, UID_TAG
from harness.store.mlflow.reasons import reason
from harness.store.mlflow.target import TrackingTarget
from harness.trend import HistoryRun

PAGE = 100


def matching_runs(client: MlflowClient, tags: Mapping[str, str], max_runs: int) -> list[Run]:
    """Runs of the suite's experiment with those tags, newest first."""
    experiment = client.get_experiment_by_name(f"{EXPERIMENT}/{tags['suite']}")
    if experiment is None:
        return []
    conditions = [f"tags.`{key}` = {_quoted(value)}" for key, value in tags.items()]
    found: list[Run] = []
    token = None
    while len(found) < max_runs:
        page = client.search_runs(
            [experiment.experiment_id],
            filter_string=" and ".join(conditions),
            order_by=["attributes.start_time DESC"],
            max_results=PAGE,
            page_token=token,
        )
        # A gate's sides are measured by another policy, and one of them may have regressed.
        found += [run for run in page if "role" not in run.data.tags]
        token = page.token
        if not token:
            break
    return found[:max_runs]


def _quoted(value: str) -> str:
    """A text of MLflow's filter, which has no escape for the quote that ends it."""
    return f'"{value}"' if "'" in value else f"'{value}'"


def history_run(client: MlflowClient, run: Run, folder: Path) -> HistoryRun | None:
    """One run with the medians of its table; None where it has none."""
    tags = run.data.tags
    try:
        path = client.download_artifacts(run.info.run_id, TABLE, str(folder))
    except (MlflowException, OSError):
        return None
    table = json.loads(Path(path).read_text(encoding="utf-8"))
    place = {name: index for index, name in enumerate(table["columns"])}
    medians, protocols = [], []
    for row in table["data"]:
        case_id, median_us = row[place["case_id"]], row[place["median_us"]]
        if median_us is None:
            continue
        medians.append((case_id, median_us * 1e-6))
        # Tables of older versions have no such column.
        if "protocol_hash" in place and row[place["protocol_hash"]]:
            protocols.append((case_id, row[place["protocol_hash"]]))
    started = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
    return HistoryRun(
        run_id=tags.get(UID_TAG, run.info.run_id),
        started_at=started.isoformat(timespec="seconds"),
        suite=tags.get("suite", ""),
        model=tags.get("model", ""),
        chip=tags.get("chip", ""),
        branch=tags.get("git_branch", ""),
        commit=tags.get("git_sha", ""),
        fingerprint=tags.get("fingerprint", ""),
        medians_s=tuple(medians),
        protocols=tuple(protocols),
    )


def main() -> None:
    """Read the request, print each run, oldest first."""
    request = json.load(sys.stdin)
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.disable(logging.WARNING)
    target = TrackingTarget(uri=request["uri"], artifact_root=None, ui_url=request["uri"])
    try:
        client = MlflowClient(tracking_uri=target.uri, registry_uri=target.uri)
        for run in reversed(matching_runs(client, request["tags"], request["max_runs"])):
            with tempfile.TemporaryDirectory() as folder:
                found = history_run(client, run, Path(folder))
            if found is not None and found.medians_s:
                output.write(to_json(found) + "\n")
        output.flush()
    except Exception as error:  # noqa: BLE001,RUF100 - told once, in one line
        sys.exit(reason(error, target))


if __name__ == "__main__":
    main()
