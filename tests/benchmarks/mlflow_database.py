"""A database of thousands of runs in seconds, for trying how MLflow's UI and searches bear them.

One run of each chip is synced as any other; the rest are copies of its rows with an id, a commit,
times and values of their own, so that all is there that a sync writes. Artifacts are links to
those of the first run.

    python -m tests.benchmarks.mlflow_database FOLDER [--runs 2000] [--cases 50]
    chipscale ui --results-dir FOLDER
"""

import argparse
import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.record import Record
from harness.store.mlflow import SyncResult, TrackingTarget, sync, tracking_target
from tests.harness.sample_run import many_records, sample_info, sample_records, write_run

CHIPS = {"imaginary_x1": 1.0, "imaginary_x2": 0.7, "other_y1": 1.3, "other_y2": 0.9}
"""How long each takes over the first."""
SPACING_MS = 3_600_000
"""A run an hour, the last of them now."""


def _faster(record: Record, factor: float) -> Record:
    if record.measurement is None:
        return record
    samples_s = tuple(factor * sample_s for sample_s in record.measurement.samples_s)
    return replace(record, measurement=replace(record.measurement, samples_s=samples_s))


def _templates(results: Path, target: TrackingTarget, num_cases: int) -> tuple[SyncResult, ...]:
    # Whatever a run may hold comes first, then as many plain cases as were asked for.
    records = (*sample_records(), *many_records(num_cases, num_samples=10))[:num_cases]
    folders = [
        write_run(
            results / "runs",
            records=[_faster(record, factor) for record in records],
            info=sample_info(run_id=f"{chip}-first", chip=chip, num_cases=num_cases),
        )
        for chip, factor in CHIPS.items()
    ]
    synced = sync(folders, target, budget_s=600)
    for one in synced:
        assert one.is_done, one.message
    return synced


_COPIES = (
    # Of the template :first a run :id, :chip's number :number with its time in milliseconds.
    """INSERT INTO runs SELECT :id, substr(name, 1, instr(name, ' ')) || substr(:sha, 1, 7),
       source_type, source_name, entry_point_name, user_id, status, :end_ms - 160000, :end_ms,
       source_version, lifecycle_stage, replace(artifact_uri, :first, :id), experiment_id,
       deleted_time FROM runs WHERE run_uuid = :first""",
    """INSERT INTO tags (key, value, run_uuid) SELECT key, CASE key
       WHEN 'chipscale.run_uid' THEN :uid WHEN 'git_sha' THEN :sha
       WHEN 'mlflow.source.git.commit' THEN :sha WHEN 'git_branch' THEN :branch
       WHEN 'mlflow.runName' THEN substr(value, 1, instr(value, ' ')) || substr(:sha, 1, 7)
       ELSE value END, :id FROM tags WHERE run_uuid = :first""",
    """INSERT INTO params (key, value, run_uuid)
       SELECT key, value, :id FROM params WHERE run_uuid = :first""",
    """INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan)
       SELECT key, CASE WHEN key LIKE '%\\_us%' ESCAPE '\\' THEN value * :factor ELSE value END,
       :end_ms, :id, step, is_nan FROM metrics WHERE run_uuid = :first""",
    """INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)
       SELECT key, CASE WHEN key LIKE '%\\_us%' ESCAPE '\\' THEN value * :factor ELSE value END,
       :end_ms, step, is_nan, :id FROM latest_metrics WHERE run_uuid = :first""",
)


def _copies(
    templates: Sequence[SyncResult], num_runs: int, now_ms: int
) -> Iterator[dict[str, object]]:
    generator = np.random.default_rng(0)
    for number in range(num_runs - len(templates)):
        template = templates[number % len(templates)]
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        yield {
            "first": template.run_id,
            "id": digest[:32],
            "uid": f"copy-{number}",
            "sha": digest[:40],
            "branch": "main" if number % 5 else "faster-gemm",
            "end_ms": now_ms - number * SPACING_MS,
            "factor": float(generator.normal(1, 0.02)),
        }


def _link_artifacts(results: Path, experiment: str, first: str, copy: str) -> None:
    root = results / "mlartifacts" / "chipscale" / experiment
    for file in (root / first).rglob("*"):
        if file.is_file():
            to = root / copy / file.relative_to(root / first)
            to.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, to)


def build(results: Path, num_runs: int = 2000, num_cases: int = 50) -> TrackingTarget:
    """A results folder whose experiment `chipscale/quick` has that many runs on four chips."""
    target = tracking_target(results, {})
    assert target.database_path is not None
    assert not target.database_path.exists(), f"{target.database_path} is there already."
    templates = _templates(results, target, num_cases)
    with closing(sqlite3.connect(target.database_path)) as connection, connection:
        for copy in _copies(templates, num_runs, int(time.time() * 1000)):
            for statement in _COPIES:
                connection.execute(statement, copy)
            _link_artifacts(results, "quick", str(copy["first"]), str(copy["id"]))
    return target


def main() -> None:
    """Build it, and tell where it is."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--cases", type=int, default=50)
    options = parser.parse_args()
    began = time.monotonic()
    target = build(options.results.resolve(), options.runs, options.cases)
    print(f"{options.runs} runs in {time.monotonic() - began:.1f} s: {target.uri}")


if __name__ == "__main__":
    main()
