"""From what was asked for to an order: both sources found, and one command for each case."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from omegaconf import DictConfig

from harness.arms.history_gate import HEAD_PROCESSES
from harness.arms.job import GateJob, new_gate_id
from harness.arms.measuring import GateOrder
from harness.arms.source import Revision, StoredHistory, StoredRun, parse_source, running_tree
from harness.config.gate_request import (
    GateRequest,
    compose_gate,
    gate_request,
    of_history,
    of_stored,
)
from harness.config.this_chip import chip_name
from harness.config.tuning import load_tables
from harness.errors import ConfigError
from harness.run import new_job
from harness.store.gate_folder import GATES


def gate_order(
    config: DictConfig,
    overrides: Sequence[str],
    config_dirs: Sequence[Path],
    only: Sequence[str],
    earlier: GateJob | None,
) -> tuple[GateRequest, GateOrder]:
    """What was asked for, with both sources found.

    Raises:
        ConfigError: when base or head is not there, or cannot be what it is asked to be.
    """
    results_dir = Path(config.results_dir).resolve()
    tree = running_tree()
    if not config.base:
        raise ConfigError(
            "base: nothing is named to hold this tree against. Add base=main, a wheel, a folder "
            "with a checkout, or a run; `chipscale gate --help` has examples."
        )
    base = parse_source("base", str(config.base), results_dir, tree)
    head = parse_source("head", str(config.head), results_dir, tree)
    if isinstance(head, StoredRun | StoredHistory):
        raise ConfigError(
            f"head: {head.label} is a stored run, and the head is measured. Two stored runs are "
            "compared by `chipscale compare`."
        )
    measured_as = list(overrides)
    if isinstance(base, StoredRun):
        measured_as = of_stored(base.folder, [*base.overrides, *overrides])
        config = compose_gate(measured_as, config_dirs)
    if isinstance(base, StoredHistory):
        measured_as = of_history(overrides)
        config = compose_gate(measured_as, config_dirs)
    request = gate_request(config, measured_as, config_dirs)
    # `HEAD~1` is another commit after the next one.
    pinned = [
        f"base={base.commit}" if isinstance(base, Revision) and one.startswith("base=") else one
        for one in overrides
    ]
    policy = request.policy
    if isinstance(base, StoredHistory):
        policy = replace(policy, rounds=HEAD_PROCESSES)
    suite, model = request.run.suite, request.run.model.name
    gate_id = new_gate_id(suite, model) if earlier is None else earlier.gate_id
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return request, GateOrder(
        gate_id=gate_id,
        folder=results_dir / GATES / gate_id,
        base=base,
        head=head,
        tree=tree,
        job=new_job(
            suite=suite,
            model=model,
            device=request.run.device,
            policy=request.run.policy,
            cases=request.run.cases,
            tags=(),
            tuning=load_tables(config_dirs),
            config_yaml=request.run.config_yaml,
        ),
        arm_overrides=request.arm_overrides,
        config_dirs=tuple(config_dirs),
        only=tuple(only),
        policy=policy,
        floors_file=request.floors_file,
        exemptions_file=request.exemptions_file,
        is_advisory=request.is_advisory,
        is_strict_stored=request.is_strict_stored,
        chip_name=lambda environment: chip_name(environment, config_dirs),
        reproduce=lambda case_id: _command(pinned, config_dirs, [case_id]),
        command=shlex.join(["chipscale", *sys.argv[1:]]) if earlier is None else earlier.command,
        started_at=now if earlier is None else earlier.started_at,
    )


def _command(overrides: Sequence[str], config_dirs: Sequence[Path], only: Sequence[str]) -> str:
    dirs = [text for one in config_dirs for text in ("--config-dir", str(one))]
    cases = [text for case_id in only for text in ("--case", case_id)]
    kept = [one for one in overrides if not one.startswith("resume=")]
    return shlex.join(["chipscale", "gate", *dirs, *kept, *cases])
