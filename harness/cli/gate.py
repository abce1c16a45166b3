"""`chipscale gate`: base and head in turns on one device; has anything become slower?"""

import argparse
import shutil
import signal
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console

from harness.arms.history_gate import measure_against_history
from harness.arms.hold import LOG
from harness.arms.job import GateJob, find_gate, make_folder, read_job, write_job
from harness.arms.measuring import OpenGate, measure_gate, opened_gate
from harness.arms.source import StoredHistory
from harness.arms.tree import ArmTree
from harness.cli.gate_accept import accept
from harness.cli.gate_calibrate import calibrate
from harness.cli.gate_ci import pull_request
from harness.cli.gate_list import list_gates, show_gate
from harness.cli.gate_order import gate_order
from harness.cli.gate_progress import GateProgress
from harness.cli.gate_tracking import track_gate
from harness.config.gate_request import compose_gate, with_quick
from harness.errors import (
    CASE_FAILED_EXIT_CODE,
    INTERRUPTED_EXIT_CODE,
    REGRESSION_EXIT_CODE,
    TRACKING_REQUIRED_EXIT_CODE,
    ConfigError,
    RecordError,
)
from harness.gate_result import GateResult, State
from harness.report.gate_outputs import write_files, write_outputs
from harness.report.gate_table import gate_view
from harness.store.folder import RUN
from harness.store.gate_folder import GATE_HTML

SUBCOMMANDS = ("accept", "calibrate", "list", "show")


def main(options: argparse.Namespace) -> int:
    """Gate, or do what the subcommand says."""
    # What stops a job of CI ends it as Ctrl-C does, so that no process or worktree is left behind.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    words = options.overrides
    if words and words[0] in SUBCOMMANDS:
        return _subcommand(words[0], words[1:], options)
    for name in ("reason", "until", "days", "limit"):
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name}: it is of `chipscale gate accept CASE ...`.")
    overrides = with_quick(words) if options.quick else list(words)
    if options.cfg is not None:
        config = compose_gate(overrides, options.config_dir)
        print(OmegaConf.to_yaml(config, resolve=True), end="")
        return 0
    return run_gate(overrides, options.config_dir, options.case, Console(highlight=False))


def _subcommand(name: str, words: Sequence[str], options: argparse.Namespace) -> int:
    if name == "accept":
        return accept(words, options)
    if name == "calibrate":
        return calibrate(words, options)
    return list_gates(words) if name == "list" else show_gate(words)


def run_gate(
    overrides: Sequence[str], config_dirs: Sequence[Path], only: Sequence[str], console: Console
) -> int:
    """Gate what the overrides ask for, show it, and return the exit code."""
    config = compose_gate(overrides, config_dirs)
    earlier = None
    if config.resume:
        folder = find_gate(config.resume, Path(config.results_dir).resolve())
        earlier = read_job(folder)
        _refuse_with_resume(overrides)
        overrides = [*earlier.overrides, f"results_dir={config.results_dir}"]
        config_dirs = [Path(one) for one in earlier.config_dirs]
        only = earlier.only
        config = compose_gate(overrides, config_dirs)
    request, order = gate_order(config, overrides, config_dirs, only, earlier)
    console.print(
        f"chipscale: gate {order.gate_id}: {order.base.label} -> {order.head.label}, suite "
        f"{order.job.run.suite}, {order.policy.rounds} rounds",
        markup=False,
        soft_wrap=True,
    )
    make_folder(order.folder)
    try:
        with GateProgress(console, order.policy.rounds) as progress, opened_gate(order) as gate:
            _keep_job(gate, overrides, earlier)
            is_history = isinstance(order.base, StoredHistory)
            measure = measure_against_history if is_history else measure_gate
            result = replace(measure(gate, progress), pull_request=pull_request())
    except KeyboardInterrupt:
        if _remove_unmeasured(order.folder, earlier):
            console.print("Stopped before anything was measured.")
            return INTERRUPTED_EXIT_CODE
        is_default = request.results_dir == Path("results").resolve()
        where = "" if is_default else f" results_dir={request.results_dir}"
        console.print(
            f"Stopped. What was measured is kept in {order.folder}; go on with\n"
            f"  chipscale gate resume={order.gate_id}{where}",
            markup=False,
            soft_wrap=True,
        )
        return INTERRUPTED_EXIT_CODE
    except (ConfigError, RecordError) as error:
        if isinstance(error, ConfigError) or not (order.folder / LOG).exists():
            _remove_unmeasured(order.folder, earlier)
        raise
    write_files(result, order.folder)  # It is on disk before anybody waits for MLflow.
    result, is_tracked = track_gate(result, order.folder, request, console, config_dirs)
    write_outputs(result, order.folder)
    console.print(gate_view(result))
    console.print(f"\n{order.folder / GATE_HTML} has all of it.", markup=False, soft_wrap=True)
    return exit_code(result) or (0 if is_tracked else TRACKING_REQUIRED_EXIT_CODE)


def _remove_unmeasured(folder: Path, earlier: GateJob | None) -> bool:
    """Remove the folder of a gate that came to no round, as for a mistake; False where one is."""
    if earlier is not None or any(folder.glob(f"*-1/{RUN}")):
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return True


def exit_code(result: GateResult) -> int:
    """3 for a regression that is no mere advice, 4 for a case that could not be judged."""
    if result.num_failing and not result.is_advisory:
        return REGRESSION_EXIT_CODE
    return CASE_FAILED_EXIT_CODE if result.of(State.INVALID) else 0


def _keep_job(gate: OpenGate, overrides: Sequence[str], earlier: GateJob | None) -> None:
    """Write down what was asked for; a gate is gone on with by the same code alone.

    Raises:
        RecordError: when the code is another than before.
    """
    order = gate.order
    base_digest = gate.base.digest if isinstance(gate.base, ArmTree) else gate.base.label
    job = GateJob(
        gate_id=order.gate_id,
        base=order.base.label,
        head=order.head.label,
        overrides=tuple(overrides),
        only=order.only,
        config_dirs=tuple(str(one.resolve()) for one in order.config_dirs),
        base_digest=base_digest,
        head_digest=gate.head.digest,
        started_at=order.started_at,
        command=order.command,
    )
    if earlier is not None:
        for side in ("base", "head"):
            if getattr(earlier, f"{side}_digest") != getattr(job, f"{side}_digest"):
                raise RecordError(
                    f"resume: the code of the {side}, {getattr(job, side)}, is not what gate "
                    f"{order.gate_id} began with, so its rounds are not of one thing. Start a new "
                    "gate."
                )
        job = replace(earlier, overrides=job.overrides)
    write_job(order.folder, job)


def _refuse_with_resume(overrides: Sequence[str]) -> None:
    """Raises ConfigError for an override that a gate under way cannot take any more."""
    for one in overrides:
        if one.partition("=")[0] not in ("resume", "results_dir"):
            raise ConfigError(
                f"{one}: a gate is gone on with as it was begun. Give resume= and results_dir= "
                "alone."
            )
