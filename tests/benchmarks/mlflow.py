"""`make bench-mlflow`: how fast runs get into MLflow, and whether all do when its server dies.

    python -m tests.benchmarks.mlflow [--cases 1000 10000] [--runs 200] [--searched 2000]
                                      [--kills 3] [--fault-runs 6] [--out FILE]

Logging is timed as at the end of a run, with the start of the process that imports MLflow, on a
SQLite database that exists; `cpu_s` is what that process had of a core, which other work on the
host does not lengthen; the target holds for the smaller of the two. Writes
results/bench/mlflow.json; exits with 1 when a target is missed.
"""

import argparse
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import mlflow
from mlflow import MlflowClient
from rich.console import Console
from rich.table import Table

from harness.environment import num_usable_cores, processor_name
from harness.store.folder import RunFolder
from harness.store.mlflow import TrackingTarget, prepare, sync, tracking_target
from harness.units import duration
from tests.benchmarks.kept_result import keep
from tests.benchmarks.mlflow_database import build
from tests.benchmarks.mlflow_faults import FaultRun, fault_run
from tests.harness.sample_run import many_records, sample_info, sample_records, write_run

OUT = Path("results/bench/mlflow.json")
MAX_SECONDS_OF_1000_CASES = 5.0
CASES_OF_A_RUN = 24
UI_PAGE = 100
"""Runs that MLflow's page asks for at a time."""
BUDGET_S = 3600.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One thing done."""

    what: str
    number: int
    seconds: float
    cpu_s: float
    """Of the processes that were started for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MlflowSpeed:
    """All that was measured, and where."""

    processor: str
    num_cores: int
    load: float
    python: str
    mlflow: str
    timed: tuple[Timed, ...]
    faults: FaultRun | None

    @property
    def misses(self) -> tuple[str, ...]:
        """Targets that were not reached, one sentence each."""
        found = [
            f"{one.number} cases take {one.seconds:.1f} s to log ({one.cpu_s:.1f} s of a core)."
            for one in self.timed
            if one.what == LOG and one.number == 1000
            if min(one.seconds, one.cpu_s) > MAX_SECONDS_OF_1000_CASES
        ]
        if self.faults is not None and not self.faults.is_whole:
            found.append("The fault run has lost or doubled something.")
        return tuple(found)


LOG = "log a run of so many cases"


def timed(what: str, number: int, call: Callable[[], T]) -> tuple[Timed, T]:
    """How long it took."""
    used, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    value = call()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return Timed(what=what, number=number, seconds=time.monotonic() - began, cpu_s=cpu_s), value


def _all_synced(folders: Sequence[RunFolder], target: TrackingTarget) -> None:
    for result in sync(folders, target, budget_s=BUDGET_S):
        assert result.is_done, result.message


def _fresh(root: Path) -> TrackingTarget:
    root.mkdir(parents=True)
    target = tracking_target(root, {})
    why = prepare(target)
    assert not why, why
    return target


def log_cases(root: Path, num_cases: int) -> tuple[Timed, ...]:
    """One large run, twice."""
    target = _fresh(root)
    folder = write_run(
        root / "runs",
        records=many_records(num_cases),
        info=sample_info(run_id=f"cases-{num_cases}", num_cases=num_cases),
    )
    first, _ = timed(LOG, num_cases, lambda: _all_synced([folder], target))
    again, _ = timed("sync it again", num_cases, lambda: _all_synced([folder], target))
    return first, again


def sync_runs(root: Path, num_runs: int) -> tuple[Timed, ...]:
    """Many small runs, again when nothing has changed, and with one new among them."""
    target = _fresh(root)

    def made(number: int) -> RunFolder:
        records = sample_records()[:CASES_OF_A_RUN]
        info = sample_info(run_id=f"run-{number:05d}", num_cases=CASES_OF_A_RUN)
        return write_run(root / "runs", records=records, info=info)

    folders = [made(number) for number in range(num_runs)]
    first, _ = timed("sync so many runs", num_runs, lambda: _all_synced(folders, target))
    again, _ = timed("sync them unchanged", num_runs, lambda: _all_synced(folders, target))
    folders.append(made(num_runs))
    one, _ = timed("sync them and a new one", num_runs + 1, lambda: _all_synced(folders, target))
    return first, again, one


def search_runs(root: Path, num_runs: int) -> tuple[Timed, ...]:
    """In an experiment of so many: the first page of the UI, all of them, and one by its uid."""
    target = build(root, num_runs)
    client = MlflowClient(tracking_uri=target.uri)
    experiment = client.get_experiment_by_name("chipscale/quick")
    assert experiment is not None
    where = [experiment.experiment_id]

    def all_pages() -> int:
        token, number = None, 0
        while True:
            page = client.search_runs(where, max_results=1000, page_token=token)
            number, token = number + len(page), page.token
            if not token:
                return number

    def first_page() -> int:
        order = ["attributes.start_time DESC"]
        return len(client.search_runs(where, max_results=UI_PAGE, order_by=order))

    def by_uid() -> int:
        return len(client.search_runs(where, "tags.`chipscale.run_uid` = 'copy-7'"))

    found = []
    for what, call, number in (
        ("search: the UI's first 100 of so many", first_page, min(UI_PAGE, num_runs)),
        ("search: all of so many", all_pages, num_runs),
        ("search: one by its uid among so many", by_uid, 1),
    ):
        one, got = timed(what, num_runs, call)
        assert got == number, (what, got)
        found.append(one)
    return tuple(found)


def measure(options: argparse.Namespace, root: Path, console: Console) -> MlflowSpeed:
    """Everything that was asked for, one after the other."""
    load = os.getloadavg()[0]
    found: list[Timed] = []
    for num_cases in options.cases:
        console.print(f"logging {num_cases:,} cases ...")
        found += log_cases(root / f"cases{num_cases}", num_cases)
    if options.runs:
        console.print(f"syncing {options.runs:,} runs ...")
        found += sync_runs(root / "runs", options.runs)
    if options.searched:
        console.print(f"searching {options.searched:,} runs ...")
        found += search_runs(root / "searched", options.searched)
    faults = None
    if options.kills:
        console.print(f"killing the server {options.kills} times ...")
        faults = fault_run(
            root / "faults", num_runs_of_each=options.fault_runs, num_kills=options.kills
        )
    return MlflowSpeed(
        processor=processor_name(),
        num_cores=num_usable_cores(),
        load=load,
        python=platform.python_version(),
        mlflow=mlflow.__version__,
        timed=tuple(found),
        faults=faults,
    )


def table(speed: MlflowSpeed) -> Table:
    """A line for each thing done."""
    shown = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    shown.add_column("SQLite")
    for name in ("number", "time", "of a core"):
        shown.add_column(name, justify="right")
    for one in speed.timed:
        cpu = duration(one.cpu_s) if one.cpu_s else ""
        shown.add_row(one.what, f"{one.number:,}", duration(one.seconds), cpu)
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 1 when a target is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.mlflow", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--cases", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--runs", type=int, default=200, help="to sync; 2000 take many minutes")
    parser.add_argument("--searched", type=int, default=2000, help="runs of one experiment")
    parser.add_argument("--kills", type=int, default=3, help="of the server in the fault run")
    parser.add_argument("--fault-runs", type=int, default=6, help="of each of the 8 processes")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="chipscale-bench-") as root:
        speed = measure(options, Path(root), console)
    console.print(table(speed))
    if speed.faults is not None:
        one = speed.faults
        console.print(
            f"Fault run: {one.num_writers} processes, {one.num_kills} kills, {one.num_calls} calls "
            f"in {duration(one.seconds)}. Of {one.num_folders} runs {one.num_once} are there "
            f"exactly once, {one.num_missing} missing, {one.num_twice} twice; {one.num_complete} "
            f"with all values, {one.num_with_all_artifacts} with all artifacts; "
            f"{one.num_duplicates_removed} duplicates removed."
        )
    console.print(
        f"{speed.processor}, {speed.num_cores} cores at load {speed.load:.1f}; "
        f"Python {speed.python}, MLflow {speed.mlflow}."
    )
    return keep(speed, speed.misses, options.out, console)


if __name__ == "__main__":
    sys.exit(main())
