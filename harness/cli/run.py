"""`chipscale run`: measure, project, report, log; and say what to type next."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from harness.cli.finish import finish_run
from harness.cli.progress import RunProgress
from harness.codec import to_json
from harness.config.build import RunRequest, run_request
from harness.config.compose import check_sweep, compose
from harness.config.this_chip import chip_name
from harness.config.tuning import load_tables
from harness.errors import INTERRUPTED_EXIT_CODE, ConfigError
from harness.run import (
    RUNS,
    find_run,
    job_to_resume,
    measure_run,
    new_job,
    resume_command,
)
from harness.store.disk import write_atomically
from harness.store.folder import CONFIG, RunFolder
from harness.worker.job import Job


def main(options: argparse.Namespace) -> int:
    """Run what the overrides ask for."""
    if options.multirun:
        if options.cfg is not None:
            raise ConfigError("--cfg: it prints one configuration, and -m makes several. Give one.")
        return _hand_to_hydra(options.overrides, options.config_dir)
    config = _stored(options.overrides) or compose("run", options.overrides, options.config_dir)
    if options.cfg is not None:
        print(OmegaConf.to_yaml(config, resolve=True), end="")
        return 0
    return run_composed(config, options.config_dir)


def _stored(overrides: Sequence[str]) -> DictConfig | None:
    """The configuration that a run was started with, when all that is asked is to go on with it."""
    asked = dict(override.partition("=")[::2] for override in overrides)
    if "resume" not in asked or set(asked) - {"resume", "results_dir"}:
        return None
    results_dir = Path(asked.get("results_dir", "results")).resolve()
    folder = find_run(asked["resume"], results_dir)
    config = OmegaConf.load(folder.path / CONFIG)
    assert isinstance(config, DictConfig)
    config.resume = folder.path.name
    config.results_dir = str(results_dir)
    return config


def run_composed(config: DictConfig, config_dirs: Sequence[Path] = ()) -> int:
    """Run a composed configuration, from our command line or from Hydra's."""
    request = run_request(config)
    console = Console(highlight=False)
    if request.devices is not None:
        from harness.cli.fleet import run_fleet  # It needs torch, as compiling does below.

        return run_fleet(config, request, load_tables(config_dirs), console, config_dirs)
    job = new_job(
        suite=request.suite,
        model=request.model.name,
        device=request.device,
        policy=request.policy,
        cases=request.cases,
        tags=request.tags,
        tuning=load_tables(config_dirs),
        config_yaml=request.config_yaml,
    )
    if request.plan_file is not None:
        return write_plan(job, request.plan_file, console)
    if request.resume is not None:
        job = job_to_resume(request.resume, job, request.results_dir)
    folder = _measure(job, request, console, config_dirs)
    if folder is None:
        return INTERRUPTED_EXIT_CODE
    return finish_run(folder, request, console, config_dirs)


def _measure(
    job: Job, request: RunRequest, console: Console, config_dirs: Sequence[Path]
) -> RunFolder | None:
    """The measured run, or None when it was stopped by Ctrl-C."""
    path = request.results_dir / RUNS / job.run.run_id
    done = frozenset(record.case.id for record in RunFolder(path).records())
    console.print(
        f"chipscale: suite {request.suite}, model {request.model.name}, {len(job.cases)} cases, "
        f"run {job.run.run_id}",
        markup=False,
        soft_wrap=True,
    )
    # Torch's import takes seconds, which writing a plan can do without.
    from harness.cli.compiling import compile_before

    try:
        compile_before(job, request.compile_processes, console, done=done)
        with RunProgress(console, len(job.cases), len(done)) as progress:
            return measure_run(
                job,
                request.results_dir,
                progress,
                lambda environment: chip_name(environment, config_dirs),
            )
    except KeyboardInterrupt:
        kept = len(RunFolder(path).records()) if path.exists() else 0
        console.print(
            f"Stopped. {kept} of {len(job.cases)} records are kept in {path}; go on with\n"
            f"  {resume_command(job.run.run_id, request.results_dir)}",
            markup=False,
            soft_wrap=True,
        )
        return None


def write_plan(job: Job, path: Path, console: Console) -> int:
    """Write the cases for another host, and tell how they are measured there."""
    if not path.resolve().parent.is_dir():
        raise ConfigError(f"plan: {path.resolve().parent} is not a folder. Make it first.")
    write_atomically(path.resolve(), to_json(job) + "\n")
    console.print(
        f"{len(job.cases)} cases written to {path}. On a host with torch, triton and numpy, and "
        "the folders harness/ and kernels/ of this repository:\n"
        f"  python -m harness.worker {path.name} OUT\n"
        "Then here:\n"
        "  chipscale sync OUT",
        markup=False,
        soft_wrap=True,
    )
    return 0


def _hand_to_hydra(overrides: Sequence[str], config_dirs: Sequence[Path]) -> int:
    """Replace this process by a real Hydra application, for its sweepers and launchers."""
    command = [sys.executable, "-m", "harness.hydra_app", "--multirun"]
    if len(config_dirs) > 1:
        raise ConfigError("--config-dir: Hydra's own command line takes one such folder.")
    check_sweep("run", overrides, config_dirs)
    for folder in config_dirs:
        command += ["--config-dir", str(folder.resolve())]
    sys.stdout.flush()
    os.execv(sys.executable, [*command, *overrides])
