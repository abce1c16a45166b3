"""`chipscale tune`: search an op's launch configurations, tell what was found, and keep it."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from harness.cli.finish import track
from harness.cli.progress import RunProgress
from harness.cli.run import write_plan
from harness.config.build import TuneRequest, tune_request
from harness.config.compose import compose
from harness.config.this_chip import chip_name, this_chip
from harness.config.tuning import default_file, load_tables, read_table, to_yaml
from harness.errors import TRACKING_REQUIRED_EXIT_CODE, ConfigError, NothingMeasured
from harness.record import Record, Status
from harness.run import find_run, measure_run, new_job
from harness.store.disk import write_atomically
from harness.store.folder import RunFolder
from harness.tune import Found, merged, outcomes, search_cases
from harness.units import duration
from harness.worker.job import Job
from kernels import registry
from kernels.tuning import Choice, TuningTable


def main(options: argparse.Namespace) -> int:
    """Search, or take the records of a search that was done, and write the table."""
    config = compose("tune", options.overrides, options.config_dir)
    if options.cfg is not None:
        print(OmegaConf.to_yaml(config, resolve=True), end="")
        return 0
    request = tune_request(config)
    console = Console(highlight=False)
    if request.run is not None:
        folder = find_run(request.run, request.results_dir)
    else:
        job = _job(request, options.config_dir)
        if request.plan_file is not None:
            return write_plan(job, request.plan_file, console)
        with RunProgress(console, len(job.cases), 0) as progress:
            folder = measure_run(
                job,
                request.results_dir,
                progress,
                lambda environment: chip_name(environment, options.config_dir),
            )
    found = outcomes(folder.records())
    if not found:
        raise NothingMeasured(_why_nothing(folder.records(), request.op))
    console.print(_table(found))
    _keep(found, folder, request, console, options.config_dir)
    is_tracked = track([folder], request.results_dir, request.tracking, console, options.config_dir)
    return 0 if is_tracked else TRACKING_REQUIRED_EXIT_CODE


def _job(request: TuneRequest, config_dirs: Sequence[Path]) -> Job:
    cases = search_cases(request.problems)
    if not cases:
        tuned = [name for name in registry.names() if registry.tunables(name)]
        raise ConfigError(
            f"op: {request.op} has no launch configuration to search. Those that have: "
            f"{', '.join(tuned)}."
        )
    return new_job(
        suite=f"tune-{request.op}",
        model=request.model.name,
        device=request.device,
        policy=request.policy,
        cases=cases,
        tags=(),
        # What is usual is what the present table says, so that a search only ever improves on it.
        tuning=load_tables(config_dirs),
        config_yaml=request.config_yaml,
    )


def _why_nothing(records: Sequence[Record], op: str) -> str:
    reason = next((record.reason for record in records if record.status is not Status.OK), "")
    return f"tune: nothing of {op} was measured. {reason}".rstrip()


def _table(found: Sequence[Found]) -> Table:
    table = Table(box=None, header_style="bold")
    for name in ("kernel", "problem", "usual", "best", "gain", "with"):
        table.add_column(name, overflow="fold", justify="right" if name == "gain" else "left")
    for one in found:
        table.add_row(
            one.kernel,
            one.problem.id,
            duration(one.usual_time.median),
            duration(one.best_time.median),
            f"{one.gain:.1%}" if one.is_worth_writing else "-",
            _configs(one.best) if one.is_worth_writing else f"the usual, {_configs(one.usual)}",
        )
    return table


def _configs(choices: Sequence[Choice]) -> str:
    return ", ".join(dict.fromkeys(str(choice.config) for choice in choices))


def _keep(
    found: Sequence[Found],
    folder: RunFolder,
    request: TuneRequest,
    console: Console,
    config_dirs: Sequence[Path],
) -> None:
    """Write the table of the chip that the run measured, with what was found joined to it."""
    better = [one for one in found if one.is_worth_writing]
    num_tried = sum(one.num_right for one in found)
    num_wrong = sum(one.num_wrong for one in found)
    console.print(
        f"{num_tried} configurations measured, {num_wrong} failed or wrong; {len(better)} of "
        f"{len(found)} searches beat what is usual.",
        soft_wrap=True,
    )
    if not better:
        return
    chip = this_chip(folder.environment, config_dirs)
    path = request.out_file or default_file(chip.name)
    known = TuningTable(chip=chip.name, devices=chip.match)
    if path.exists():
        known = read_table(path)
    entries = [entry for one in better for entry in one.entries(folder.info.run_id)]
    table = merged(known, entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_yaml(table))
    taken = (
        "runs on this chip take it from now on"
        if path == default_file(chip.name)
        else "runs take what is in the folder `tuning` of a --config-dir"
    )
    console.print(f"Written to {path}; {taken}.", soft_wrap=True)
