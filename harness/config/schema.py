"""What `run.yaml` and `project.yaml` may say, as Hydra structured configs.

Plain dataclasses, because a frozen one fails on every merge; `build.py` turns them into the
frozen types that everything else uses. Groups that are data about the world (suite, model,
cluster, parallel) are checked there, by the reader that also checks the files themselves.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from harness.device.plugins import plugin_names


@dataclass
class FakeSchema:
    """See `harness/device/request.py`."""

    seed: int = 0
    memory_bytes: int = 64 * 2**30
    noise: float = 0.005
    drift_per_s: float = 0.0
    throttle_after_s: float | None = None
    throttle_factor: float = 1.5
    faults: dict[str, str] = field(default_factory=dict)
    count: int = 1
    spread: float = 0.0


@dataclass
class DeviceSchema:
    """See `harness/device/request.py`."""

    name: str = MISSING
    index: int = 0
    fake: FakeSchema = field(default_factory=FakeSchema)


@dataclass
class MeasureSchema:
    """See `harness/measure/policy.py`."""

    cache: str = MISSING
    launch: str = "held"
    inputs: str = "${inputs}"
    num_input_sets: int = 2
    relative_half_width: float = MISSING
    min_samples: int = MISSING
    max_samples: int = MISSING
    timeout_s: float = MISSING
    min_samples_at_timeout: int = MISSING
    warmup_window: int = MISSING
    warmup_tolerance: float = MISSING
    warmup_timeout_s: float = MISSING
    throttle_pause_s: float = 0.5
    throttle_retries: int = 3
    energy_s: float = 0.0
    sustained_timeout_s: float = 0.0
    case_timeout_s: float = MISSING
    seed: int = MISSING


@dataclass
class TrackingSchema:
    """Whether and how long MLflow is waited for; where it is, `MLFLOW_TRACKING_URI` says."""

    enabled: bool = True
    required: bool = False
    timeout_s: float = 30.0


@dataclass
class RunSchema:
    """`chipscale run`."""

    suite: Any = MISSING
    model: Any = MISSING
    device: DeviceSchema = field(default_factory=DeviceSchema)
    measure: MeasureSchema = field(default_factory=MeasureSchema)
    cluster: Any = MISSING
    parallel: Any = MISSING
    inputs: str = "normal"
    impls: list[str] = MISSING
    results_dir: str = MISSING
    devices: Any = None
    compile_processes: Any = "auto"
    resume: str | None = None
    plan: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    projection: bool = True
    strict: bool = False
    tracking: TrackingSchema = field(default_factory=TrackingSchema)


@dataclass
class ProjectSchema:
    """`chipscale project`."""

    model: Any = MISSING
    models: list[str] = field(default_factory=list)
    cluster: Any = MISSING
    clusters: list[str] = field(default_factory=list)
    parallel: Any = MISSING
    runs: list[str] = field(default_factory=list)
    train_tokens: Any = None
    train_loss: Any = None
    strict: bool = False
    explain: bool = False
    results_dir: str = MISSING
    html: str | None = None
    tracking: TrackingSchema = field(default_factory=TrackingSchema)


@dataclass
class ServeSchema:
    """`chipscale serve`."""

    model: Any = MISSING
    cluster: Any = MISSING
    serving: Any = MISSING
    runs: list[str] = field(default_factory=list)
    strict: bool = False
    results_dir: str = MISSING
    html: str | None = None
    tracking: TrackingSchema = field(default_factory=TrackingSchema)


@dataclass
class TuneSchema:
    """`chipscale tune`."""

    op: str = MISSING
    suite: Any = MISSING
    model: Any = MISSING
    device: DeviceSchema = field(default_factory=DeviceSchema)
    measure: MeasureSchema = field(default_factory=MeasureSchema)
    inputs: str = "normal"
    results_dir: str = MISSING
    run: str | None = None
    plan: str | None = None
    out: str | None = None
    tracking: TrackingSchema = field(default_factory=TrackingSchema)


@dataclass
class GatePolicySchema:
    """See `harness/gate/policy.py`, and what a regression is taken for."""

    rounds: int = MISSING
    tolerance: float = MISSING
    short_s: float = MISSING
    short_tolerance: float = MISSING
    absolute_floor_s: float = MISSING
    timer_steps: float = MISSING
    max_floor: float = MISSING
    common_share: float = MISSING
    common_min_cases: int = MISSING
    advisory: bool = False
    strict_stored: bool = False
    exemptions: str = MISSING
    floors: str | None = None


@dataclass
class CalibrateSchema:
    """`chipscale gate calibrate`."""

    runs: int = MISSING


@dataclass
class GateSchema:
    """`chipscale gate`."""

    base: str | None = None
    head: str = MISSING
    suite: Any = MISSING
    model: Any = MISSING
    device: DeviceSchema = field(default_factory=DeviceSchema)
    measure: MeasureSchema = field(default_factory=MeasureSchema)
    inputs: str = "normal"
    impls: list[str] = MISSING
    results_dir: str = MISSING
    resume: str | None = None
    gate: GatePolicySchema = field(default_factory=GatePolicySchema)
    calibrate: CalibrateSchema = field(default_factory=CalibrateSchema)
    tracking: TrackingSchema = field(default_factory=TrackingSchema)


@dataclass
class ValidateSchema:
    """`chipscale validate`."""

    data: str | None = None
    format: str = MISSING
    html: str | None = None
    calibrate: str | None = None


def register() -> None:
    """Make the schemas known to Hydra; doing so again changes nothing."""
    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunSchema)
    store.store(name="tune_schema", node=TuneSchema)
    store.store(name="project_schema", node=ProjectSchema)
    store.store(name="serve_schema", node=ServeSchema)
    store.store(name="gate_schema", node=GateSchema)
    store.store(name="validate_schema", node=ValidateSchema)
    # A back-end of another package needs no file; where there is one of that name, it counts.
    for name in plugin_names():
        store.store(group="device", name=name, node={"name": name, "index": 0})
