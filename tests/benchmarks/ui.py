"""`make bench-ui`: how long MLflow's UI takes to open what there is a lot of, in Chromium.

One experiment of 2,000 runs, and one run of 10,000 cases. Each page is opened in a browser whose
cache holds the UI's scripts but not the page: seconds from the address to the first row or name
that a person reads, and to the last thing that is drawn without a click.

    python -m tests.benchmarks.ui [--runs 2000] [--cases 10000] [--out FILE]

Writes results/bench/ui.json. Exits with 1 when a page takes longer than it should.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page
from rich.console import Console
from rich.table import Table

from harness.environment import num_usable_cores, processor_name
from harness.store.interface import landing_link, running_server
from harness.store.mlflow import TrackingTarget, sync, tracking_target
from harness.store.mlflow.target import experiment_link, run_link
from tests.benchmarks.kept_result import keep
from tests.benchmarks.mlflow_database import build
from tests.browser.chromium import chromium, shoot
from tests.harness.sample_run import many_records, sample_info, write_run

OUT = Path("results/bench/ui.json")
SCREENSHOTS = Path("build/screenshots")
MAX_S = 10.0
"""Assumed: what a person still waits for without doubting the page."""
LARGE_CHIPS = ("imaginary_x1", "imaginary_x2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """One page, from its address to what a person sees."""

    page: str
    first_s: float
    """To the text that shows that the page is the right one."""
    drawn_s: float
    """To the table or the first chart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UiSpeed:
    """All pages, and on what."""

    processor: str
    num_cores: int
    load: float
    """Processes that wanted a core in the minute before: more than cores means upper bounds."""
    num_runs: int
    num_cases: int
    pages: tuple[Opened, ...]


def _row(page: Page) -> None:
    page.locator(".ag-cell[col-id='tags.`chip`']").first.wait_for()


def _plot(page: Page) -> None:
    page.locator(".js-plotly-plot .main-svg").first.wait_for()


def _case(page: Page) -> None:
    page.get_by_text("median_us").first.wait_for()


def _open(page: Page, name: str, link: str, text: str, drawn: Callable[[Page], None]) -> Opened:
    page.goto("about:blank")
    began = time.monotonic()
    page.goto(link)
    page.get_by_text(text).first.wait_for()
    first_s = time.monotonic() - began
    drawn(page)
    drawn_s = time.monotonic() - began
    shoot(page, SCREENSHOTS, f"bench {name}")
    return Opened(page=name, first_s=round(first_s, 2), drawn_s=round(drawn_s, 2))


def _experiment_of_runs(page: Page, target: TrackingTarget, num_runs: int) -> list[Opened]:
    link = landing_link(target)
    experiment = link.partition("/experiments/")[2].partition("/")[0]
    by_chip = experiment_link(target, experiment, "by-chip")
    what = f"of {num_runs} runs"
    return [
        _open(page, f"runs {what}", link, "matching runs", _row),
        _open(
            page,
            f"leaderboard {what}",
            experiment_link(target, experiment, "leaderboard"),
            "matching runs",
            _row,
        ),
        _open(page, f"charts {what}", f"{link}&compareRunsMode=CHART", "matching runs", _plot),
        _open(
            page,
            f"charts by chip {what}",
            f"{by_chip}&compareRunsMode=CHART",
            "matching runs",
            _plot,
        ),
    ]


def _run_of_cases(
    page: Page, target: TrackingTarget, experiment: str, run: str, num_cases: int
) -> list[Opened]:
    what = f"of a run of {num_cases} cases"
    runs = experiment_link(target, experiment)
    overview = run_link(target, experiment, run)
    return [
        _open(page, f"list {what}", runs, "matching runs", _row),
        _open(page, f"charts {what}", f"{runs}&compareRunsMode=CHART", "matching runs", _plot),
        _open(page, f"table {what}", f"{runs}&compareRunsMode=ARTIFACT", "matching runs", _case),
        _open(page, f"page {what}", overview, "Description", lambda page: None),
    ]


def _large(results: Path, num_cases: int) -> tuple[TrackingTarget, str, str]:
    target = tracking_target(results, {})
    records = many_records(num_cases, num_samples=10)
    folders = [
        write_run(
            results / "runs",
            records=records,
            info=sample_info(run_id=f"{chip}-large", chip=chip, num_cases=num_cases),
        )
        for chip in LARGE_CHIPS
    ]
    synced = sync(folders, target, budget_s=600)
    for one in synced:
        assert one.is_done, one.message
    return target, synced[0].experiment_id, synced[0].run_id


def measured(num_runs: int, num_cases: int) -> UiSpeed:
    """Build both, serve them one after the other, open every page."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        page = browser.new_page()
        target = build(Path(folder) / "runs", num_runs)
        with running_server(target, 0) as (served, _):
            # Its scripts, once: a person has them from the day before.
            _open(page, "warm-up", landing_link(served), "matching runs", _row)
            pages = _experiment_of_runs(page, served, num_runs)
        target, experiment, run = _large(Path(folder) / "cases", num_cases)
        with running_server(target, 0) as (served, _):
            _open(page, "warm-up", landing_link(served), "matching runs", _row)
            pages += _run_of_cases(page, served, experiment, run, num_cases)
    return UiSpeed(
        processor=processor_name(),
        num_cores=num_usable_cores(),
        load=round(load, 1),
        num_runs=num_runs,
        num_cases=num_cases,
        pages=tuple(pages),
    )


def view(speed: UiSpeed) -> Table:
    """The seconds of each page."""
    table = Table(title=f"MLflow's UI on {speed.num_cores} cores, load {speed.load}")
    for head in ("page", "first content", "drawn"):
        table.add_column(head, justify="left" if head == "page" else "right")
    for one in speed.pages:
        table.add_row(one.page, f"{one.first_s:.1f} s", f"{one.drawn_s:.1f} s")
    return table


def main() -> int:
    """Measure, show and keep; 1 when a page was too slow."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    speed = measured(options.runs, options.cases)
    console = Console(highlight=False)
    console.print(view(speed))
    slow = [f"over {MAX_S:g} s: {one.page}" for one in speed.pages if one.drawn_s > MAX_S]
    return keep(speed, slow, options.out, console)


if __name__ == "__main__":
    sys.exit(main())
