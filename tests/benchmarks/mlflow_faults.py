"""The fault run: a server killed and started again while eight processes sync to it.

Each process is a `chipscale sync` with a results folder and a TMPDIR of its own, as on eight hosts,
and is called again while it fails, as by a timer. One run is in the folders of all eight.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from harness.store.folder import RunFolder
from harness.store.interface import free_port, running_server
from harness.store.mlflow import TrackingTarget, prepare, tracking_target
from harness.store.mlflow.kinds import kinds_of
from harness.store.mlflow.layout import UID_TAG
from tests.harness.sample_run import sample_info, sample_records, write_run

NUM_WRITERS = 8
CONTESTED = "contested"
MAX_TRIES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRun:
    """What the server held in the end."""

    num_writers: int
    num_folders: int
    """All different, with the one that all writers had."""
    num_kills: int
    num_calls: int
    """Of `chipscale sync`; the number of writers where each needed one."""
    num_once: int
    """Folders that the server has exactly one run of."""
    num_missing: int
    num_twice: int
    num_duplicates_removed: int
    """Runs that were created at the same time as another of their folder."""
    num_complete: int
    """Runs with all metrics, params and tags that they should have."""
    num_with_all_artifacts: int
    seconds: float

    @property
    def is_whole(self) -> bool:
        """Every run there exactly once, with all that belongs to it."""
        counts = (self.num_once, self.num_complete, self.num_with_all_artifacts)
        return set(counts) == {self.num_folders}


@contextmanager
def _killable(database: TrackingTarget) -> Iterator[tuple[str, "Server"]]:
    with ExitStack() as stack:
        server = Server(database, stack)
        server.start()
        yield server.url, server


class Server:
    """On one port, so that those who use it find it again."""

    def __init__(self, database: TrackingTarget, stack: ExitStack) -> None:
        self._database = database
        self._port = free_port(0)
        self._outer = stack
        self._stack = stack.enter_context(ExitStack())

    def start(self) -> None:
        """Returns when it answers."""
        served, self._process = self._stack.enter_context(
            running_server(self._database, self._port)
        )
        self.url = served.ui_url

    def kill(self) -> None:
        """As a crash or the kernel would, in the middle of whatever it does."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._stack.close()


def _sync(url: str, host: Path) -> "subprocess.Popen[bytes]":
    temporary = host / "tmp"
    temporary.mkdir(exist_ok=True)
    with (host / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "harness", "sync", "--results-dir", str(host / "results")],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "MLFLOW_TRACKING_URI": url,
                "TMPDIR": str(temporary),
            },
            stdout=log,
            stderr=log,
        )


def _hosts(root: Path, num_runs_of_each: int) -> tuple[Path, ...]:
    hosts = []
    for number in range(NUM_WRITERS):
        host = root / f"host{number}"
        for name in (*(f"h{number}-r{run:03d}" for run in range(num_runs_of_each)), CONTESTED):
            write_run(
                host / "results" / "runs",
                records=sample_records()[:24],
                info=sample_info(run_id=name, num_cases=24),
            )
        hosts.append(host)
    return tuple(hosts)


def fault_run(root: Path, *, num_runs_of_each: int, num_kills: int, seed: int = 0) -> FaultRun:
    """Sync all of it through so many kills, each after the server has taken some more."""
    database = tracking_target(root / "server", {})
    (root / "server").mkdir(parents=True)
    why = prepare(database)
    assert not why, why
    hosts = _hosts(root, num_runs_of_each)
    pauses = random.Random(seed)
    began = time.monotonic()
    with _killable(database) as (url, server):
        syncing = {host: _sync(url, host) for host in hosts}
        num_calls, num_killed, running_since = NUM_WRITERS, 0, time.monotonic()
        pause_s = 8.0 + pauses.uniform(0, 6)
        while syncing:
            time.sleep(0.1)
            if num_killed < num_kills and time.monotonic() - running_since > pause_s:
                server.kill()
                num_killed += 1
                time.sleep(pauses.uniform(0.5, 4))
                server.start()
                running_since, pause_s = time.monotonic(), pauses.uniform(2, 8)
            for host, process in tuple(syncing.items()):
                code = process.poll()
                if code == 0:
                    del syncing[host]
                elif code is not None:
                    num_calls += 1
                    assert num_calls < NUM_WRITERS * MAX_TRIES, (host / "log.txt").read_text()
                    syncing[host] = _sync(url, host)
        seconds = time.monotonic() - began
        return _found(url, hosts, num_killed, num_calls, seconds)


def _found(
    url: str, hosts: Sequence[Path], num_kills: int, num_calls: int, seconds: float
) -> FaultRun:
    client = MlflowClient(tracking_uri=url)
    experiment = client.get_experiment_by_name("chipscale/quick")
    assert experiment is not None
    where, active = [experiment.experiment_id], ViewType.ACTIVE_ONLY
    runs = client.search_runs(where, run_view_type=active, max_results=5000)
    deleted = client.search_runs(where, run_view_type=ViewType.DELETED_ONLY, max_results=5000)
    folders = {path.name: path for host in hosts for path in (host / "results/runs").iterdir()}
    times = Counter(run.data.tags[UID_TAG] for run in runs)
    return FaultRun(
        num_writers=len(hosts),
        num_folders=len(folders),
        num_kills=num_kills,
        num_calls=num_calls,
        num_once=sum(times[name] == 1 for name in folders),
        num_missing=sum(times[name] == 0 for name in folders),
        num_twice=sum(times[name] > 1 for name in folders),
        num_duplicates_removed=len(deleted),
        num_complete=sum(_is_complete(client, run, folders) for run in runs),
        num_with_all_artifacts=sum(_has_artifacts(client, run, folders) for run in runs),
        seconds=seconds,
    )


def _is_complete(client: MlflowClient, run: Run, folders: dict[str, Path]) -> bool:
    folder = RunFolder(folders[run.data.tags[UID_TAG]])
    content = kinds_of(folder)[0].layout(folder, {})
    keys = {point.key for point in content.points}
    tags = {key for key, _ in content.tags}
    is_whole = (
        set(run.data.metrics) == keys
        and set(run.data.params) == {key for key, _ in content.params}
        and tags <= set(run.data.tags)
        and run.data.tags["chipscale.sync"] == "complete"
        and (run.info.start_time, run.info.end_time) == (content.start_ms, content.end_ms)
    )
    steps = {(point.key, point.step) for point in content.points}
    some = sorted(keys)[:: max(1, len(keys) // 5)]
    return is_whole and all(
        {one.step for one in client.get_metric_history(run.info.run_id, key)}
        == {step for name, step in steps if name == key}
        for key in some
    )


def _has_artifacts(client: MlflowClient, run: Run, folders: dict[str, Path]) -> bool:
    folder = folders[run.data.tags[UID_TAG]]
    to = folder.parent.parent / "held" / run.info.run_id
    to.mkdir(parents=True)
    try:
        held = Path(client.download_artifacts(run.info.run_id, "", str(to)))
        same = all(
            (held / name).read_bytes() == (folder / name).read_bytes()
            for name in ("records.jsonl", "environment.json", "run.json", "report.html")
        )
        return same and bool(json.loads((held / "results.json").read_text("utf-8"))["data"])
    except (OSError, ValueError):
        return False
    finally:
        shutil.rmtree(to)
