"""`chipscale trend [KEY=VALUE ...]`: where the history of a suite changed; a report, no verdict."""

import argparse
from pathlib import Path

from rich.console import Console

from harness.codec import to_json
from harness.errors import ConfigError
from harness.fingerprint import fingerprint
from harness.history.choosing import HistoryQuery, choose_runs, query_of
from harness.history.trend_of import trend_of
from harness.report import trend_page
from harness.report.trend_table import trend_markdown, trend_view
from harness.run import RUNS
from harness.store.disk import write_atomically
from harness.store.history import stored_history
from harness.store.mlflow import tracking_target
from harness.store.mlflow.history import mlflow_history
from harness.trend import HistoryRun, Trend

MIN_CHANGE_BOUNDS = (0.001, 10.0)


def main(options: argparse.Namespace) -> int:
    """Print the trend, and write it where that is asked for."""
    query = query_of(options.query)
    low, high = MIN_CHANGE_BOUNDS
    if not low <= options.min_change <= high:
        raise ConfigError(
            f"--min-change {options.min_change:g}: {low:g} to {high:g} is allowed, 0.05 is 5 %."
        )
    console = Console(highlight=False)
    runs, warnings = _history(options, query)
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)
    chosen = choose_runs(runs, query)
    trend = trend_of(
        chosen.runs, num_other_runs=chosen.num_other_runs, min_change=options.min_change
    )
    console.print(trend_view(trend))
    if options.out is not None:
        _write(trend, options.out, console)
    return 0


def _history(
    options: argparse.Namespace, query: HistoryQuery
) -> tuple[tuple[HistoryRun, ...], tuple[str, ...]]:
    """The runs, and a sentence on each that cannot be read."""
    results_dir = options.results_dir.resolve()
    if options.source != "mlflow":
        return stored_history(results_dir / RUNS, fingerprint)
    if not query.suite:
        raise ConfigError(
            "trend: --source mlflow needs suite=NAME, since MLflow has an experiment for each."
        )
    asked = {
        "suite": query.suite,
        "model": query.model,
        "chip": query.chip,
        "git_branch": "" if query.branch == "any" else query.branch,
        "fingerprint": query.fingerprint,
    }
    tags = {key: value for key, value in asked.items() if value}
    return mlflow_history(tracking_target(results_dir), tags), ()


def _write(trend: Trend, folder: Path, console: Console) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "trend.json": to_json(trend) + "\n",
        "trend.md": trend_markdown(trend),
        "trend.html": trend_page.render(trend),
    }
    for name, text in texts.items():
        write_atomically(folder / name, text)
    console.print(f"Written: {', '.join(str(folder / name) for name in texts)}", soft_wrap=True)
