"""The composed configuration into the frozen types the program works with; done once."""

import importlib.resources
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.cases import CHECK_ROLE, CLOSURE_ROLE, ROOF_ROLE, Case, distinct
from harness.config import bounds
from harness.config.reader import Reader
from harness.config.serving_spec import serving_spec
from harness.config.specs import (
    Group,
    cluster_spec,
    list_names,
    load_chip,
    model_spec,
    parallel_spec,
)
from harness.device.chip import ChipSpec
from harness.device.request import DeviceRequest, FakeOptions, Fault
from harness.errors import ConfigError, PlanError, did_you_mean, unknown_name
from harness.extrapolate.at_scale import TrainingGoal
from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.serving.spec import ServingSpec
from harness.measure.policy import Cache, Launch, MeasurePolicy, Values
from harness.workload.layer import is_layer, layer_problems, work_of_layer
from harness.workload.model import ModelSpec
from harness.workload.plan import ParallelSpec
from harness.workload.step import Phase, Shard, phase_problems
from kernels import registry
from kernels.op import Mode, Problem

ALL_DEVICES = "all"
AUTO = "auto"
ALL_OPS = "all"
"""In place of an op's name: every op of the suite that has something to search."""

IMPLS = ("torch", "compile", "triton")
MODEL_DTYPES = ("bf16", "fp16", "fp32")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingRequest:
    """Whether and how long MLflow is waited for."""

    is_enabled: bool
    is_required: bool
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """Everything `chipscale run` was asked for."""

    suite: str
    model: ModelSpec
    device: DeviceRequest
    policy: MeasurePolicy
    cases: tuple[Case, ...]
    cluster: ClusterSpec
    parallel: ParallelSpec
    results_dir: Path
    devices: tuple[int, ...] | str | None
    """The indices of the devices to measure at once, or `all`; None for the one of `device`."""
    compile_processes: int | None
    """How many compile before anything is measured; None where that follows from the device."""
    resume: str | None
    plan_file: Path | None
    tags: tuple[tuple[str, str], ...]
    is_projected: bool
    is_strict: bool
    tracking: TrackingRequest
    config_yaml: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneRequest:
    """Everything `chipscale tune` was asked for."""

    op: str
    model: ModelSpec
    device: DeviceRequest
    policy: MeasurePolicy
    problems: tuple[Problem, ...]
    """Those of the suite that are of the op."""
    results_dir: Path
    run: str | None
    plan_file: Path | None
    out_file: Path | None
    tracking: TrackingRequest
    config_yaml: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectRequest:
    """Everything `chipscale project` was asked for."""

    model: ModelSpec
    cluster: ClusterSpec
    parallel: ParallelSpec
    chip: ChipSpec | None
    """The cluster's chip by its data sheet; None when it is `this`, the chip measured, or mixed."""
    island_chips: tuple[ChipSpec, ...]
    """Those of a mixed cluster, in the order of its islands."""
    goal: TrainingGoal
    runs: tuple[str, ...]
    is_strict: bool
    is_explained: bool
    results_dir: Path
    html_file: Path | None
    tracking: TrackingRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeRequest:
    """Everything `chipscale serve` was asked for."""

    model: ModelSpec
    cluster: ClusterSpec
    serving: ServingSpec
    chip: ChipSpec | None
    """As in ProjectRequest."""
    runs: tuple[str, ...]
    is_strict: bool
    results_dir: Path
    html_file: Path | None
    tracking: TrackingRequest


PUBLISHED_RUNS = Path(str(importlib.resources.files("configs"))) / "validation/published_runs.csv"
"""What `chipscale validate` predicts when no table is given."""


class ValidationFormat(StrEnum):
    """How a validation is written."""

    TABLE = "table"
    MARKDOWN = "markdown"
    JSON = "json"
    CSV = "csv"
    PAGE = "page"
    """All that `docs/validation.md` says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateRequest:
    """Everything `chipscale validate` was asked for."""

    data_file: Path
    format: ValidationFormat
    html_file: Path | None
    """Where charts are written; None draws none."""
    calibration_folder: Path | None
    """Where a new calibration is written; None uses the one that is part of chipscale."""


def validate_request(config: DictConfig) -> ValidateRequest:
    """The request in a composed `validate` configuration.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    data = _plain(config)
    file = data["data"]
    return ValidateRequest(
        data_file=Path(file) if file else PUBLISHED_RUNS,
        format=ValidationFormat(_one_of(data["format"], list(ValidationFormat), "format")),
        html_file=Path(data["html"]) if data["html"] else None,
        calibration_folder=Path(data["calibrate"]) if data["calibrate"] else None,
    )


def _plain(config: DictConfig) -> dict[str, Any]:
    data = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items()}


def run_request(config: DictConfig) -> RunRequest:
    """The request in a composed `run` configuration.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    data = _plain(config)
    model = model_spec(data["model"])
    plan = data["plan"]
    devices = _devices(data["devices"])
    for key in ("resume", "plan"):
        if devices is not None and data[key]:
            raise ConfigError(
                f"devices: {data['devices']} was asked for together with {key}, which is of one "
                "device. Leave devices out, and name the one by device.index."
            )
    return RunRequest(
        suite=str(data["suite"]["name"]),
        model=model,
        device=_device(data["device"]),
        policy=_policy(data["measure"]),
        cases=_cases(data["suite"], model, _impls(data["impls"])),
        cluster=cluster_spec(data["cluster"]),
        parallel=parallel_spec(data["parallel"]),
        results_dir=Path(data["results_dir"]).resolve(),
        devices=devices,
        compile_processes=_compile_processes(data["compile_processes"]),
        resume=data["resume"],
        plan_file=Path(plan) if plan else None,
        tags=tuple(sorted((str(key), str(value)) for key, value in data["tags"].items())),
        is_projected=bool(data["projection"]),
        is_strict=bool(data["strict"]),
        tracking=_tracking(data["tracking"]),
        config_yaml=OmegaConf.to_yaml(config, resolve=True),
    )


def tune_request(config: DictConfig) -> TuneRequest:
    """The request in a composed `tune` configuration.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    if OmegaConf.is_missing(config, "op"):
        raise ConfigError(
            "op: none is named. Add op=gemm, or op=all; `chipscale list ops` shows them."
        )
    data = _plain(config)
    op = str(data["op"])
    if op != ALL_OPS:
        _check_op("op", op)
    model = model_spec(data["model"])
    cases = _cases(data["suite"], model, ("triton",))
    problems = dict.fromkeys(case.problem for case in cases if op in (case.problem.op, ALL_OPS))
    if not problems:
        raise ConfigError(
            f"op: suite {data['suite']['name']} has no problem of {op} for {model.name}. It has "
            f"{', '.join(sorted({case.problem.op for case in cases}))}; choose one, another suite, "
            "or write sizes as suite.problems=[{op: ..., axes: {...}}]."
        )
    plan, out = data["plan"], data["out"]
    return TuneRequest(
        op=op,
        model=model,
        device=_device(data["device"]),
        policy=_policy(data["measure"]),
        problems=tuple(problems),
        results_dir=Path(data["results_dir"]).resolve(),
        run=data["run"],
        plan_file=Path(plan) if plan else None,
        out_file=Path(out).resolve() if out else None,
        tracking=_tracking(data["tracking"]),
        config_yaml=OmegaConf.to_yaml(config, resolve=True),
    )


def _check_chip(cluster: ClusterSpec, config_dirs: Sequence[Path]) -> None:
    """Refuse a cluster of a chip that has no file; islands name their own clusters."""
    chips = list_names(Group.CHIP, config_dirs)
    if not cluster.is_mixed and cluster.chip not in ("this", *chips):
        raise unknown_name("cluster.chip", Group.CHIP, cluster.chip, chips)


def project_request(config: DictConfig, config_dirs: Sequence[Path] = ()) -> ProjectRequest:
    """The request in a composed `project` configuration.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    data = _plain(config)
    cluster = cluster_spec(data["cluster"], extra=config_dirs)
    _check_chip(cluster, config_dirs)
    runs = tuple(data["runs"])
    if cluster.is_mixed and runs:
        raise ConfigError(
            f"runs: {list(runs)} is given, but cluster {cluster.name} has islands of several "
            "chips, each taken from its data sheet. Set runs=[], or a cluster of the chip measured."
        )
    has_one_chip = cluster.chip != "this" and not cluster.is_mixed
    goals = Reader({name: data[name] for name in ("train_tokens", "train_loss")}, "")
    return ProjectRequest(
        model=model_spec(data["model"]),
        cluster=cluster,
        parallel=parallel_spec(data["parallel"]),
        chip=load_chip(cluster.chip, config_dirs) if has_one_chip else None,
        island_chips=tuple(load_chip(island.chip, config_dirs) for island in cluster.islands),
        goal=TrainingGoal(
            tokens=goals.optional_real("train_tokens", above=0, example=15.6e12),
            loss=goals.optional_real("train_loss", above=0, example=2),
        ),
        runs=runs,
        is_explained=bool(data["explain"]),
        is_strict=bool(data["strict"]),
        results_dir=Path(data["results_dir"]).resolve(),
        html_file=Path(data["html"]) if data["html"] else None,
        tracking=_tracking(data["tracking"]),
    )


def serve_request(config: DictConfig, config_dirs: Sequence[Path] = ()) -> ServeRequest:
    """The request in a composed `serve` configuration.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    data = _plain(config)
    cluster = cluster_spec(data["cluster"], extra=config_dirs)
    if cluster.is_mixed:
        raise ConfigError(
            f"cluster: {cluster.name} has islands of several chips, and a replica is of one. Set "
            f"cluster={cluster.islands[0].name}, or another of one chip: `chipscale list clusters`."
        )
    _check_chip(cluster, config_dirs)
    return ServeRequest(
        model=model_spec(data["model"]),
        cluster=cluster,
        serving=serving_spec(data["serving"]),
        chip=None if cluster.chip == "this" else load_chip(cluster.chip, config_dirs),
        runs=tuple(data["runs"]),
        is_strict=bool(data["strict"]),
        results_dir=Path(data["results_dir"]).resolve(),
        html_file=Path(data["html"]) if data["html"] else None,
        tracking=_tracking(data["tracking"]),
    )


def tracking_request(config: DictConfig) -> TrackingRequest:
    """Whether and how long MLflow is waited for, of any composed configuration that has it.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    return _tracking(_plain(config)["tracking"])


def _tracking(data: Mapping[str, Any]) -> TrackingRequest:
    return TrackingRequest(
        is_enabled=bool(data["enabled"]),
        is_required=bool(data["required"]),
        timeout_s=bounds.number("tracking.timeout_s", data["timeout_s"], is_optional=False),
    )


def _device(data: Mapping[str, Any]) -> DeviceRequest:
    fake = dict(data["fake"])
    if fake["count"] < 1:
        raise ConfigError(f"device.fake.count: {fake['count']} is less than 1.")
    if not 0 <= fake["spread"] < 1:
        raise ConfigError(f"device.fake.spread: {fake['spread']} is not between 0 and 1.")
    for rate in ("peak_flops_per_s", "memory_bandwidth_bytes_per_s"):
        if not fake[rate] > 0:
            raise ConfigError(f"device.fake.{rate}: {fake[rate]} is not above 0.")
    if fake["launch_s"] < 0:
        raise ConfigError(f"device.fake.launch_s: {fake['launch_s']} is less than 0.")
    faults = fake.pop("faults") or {}
    for op in faults:
        _check_op(f"device.fake.faults.{op}", str(op).partition("/")[0])
    return DeviceRequest(
        name=str(data["name"]),
        index=int(data["index"]),
        fake=FakeOptions(
            **fake,
            faults=tuple(
                (str(op), Fault(_one_of(fault, list(Fault), f"device.fake.faults.{op}")))
                for op, fault in faults.items()
            ),
        ),
    )


def _devices(data: Any) -> tuple[int, ...] | str | None:
    if data is None or data == ALL_DEVICES:
        return data if data is None else ALL_DEVICES
    allowed = "Allowed are null, all and a list as [0,2]."
    if not isinstance(data, list) or not data:
        raise ConfigError(f"devices: {data!r} is not a list. {allowed}")
    for place, index in enumerate(data):
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise ConfigError(f"devices[{place}]: {index!r} is no index of a device. {allowed}")
    if len(set(data)) < len(data):
        raise ConfigError(f"devices: {data} names a device twice. Name each once.")
    return tuple(data)


def _compile_processes(data: Any) -> int | None:
    if data == AUTO:
        return None
    if isinstance(data, bool) or not isinstance(data, int) or data < 0:
        raise ConfigError(
            f"compile_processes: {data!r} is neither auto nor a number of processes, 0 or more."
        )
    return data


def _policy(data: Mapping[str, Any]) -> MeasurePolicy:
    policy = MeasurePolicy(
        **{
            **data,
            "cache": Cache(_one_of(data["cache"], list(Cache), "measure.cache")),
            "launch": Launch(_one_of(data["launch"], list(Launch), "measure.launch")),
            "inputs": Values(_one_of(data["inputs"], list(Values), "inputs")),
        }
    )
    for name, least in _LEAST.items():
        value = getattr(policy, name)
        if not (math.isfinite(value) and value >= least):
            raise ConfigError(f"measure.{name}: {value} is less than {least}.")
    for name in _ABOVE_ZERO:
        value = getattr(policy, name)
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"measure.{name}: {value} is not greater than 0.")
    if policy.max_samples < policy.min_samples:
        raise ConfigError(
            f"measure.max_samples: {policy.max_samples} is less than measure.min_samples, "
            f"which is {policy.min_samples}. Set it to {policy.min_samples} or more."
        )
    return policy


_ABOVE_ZERO = ("relative_half_width", "timeout_s", "case_timeout_s", "warmup_tolerance")
_LEAST = dict.fromkeys(
    ("min_samples", "max_samples", "min_samples_at_timeout", "warmup_window", "num_input_sets"), 1
) | dict.fromkeys(
    (
        *("warmup_timeout_s", "throttle_pause_s", "throttle_retries"),
        *("energy_s", "sustained_timeout_s"),
    ),
    0,
)


def _impls(names: Sequence[Any], key: str = "impls") -> tuple[str, ...]:
    for index, name in enumerate(names):
        _one_of(name, IMPLS, f"{key}[{index}]")
    if not names:
        raise ConfigError(f"{key}: the list is empty. Allowed are {', '.join(IMPLS)}.")
    return tuple(str(name) for name in names)


def _check_op(key: str, name: str) -> None:
    if name not in registry.names():
        raise unknown_name(key, "op", name, registry.names())


def _problem(data: Any, key: str) -> Problem:
    """A problem written out in a suite: `{op: gemm, dtype: bf16, axes: {M: 1, N: 2, K: 3}}`."""
    data = _check_keys(data, ("op", "dtype", "mode", "variant", "axes"), key)
    op = str(data.get("op", ""))
    _check_op(f"{key}.op", op)
    mode = str(data.get("mode", Mode.FORWARD))
    outline = registry.outline(op)
    _one_of(mode, outline.modes, f"{key}.mode")
    dtype = data.get("dtype", "bf16" if "bf16" in outline.dtypes else outline.dtypes[0])
    variant = data.get("variant", outline.variants[0])
    axes = data.get("axes")
    if not isinstance(axes, Mapping) or not axes:
        raise ConfigError(f"{key}.axes: {axes!r} is not a table of sizes, as {{M: 512, N: 768}}.")
    missing = [name for name in outline.axes if name not in axes]
    if missing:
        raise ConfigError(
            f"{key}.axes: {', '.join(missing)} of {op} missing. Its axes are "
            f"{', '.join(outline.axes)}; give each a size. `chipscale list ops` says what they are."
        )
    if set(axes) != set(outline.axes):
        raise ConfigError(
            f"{key}.axes: {', '.join(map(str, axes))} are not the axes of {op}, which are "
            f"{', '.join(outline.axes)}. `chipscale list ops` shows those of every op."
        )
    if variant and outline.variants == ("",):
        raise ConfigError(f"{key}.variant: '{variant}' is given, but {op} has no variants.")
    for name, size in axes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError(f"{key}.axes.{name}: {size!r} is not a whole number of at least 1.")
    return Problem(
        op=op,
        axes=tuple((name, axes[name]) for name in outline.axes),
        dtype=_one_of(dtype, outline.dtypes, f"{key}.dtype"),
        mode=Mode(mode),
        variant=_one_of(variant, outline.variants, f"{key}.variant"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A problem that a suite asks for, and how."""

    problem: Problem
    role: str
    cache: str = ""
    impls: tuple[str, ...] = IMPLS
    """Those that are worth it, of those that the run has."""


_OWN = ("cache", "impls")
"""What an entry of a suite says that is not of its problem."""


def _entries(data: Any, key: str, role: str) -> list[_Wanted]:
    """What an entry of `roofs` or `problems` asks for: a problem, or one for each type and size.

    `{op: gemm, dtype: [bf16, fp16], axes: [{M: 1, N: 2, K: 3}, ...], impls: [torch], cache: hot}`.
    """
    data = _check_keys(data, ("op", "dtype", "mode", "variant", "axes", *_OWN), key)
    cache, impls = data.get("cache", ""), data.get("impls", IMPLS)
    if cache:
        _one_of(cache, list(Cache), f"{key}.cache")
    if isinstance(impls, str):
        raise ConfigError(f"{key}.impls: '{impls}' is not a list. Write impls: [{impls}].")
    common = {name: value for name, value in data.items() if name not in _OWN}
    dtypes, sizes = (_several(common.pop(name, None)) for name in ("dtype", "axes"))
    return [
        _Wanted(
            problem=_problem(
                common | ({} if dtype is None else {"dtype": dtype}) | {"axes": axes}, key
            ),
            role=role,
            cache=cache,
            impls=_impls(impls, f"{key}.impls"),
        )
        for dtype in dtypes
        for axes in sizes
    ]


def _closures(data: Any, model: ModelSpec, dtype: str, key: str) -> list[_Wanted]:
    """Whole layers and the ops that they are made of.

    Either sizes, `{op: dense_layer, mode: training, axes: {...}}`, or a part of the model,
    `{phase: training, tensor: 1, ...}`; with `caches: [cold, hot]` the ops in both states.

    A layer stands in the middle of its ops, so that a steady drift of the chip's speed makes the
    ops neither faster nor slower than the layer, taken together.
    """
    own = ("caches", "impls")
    if not isinstance(data, Mapping):
        raise ConfigError(f"{key}: {data!r} is not a table of keys. Write {{phase: training}}.")
    caches, impls = data.get("caches", [""]), data.get("impls", IMPLS)
    for name, value in (("caches", caches), ("impls", impls)):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigError(f"{key}.{name}: {value!r} is not a list. Write {name}: [{value}].")
    for index, cache in enumerate(caches):
        if cache:
            _one_of(cache, list(Cache), f"{key}.caches[{index}]")
    named = _impls(impls, f"{key}.impls")
    sizes = {name: value for name, value in data.items() if name not in own}
    found: list[_Wanted] = []
    for layer in _whole_layers(sizes, model, dtype, key):
        try:
            ops = [item.problem for item in work_of_layer(layer)]
        except PlanError as error:
            raise ConfigError(f"{key}: {error}") from None
        wanted = [
            _Wanted(problem=op, role=CLOSURE_ROLE, cache=cache, impls=named)
            for op in ops
            for cache in caches
        ]
        middle = len(wanted) // 2
        whole = _Wanted(problem=layer, role=CLOSURE_ROLE, impls=named)
        found += [*wanted[:middle], whole, *wanted[middle:]]
    return found


def _whole_layers(
    sizes: Mapping[str, Any], model: ModelSpec, dtype: str, key: str
) -> tuple[Problem, ...]:
    if "op" not in sizes:
        phase, shard = phase_shard(sizes, dtype, key)
        try:
            return layer_problems(model, shard, phase)
        except PlanError as error:
            raise ConfigError(f"{key}: {error}") from None
    layer = _problem({"dtype": dtype, **sizes}, key)
    if not is_layer(layer):
        layers = [name for name in registry.names() if registry.outline(name).is_block]
        raise ConfigError(
            f"{key}.op: '{layer.op}' is no whole layer. Allowed: {', '.join(layers)}."
        )
    return (layer,)


def _several(value: Any) -> list[Any]:
    """The values of a list, or the only one."""
    return value if isinstance(value, list) and value else [value]


def _checks(data: Any, key: str) -> list[Problem]:
    """An op at one size in every type, mode and variant: `{op: gemm, axes: {M: 1, N: 2, K: 3}}`."""
    data = _check_keys(data, ("op", "axes"), key)
    op = str(data.get("op", ""))
    _check_op(f"{key}.op", op)
    outline = registry.outline(op)
    return [
        _problem({**data, "dtype": dtype, "mode": mode, "variant": variant}, key)
        for dtype in outline.dtypes
        for mode in outline.modes
        for variant in outline.variants
    ]


def _one_of(value: Any, allowed: Sequence[str], key: str) -> str:
    """The value as text if it is allowed."""
    if value not in allowed:
        raise ConfigError(
            f"{key}: '{value}' is not allowed. {did_you_mean(str(value), allowed)}"
            f"Allowed are {', '.join(allowed)}."
        )
    return str(value)


def _check_keys(data: Any, allowed: Sequence[str], key: str) -> Mapping[str, Any]:
    """The value as a table, all of whose keys are allowed."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{key}: {data!r} is not a table of {', '.join(allowed)}.")
    for name in data:
        if name not in allowed:
            raise ConfigError(
                f"{key}.{name}: no such key. {did_you_mean(str(name), allowed)}"
                f"Allowed are {', '.join(allowed)}."
            )
    return data


def phase_shard(data: Any, dtype: str, key: str) -> tuple[Phase, Shard]:
    """A phase and its shard, from `{phase: training, tensor: 8, ...}`.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    degrees = ("tensor", "expert", "microbatch_size", "sequence_length")
    for name, value in _check_keys(data, ("phase", *degrees), key).items():
        if name != "phase" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ConfigError(f"{key}.{name}: {value!r} is not a whole number of at least 1.")
    phase = _one_of(data.get("phase"), list(Phase), f"{key}.phase")
    sizes = {name: value for name, value in data.items() if name != "phase"}
    return Phase(phase), Shard(dtype=dtype, **sizes)


def _phase_problems(model: ModelSpec, shard: Shard, phase: Phase) -> tuple[Problem, ...]:
    return tuple(item.problem for item in phase_problems(model, shard, phase))


def _cases(suite: Any, model: ModelSpec, impls: Sequence[str]) -> tuple[Case, ...]:
    """Roofs, closures, layers and problems of the model by phase, and further ones, in order."""
    _check_keys(
        suite,
        (
            "name",
            "description",
            "dtype",
            "tensor",
            "expert",
            "microbatch_size",
            "sequence_length",
            "types",
            "types_8bit",
            "products",
            "memory",
            "cache",
            "caches",
            "implementations",
            "transfer",
            "ops",
            "layers",
            "closure",
            "phases",
            "roofs",
            "problems",
            "checks",
        ),
        "suite",
    )
    for name in ("ops", "layers", "closure", "phases", "roofs", "problems", "checks"):
        if suite.get(name) is not None and not isinstance(suite[name], list):
            raise ConfigError(
                f"suite.{name}: '{suite[name]}' is not a list. Write suite.{name}=[{suite[name]}]."
            )
    ops = suite.get("ops")
    if ops == []:
        raise ConfigError("suite.ops: the list is empty. Name ops, or write null for all of them.")
    for index, name in enumerate(ops or ()):
        _check_op(f"suite.ops[{index}]", str(name))
    wanted = [
        entry
        for index, data in enumerate(suite.get("roofs") or ())
        for entry in _entries(data, f"suite.roofs[{index}]", ROOF_ROLE)
    ]
    dtype = _one_of(suite.get("dtype", "bf16"), MODEL_DTYPES, "suite.dtype")
    wanted += [
        entry
        for index, data in enumerate(suite.get("closure") or ())
        for entry in _closures(data, model, dtype, f"suite.closure[{index}]")
    ]
    for name, problems in (("layers", layer_problems), ("phases", _phase_problems)):
        for index, data in enumerate(suite.get(name) or ()):
            key = f"suite.{name}[{index}]"
            phase, shard = phase_shard(data, dtype, key)
            try:
                wanted += [
                    _Wanted(problem=problem, role=phase)
                    for problem in problems(model, shard, phase)
                ]
            except PlanError as error:
                raise ConfigError(f"{key}: {error}") from None
    wanted += [
        entry
        for index, data in enumerate(suite.get("problems") or ())
        for entry in _entries(data, f"suite.problems[{index}]", "extra")
    ]
    wanted += [
        _Wanted(problem=problem, role=CHECK_ROLE)
        for index, data in enumerate(suite.get("checks") or ())
        for problem in _checks(data, f"suite.checks[{index}]")
    ]
    cases = distinct(
        Case(problem=one.problem, impl=impl, roles=(one.role,), cache=one.cache)
        for one in wanted
        for impl in impls
        if impl in one.impls and (one.role == ROOF_ROLE or not ops or one.problem.op in ops)
    )
    if not cases:
        raise ConfigError(
            "suite: it asks for no case. Add layers, closure, phases, roofs, problems or checks."
        )
    return cases
