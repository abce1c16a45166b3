"""The composed `gate` configuration into what the gate was asked for, and each arm's overrides."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.codec import to_data
from harness.config import bounds
from harness.config.build import RunRequest, TrackingRequest, run_request, tracking_request
from harness.config.compose import compose
from harness.errors import ConfigError
from harness.gate.policy import GatePolicy
from harness.store.folder import CASES, RunFolder
from harness.worker.job import read_job

ARM_GROUPS = ("suite", "model", "device")
"""Groups of an arm's own configuration; `measure` is handed over key by key, since an arm of an
older version has other files of that group."""
OWN_KEYS = ("base", "head", "gate", "calibrate", "resume", "results_dir", "tracking", "measure")
"""What is the gate's and not the arms'."""
FLOORS = "gates/floors.json"
"""Of a results folder."""
QUICK = {"gate.rounds": "3", "gate.tolerance": "0.05", "gate.short_tolerance": "0.05"}
"""Three rounds and 5 %: 1.4 % of the suites of 12 cases raised a false alarm on a shared machine,
against none of 70 with five rounds and 3 %."""
MAX_ROUNDS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRequest:
    """Everything `chipscale gate` was asked for."""

    base: str
    """As the user wrote it; empty where the gate is to be calibrated."""
    head: str
    run: RunRequest
    """What the running code makes of the arms' overrides; the arms make their own of it."""
    arm_overrides: tuple[str, ...]
    """Of `chipscale run`, the same for both."""
    policy: GatePolicy
    is_advisory: bool
    is_strict_stored: bool
    """A stored run as base may fail the gate."""
    exemptions_file: Path
    floors_file: Path
    calibration_runs: int
    results_dir: Path
    resume: str | None
    tracking: TrackingRequest


def with_quick(overrides: Sequence[str]) -> list[str]:
    """The overrides with those of `--quick`, except what they say themselves."""
    said = {_key(one) for one in overrides}
    return [*(f"{key}={value}" for key, value in QUICK.items() if key not in said), *overrides]


def compose_gate(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> DictConfig:
    """The composed `gate` configuration.

    Base and head are taken as they were typed: Hydra reads `~` and `@{1}` of a revision otherwise.

    Raises:
        ConfigError: as `compose`.
    """
    return compose("gate", [_quoted(one) for one in overrides], config_dirs)


def _quoted(override: str) -> str:
    key, equals, value = override.partition("=")
    if key not in ("base", "head") or not equals or value[:1] in ("'", '"'):
        return override
    escaped = value.replace("'", "\\'")
    return f"{key}='{escaped}'"


def gate_request(
    config: DictConfig, overrides: Sequence[str], config_dirs: Sequence[Path] = ()
) -> GateRequest:
    """The request in a composed `gate` configuration.

    Args:
        config: as composed.
        overrides: those it was composed of.
        config_dirs: folders of the user's own configuration.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    data = OmegaConf.to_container(config, resolve=True)
    assert isinstance(data, dict)
    for_arms = arm_overrides(config, overrides)
    results_dir = Path(data["results_dir"]).resolve()
    gate = data["gate"]
    floors = gate["floors"]
    return GateRequest(
        base=str(data["base"] or ""),
        head=str(data["head"]),
        run=run_request(compose("run", for_arms, config_dirs)),
        arm_overrides=for_arms,
        policy=_policy(gate),
        is_advisory=bool(gate["advisory"]),
        is_strict_stored=bool(gate["strict_stored"]),
        exemptions_file=Path(gate["exemptions"]).resolve(),
        floors_file=Path(floors).resolve() if floors else results_dir / FLOORS,
        calibration_runs=bounds.count("calibrate.runs", data["calibrate"]["runs"], most=1000),
        results_dir=results_dir,
        resume=data["resume"],
        tracking=tracking_request(config),
    )


def arm_overrides(config: DictConfig, overrides: Sequence[str]) -> tuple[str, ...]:
    """What both arms' `chipscale run` is given: the user's, the groups, and the measuring rules."""
    kept = [one for one in overrides if _key(one).partition(".")[0] not in OWN_KEYS]
    said = {_key(one) for one in kept}
    groups = [f"{name}={config[name].name}" for name in ARM_GROUPS if name not in said]
    impls = ",".join(config.impls)
    rules = {} if "impls" in said else {"impls": f"[{impls}]"}
    measure = OmegaConf.to_container(config.measure, resolve=True)
    assert isinstance(measure, dict)
    rules |= {f"measure.{name!s}": _written(value) for name, value in measure.items()}
    return (*groups, "measure=quick", *kept, *(f"{key}={value}" for key, value in rules.items()))


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _written(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _policy(gate: Mapping[str, Any]) -> GatePolicy:
    """Raises ConfigError for a number that cannot be meant."""
    share = "common_share", "tolerance", "short_tolerance", "max_floor"
    for name in share:
        bounds.number(f"gate.{name}", gate[name], most=1.0, is_optional=False)
    for name in ("short_s", "absolute_floor_s", "timer_steps"):
        if not (math.isfinite(gate[name]) and gate[name] >= 0):
            raise ConfigError(f"gate.{name}: {gate[name]} is less than 0. Set gate.{name}=0.")
    return GatePolicy(
        rounds=bounds.count("gate.rounds", gate["rounds"], most=MAX_ROUNDS),
        common_min_cases=bounds.count("gate.common_min_cases", gate["common_min_cases"]),
        **{name: float(gate[name]) for name in share},
        **{name: float(gate[name]) for name in ("short_s", "absolute_floor_s", "timer_steps")},
    )


def of_history(overrides: Sequence[str]) -> list[str]:
    """The overrides with the rules that `chipscale run` measures by, unless they name others.

    The runs of a history were measured so, and unequal rules are unequal work.
    """
    said = {_key(one) for one in overrides}
    return [*([] if "measure" in said else ["measure=quick"]), *overrides]


def of_stored(folder: RunFolder, overrides: Sequence[str]) -> list[str]:
    """The overrides with what a stored run was measured by, except what they say themselves.

    The head has to be measured by the same rules, and of the same suite.

    Raises:
        RecordError: when the run's cases cannot be read.
    """
    said = {_key(one) for one in overrides}
    job = read_job(folder.path / CASES)
    info = job.run
    found = {"suite": info.suite, "model": info.model, "device": info.device}
    kept = [f"{name}={value}" for name, value in found.items() if value and name not in said]
    if "measure" not in said:
        rules = to_data(job.policy)
        kept += [
            f"measure.{name}={_written(value)}"
            for name, value in rules.items()
            if f"measure.{name}" not in said
        ]
    return [*kept, *overrides]
