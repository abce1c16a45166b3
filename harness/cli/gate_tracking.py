"""A gate and both of its sides in MLflow, within the time that tracking may take."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from harness.cli.finish import vendors_of
from harness.config.gate_request import GateRequest
from harness.gate_result import GateResult
from harness.store.folder import RunFolder
from harness.store.mlflow import run_link, sync, tracking_target

SIDES = ("base", "head")


def track_gate(
    result: GateResult,
    folder: Path,
    request: GateRequest,
    console: Console,
    config_dirs: Sequence[Path] = (),
) -> tuple[GateResult, bool]:
    """The result with links to its sides in MLflow, and False where MLflow was required and failed.

    An absent MLflow never makes a gate fail: its folder is there, and `chipscale sync` takes it.
    """
    tracking = request.tracking
    if not tracking.is_enabled:
        return result, True
    target = tracking_target(request.results_dir)
    with console.status("logging to MLflow ..."):
        synced = sync(
            [RunFolder(folder)],
            target,
            budget_s=tracking.timeout_s,
            vendors=vendors_of(config_dirs),
        )[0]
    if not synced.is_done:
        console.print(f"warning: {synced.message}", style="yellow", markup=False, soft_wrap=True)
        return result, not tracking.is_required
    console.print(f"MLflow: logged to {target.uri}", markup=False, soft_wrap=True)
    runs = [(side, synced.run_of(side)) for side in SIDES]
    links = tuple(
        (side, run_link(target, run.experiment_id, run.run_id)) for side, run in runs if run
    )
    return replace(result, ui_links=links), True
