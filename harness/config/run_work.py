"""What a run's own configuration says of its work: the steps of its suite, and what it projects."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from harness.config.build import phase_shard
from harness.config.specs import cluster_spec, model_spec, parallel_spec
from harness.errors import ConfigError, PlanError
from harness.extrapolate.cluster import ClusterSpec
from harness.store.folder import CONFIG
from harness.workload.model import ModelSpec
from harness.workload.plan import ParallelSpec
from harness.workload.whole_step import PhaseWork, phase_work

DEFAULT_DTYPE = "bf16"
"""Of a suite that names none, as when its cases are made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWork:
    """Read from the configuration that is kept with a run."""

    steps: tuple[PhaseWork, ...] = ()
    """One for each phase of the suite; empty where it names none, or no longer fits the model."""
    model: ModelSpec | None = None
    cluster: ClusterSpec | None = None
    parallel: ParallelSpec | None = None


def run_work(folder: Path) -> RunWork:
    """What the run's `config.yaml` says; empty where there is none or it is of another version."""
    try:
        data = OmegaConf.to_container(OmegaConf.load(folder / CONFIG), resolve=True)
    except (OSError, YAMLError, OmegaConfBaseException):
        return RunWork()
    if not isinstance(data, dict):
        return RunWork()
    try:
        model = model_spec(data["model"])
    except (ConfigError, KeyError, TypeError):
        return RunWork()
    return RunWork(
        steps=_steps(data.get("suite"), model),
        model=model,
        cluster=_spec(cluster_spec, data.get("cluster")),
        parallel=_spec(parallel_spec, data.get("parallel")),
    )


def _spec(read: Any, data: Any) -> Any:
    """What that reader makes of it, or None."""
    try:
        return read(data)
    except (ConfigError, KeyError, TypeError, AttributeError):
        return None


def _steps(suite: Any, model: ModelSpec) -> tuple[PhaseWork, ...]:
    phases = suite.get("phases") if isinstance(suite, dict) else None
    if not isinstance(phases, list):
        return ()
    found = []
    for index, data in enumerate(phases):
        try:
            phase, shard = phase_shard(
                data, str(suite.get("dtype", DEFAULT_DTYPE)), f"suite.phases[{index}]"
            )
            found.append(phase_work(model, shard, phase))
        except (ConfigError, PlanError):
            continue  # Such a phase was never measured either.
    return tuple(found)
