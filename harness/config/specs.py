"""Plain mappings, as YAML or Hydra give them, to the frozen types the program works with.

Every error names the key, the value, what is allowed and what to do. Quick: no torch, no Hydra.
"""

import importlib.resources
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from importlib.resources.abc import Traversable
from pathlib import Path

import yaml

from harness.device.chip import ChipSpec
from harness.errors import ConfigError, did_you_mean, unknown_name
from harness.extrapolate.cluster import (
    ALGORITHMS,
    DEFAULT_ALGORITHMS,
    ClusterSpec,
    NetworkTier,
    Reliability,
)
from harness.extrapolate.schedule import NAMES as SCHEDULE_NAMES
from harness.extrapolate.topology import TOPOLOGIES
from harness.units import GIBI, GIGA, KILO, MEBI, TERA
from harness.workload.model import Experts, LatentAttention, ModelSpec, StateSpace
from harness.workload.plan import ParallelSpec
from kernels import registry

BYTES_PER_GBIT = GIGA / 8
PEAK_DTYPES = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp4", "int8")
COMPUTE_DTYPES = ("bf16", "fp16", "fp32")
LINEAR_DTYPES = ("", "fp8", "int8", "fp4")
RECOMPUTE = ("none", "selective", "full")


class Group(StrEnum):
    """The folders of `configs/` that hold data about the world."""

    CHIP = "chip"
    MODEL = "model"
    CLUSTER = "cluster"
    PARALLEL = "parallel"


@dataclass(slots=True)
class _Reader:
    """Takes keys out of one mapping, checks them, and refuses what is left over."""

    data: Mapping[str, object]
    key: str
    used: set[str] = field(default_factory=set)

    def _error(self, name: str, value: object, allowed: str, advice: str) -> ConfigError:
        return ConfigError(f"{self.key}.{name}: {value!r} is not {allowed}. {advice}")

    def _take(self, name: str) -> object:
        self.used.add(name)
        return self.data.get(name)

    def _required(self, name: str, allowed: str) -> object:
        value = self._take(name)
        if value is None:
            raise ConfigError(f"{self.key}.{name}: missing; it must be {allowed}. Add it.")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._take(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or (default is None and not value):
            if value is None:
                raise ConfigError(f"{self.key}.{name}: missing; it must be a text. Add it.")
            raise self._error(name, value, "a text", "Put it in quotes.")
        return value

    def choice(self, name: str, allowed: Sequence[str], default: str | None = None) -> str:
        value = self.text(name, default)
        if value not in allowed:
            raise self._error(
                name,
                value,
                f"one of {', '.join(allowed)}",
                f"{did_you_mean(value, allowed)}Set {self.key}.{name}={allowed[0]} or another.",
            )
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self._take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._error(name, value, "true or false", f"Set {self.key}.{name}=true or false.")
        return value

    def optional_number(self, name: str, *, above: float = 0.0) -> float | None:
        """A finite number greater than `above`, or None when absent or null."""
        value = self._take(name)
        if value is None:
            return None
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or value <= above
        ):
            raise self._error(
                name,
                value,
                f"a finite number greater than {above:g}",
                "Write null when it is not known." if above == 0.0 else "Correct it.",
            )
        return float(value)

    def number(self, name: str, *, above: float = 0.0) -> float:
        self._required(name, f"a finite number greater than {above:g}")
        value = self.optional_number(name, above=above)
        assert value is not None
        return value

    def optional_count(self, name: str, *, least: int = 1) -> int | None:
        """A whole number of at least `least`, or None when absent or null."""
        value = self._take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self._error(
                name,
                value,
                f"a whole number of at least {least}",
                f"Set {self.key}.{name}={least} or more.",
            )
        return value

    def count(self, name: str, *, least: int = 1, default: int | None = None) -> int:
        if default is None:
            self._required(name, f"a whole number of at least {least}")
        value = self.optional_count(name, least=least)
        if value is None:
            assert default is not None
            return default
        return value

    def optional_share(self, name: str) -> float | None:
        """A number above 0 and up to 1, or None when absent or null."""
        value = self.optional_number(name)
        if value is not None and value > 1:
            raise self._error(name, value, "a share between 0 and 1", f"Set {self.key}.{name}=1.")
        return value

    def counts(self, name: str) -> tuple[int, ...]:
        """Whole numbers of at least 1; none when absent or null."""
        value = self._take(name)
        if value is None:
            return ()
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise self._error(
                name, value, "a list of whole numbers", f"Write {name}: [16, 20, 28]."
            )
        for item in value:
            if isinstance(item, bool) or not isinstance(item, int) or item < 1:
                raise self._error(name, item, "a whole number of at least 1", "Correct it.")
        return tuple(value)

    def choices(
        self, name: str, allowed: Sequence[str], default: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Some of the allowed texts; the default when absent or null."""
        values = self.texts(name)
        for value in values:
            if value not in allowed:
                raise self._error(
                    name,
                    value,
                    f"one of {', '.join(allowed)}",
                    f"{did_you_mean(value, allowed)}Write {name}: [{', '.join(default)}].",
                )
        return values or default

    def rates(self, name: str, scale: float) -> tuple[tuple[str, float], ...]:
        """Positive numbers by data type; a type that is absent or null is unknown."""
        table = self._take(name)
        if table is None:
            return ()
        if not isinstance(table, Mapping):
            raise self._error(name, table, "a table by data type", "Write {bf16: 989}.")
        reader = _Reader(table, f"{self.key}.{name}")
        found = [(dtype, reader.optional_number(dtype)) for dtype in PEAK_DTYPES]
        reader.finish()
        return tuple((dtype, value * scale) for dtype, value in found if value is not None)

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._take(name)
        if value is None:
            return ()
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise self._error(name, value, "a list of texts", f"Write {name}: [...].")
        for item in value:
            if not isinstance(item, str):
                raise self._error(name, item, "a text", "Put it in quotes.")
        return tuple(value)

    def nested(self, name: str) -> "_Reader | None":
        value = self._take(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self._error(name, value, "a table of keys", "Indent its keys below it.")
        return _Reader(value, f"{self.key}.{name}")

    def list_of_tables(self, name: str) -> Iterator["_Reader"]:
        value = self._required(name, "a list of tables")
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise self._error(name, value, "a list of tables", "Begin each with a dash.")
        for index, item in enumerate(value):
            if not isinstance(item, Mapping):
                raise self._error(f"{name}[{index}]", item, "a table of keys", "Indent its keys.")
            yield _Reader(item, f"{self.key}.{name}[{index}]")

    def finish(self) -> None:
        """Refuse keys that nobody asked for."""
        for name in self.data:
            if name not in self.used:
                raise ConfigError(
                    f"{self.key}.{name}: no such key. {did_you_mean(str(name), self.used)}"
                    f"Allowed are {', '.join(sorted(self.used))}."
                )


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def chip_spec(data: Mapping[str, object], key: str = "chip") -> ChipSpec:
    """The chip a mapping describes; units are in the key names, memory in powers of two.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    reader = _Reader(data, key)
    chip = ChipSpec(
        name=reader.text("name"),
        title=reader.text("title"),
        vendor=reader.text("vendor"),
        torch_device_type=reader.text("torch_device_type"),
        match=reader.texts("match"),
        peak_flops_per_s=reader.rates("peak_tflops", TERA),
        achievable_flops_per_s=reader.rates("achievable_tflops", TERA),
        memory_bytes=_scaled(reader.optional_number("memory_gib"), GIBI),
        memory_bandwidth_bytes_per_s=_scaled(
            reader.optional_number("memory_bandwidth_gb_per_s"), GIGA
        ),
        l2_bytes=_scaled(reader.optional_number("l2_mib"), MEBI),
        scaleup_bandwidth_bytes_per_s_per_chip=_scaled(
            reader.optional_number("scaleup_gb_per_s_per_chip"), GIGA
        ),
        scaleup_domain_chips=reader.optional_count("scaleup_domain_chips"),
        scaleout_bandwidth_bytes_per_s_per_chip=_scaled(
            reader.optional_number("scaleout_gbit_per_s_per_chip"), BYTES_PER_GBIT
        ),
        power_w=reader.optional_number("power_w"),
        source=reader.text("source"),
        evidence=reader.text("evidence", ""),
        notes=reader.text("notes", ""),
    )
    reader.finish()
    for dtype, achieved in chip.achievable_flops_per_s:
        peak = chip.peak(dtype)
        if peak is not None and achieved > peak:
            raise ConfigError(
                f"{key}.achievable_tflops.{dtype}: {achieved / TERA:g} is more than the peak of "
                f"{peak / TERA:g}. One of the two is wrong; correct it or write null."
            )
    return chip


def _latent_attention(reader: _Reader | None) -> LatentAttention | None:
    if reader is None:
        return None
    latent = LatentAttention(
        q_lora_rank=reader.count("q_lora_rank", least=0),
        kv_lora_rank=reader.count("kv_lora_rank"),
        qk_nope_head_dim=reader.count("qk_nope_head_dim"),
        qk_rope_head_dim=reader.count("qk_rope_head_dim"),
        v_head_dim=reader.count("v_head_dim"),
    )
    reader.finish()
    return latent


def _experts(reader: _Reader | None, num_layers: int) -> Experts | None:
    if reader is None:
        return None
    experts = Experts(
        num_experts=reader.count("num_experts"),
        num_experts_per_token=reader.count("num_experts_per_token"),
        expert_ffn=reader.count("expert_ffn"),
        num_shared_experts=reader.count("num_shared_experts", least=0, default=0),
        num_dense_layers=reader.count("num_dense_layers", least=0, default=0),
        routing=reader.choice("routing", registry.outline("moe_route").variants, "softmax"),
        latent_width=reader.count("latent_width", least=0, default=0),
    )
    reader.finish()
    for name, value, most, what in (
        ("num_experts_per_token", experts.num_experts_per_token, experts.num_experts, "experts"),
        ("num_dense_layers", experts.num_dense_layers, num_layers - 1, "layers less one"),
    ):
        if value > most:
            raise ConfigError(
                f"{reader.key}.{name}: {value} is more than the {most} {what}. "
                f"Set it to at most {most}."
            )
    return experts


def _state_space(reader: _Reader | None, experts: Experts | None) -> StateSpace | None:
    if reader is None:
        return None
    space = StateSpace(
        num_heads=reader.count("num_heads"),
        head_dim=reader.count("head_dim"),
        state=reader.count("state"),
        num_groups=reader.count("num_groups"),
        convolution=reader.count("convolution", default=4),
    )
    reader.finish()
    if experts is None:
        raise ConfigError(
            f"{reader.key}: only layers with experts have a state space here, and this model has "
            "none. Give experts too, or leave it out."
        )
    return space


def model_spec(data: Mapping[str, object], key: str = "model") -> ModelSpec:
    """The model a mapping describes.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    reader = _Reader(data, key)
    num_layers = reader.count("num_layers")
    experts = _experts(reader.nested("experts"), num_layers)
    space = _state_space(reader.nested("state_space"), experts)
    has_network = experts is None or (experts.num_dense_layers > 0 and space is None)
    model = ModelSpec(
        name=reader.text("name"),
        title=reader.text("title"),
        num_layers=num_layers,
        hidden=reader.count("hidden"),
        num_heads=reader.count("num_heads"),
        num_kv_heads=reader.count("num_kv_heads"),
        head_dim=reader.count("head_dim"),
        ffn=reader.count("ffn", least=1 if has_network else 0),
        vocab=reader.count("vocab"),
        is_embedding_tied=reader.flag("is_embedding_tied", default=False),
        source=reader.text("source"),
        latent_attention=_latent_attention(reader.nested("latent_attention")),
        experts=experts,
        published_parameters=_scaled(reader.optional_number("published_parameters_billion"), GIGA),
        is_ffn_gated=reader.flag("is_ffn_gated", default=True),
        has_bias=reader.flag("has_bias", default=False),
        has_qk_norm=reader.flag("has_qk_norm", default=False),
        num_learned_positions=reader.count("num_learned_positions", least=0, default=0),
        state_space=space,
        num_prediction_modules=reader.count("num_prediction_modules", least=0, default=0),
        is_prediction_shared=reader.flag("is_prediction_shared", default=False),
    )
    reader.finish()
    if model.num_heads % model.num_kv_heads:
        raise ConfigError(
            f"{key}.num_kv_heads: {model.num_kv_heads} does not divide num_heads, which is "
            f"{model.num_heads}. Set {key}.num_kv_heads="
            f"{math.gcd(model.num_heads, model.num_kv_heads)}."
        )
    return model


def _torus(reader: _Reader, topology: str, chips: int) -> tuple[int, ...]:
    dims = reader.counts("dims")
    if topology != "torus":
        if dims:
            raise ConfigError(
                f"{reader.key}.dims: a {topology} has no axes. Set {reader.key}.topology=torus, "
                "or remove dims."
            )
        return ()
    if not dims:
        raise ConfigError(
            f"{reader.key}.dims: missing; a torus needs the chips along each of its axes, the "
            "innermost first. Add it."
        )
    if math.prod(dims) != chips:
        raise ConfigError(
            f"{reader.key}.dims: {' x '.join(map(str, dims))} is {math.prod(dims)}, but chips is "
            f"{chips}. Set {reader.key}.chips={math.prod(dims)}, or correct the axes."
        )
    return dims


def _algorithms(reader: _Reader) -> tuple[str, ...]:
    names = reader.choices("algorithms", ALGORITHMS, DEFAULT_ALGORITHMS)
    if names == ("tree",):
        raise ConfigError(
            f"{reader.key}.algorithms: a tree alone gives no reduce-scatter. "
            f"Write algorithms: [{', '.join(DEFAULT_ALGORITHMS)}]."
        )
    return names


def _tier(reader: _Reader) -> NetworkTier:
    gigabytes = reader.optional_number("gb_per_s_per_chip")
    gigabits = reader.optional_number("gbit_per_s_per_chip")
    if (gigabytes is None) == (gigabits is None):
        raise ConfigError(
            f"{reader.key}: give exactly one of gb_per_s_per_chip and gbit_per_s_per_chip, "
            "for one direction."
        )
    bandwidth = gigabytes * GIGA if gigabytes is not None else (gigabits or 0.0) * BYTES_PER_GBIT
    efficiency = reader.number("efficiency")
    if efficiency > 1:
        raise ConfigError(
            f"{reader.key}.efficiency: {efficiency:g} is more than 1. It is the share of the "
            "bandwidth that large messages reach; set it between 0 and 1."
        )
    oversubscription = reader.optional_number("oversubscription") or 1.0
    if oversubscription < 1:
        raise ConfigError(
            f"{reader.key}.oversubscription: {oversubscription:g} is less than 1, which is full "
            "bisection bandwidth. Set it to 1 or more."
        )
    topology, chips = reader.choice("topology", TOPOLOGIES), reader.count("chips", least=2)
    tier = NetworkTier(
        name=reader.text("name"),
        topology=topology,
        chips=chips,
        dims=_torus(reader, topology, chips),
        algorithms=_algorithms(reader),
        in_network_efficiency=reader.optional_share("in_network_efficiency"),
        scattered_efficiency=reader.optional_share("scattered_efficiency") or 1.0,
        half_size_bytes=_scaled(reader.optional_number("half_size_kb"), KILO),
        ports_per_chip=reader.optional_number("ports_per_chip") or 1.0,
        bandwidth_bytes_per_s_per_chip=bandwidth,
        efficiency=efficiency,
        latency_s=reader.number("latency_us") * 1e-6,
        oversubscription=oversubscription,
        source=reader.text("source"),
    )
    reader.finish()
    return tier


def cluster_spec(data: Mapping[str, object], key: str = "cluster") -> ClusterSpec:
    """The cluster a mapping describes.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    reader = _Reader(data, key)
    num_chips = reader.count("num_chips")
    tiers = tuple(_tier(tier) for tier in reader.list_of_tables("tiers"))
    nested = reader.nested("reliability")
    if nested is None:
        raise ConfigError(
            f"{key}.reliability: missing; it must be a table with mtbf_hours_per_chip, "
            "restart_minutes, checkpoint_seconds and source. Add it."
        )
    reliability = Reliability(
        mtbf_hours_per_chip=nested.number("mtbf_hours_per_chip"),
        restart_s=nested.number("restart_minutes") * 60,
        checkpoint_s=nested.number("checkpoint_seconds"),
        source=nested.text("source"),
    )
    nested.finish()
    cluster = ClusterSpec(
        name=reader.text("name"),
        title=reader.text("title"),
        chip=reader.text("chip"),
        num_chips=num_chips,
        tiers=tiers,
        reliability=reliability,
        source=reader.text("source"),
        assumptions=reader.texts("assumptions"),
    )
    reader.finish()
    for index, (inner, outer) in enumerate(itertools.pairwise(tiers), start=1):
        if outer.chips <= inner.chips or outer.chips % inner.chips:
            raise ConfigError(
                f"{key}.tiers[{index}].chips: {outer.chips} is not a larger multiple of the "
                f"{inner.chips} chips of the tier below. Set it to "
                f"{max(2, round(outer.chips / inner.chips)) * inner.chips}."
            )
    if tiers[-1].chips < num_chips:
        raise ConfigError(
            f"{key}.num_chips: {num_chips} chips, but the last tier joins only "
            f"{tiers[-1].chips}. Set {key}.num_chips={tiers[-1].chips} or add a tier."
        )
    return cluster


def parallel_spec(data: Mapping[str, object], key: str = "parallel") -> ParallelSpec:
    """The plan a mapping asks for; a degree that is null is searched.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    reader = _Reader(data, key)
    reader.text("name", "")
    recompute = reader.choice("recompute", RECOMPUTE) if data.get("recompute") is not None else None
    reader.used.add("recompute")
    schedule = reader.choice("schedule", SCHEDULE_NAMES) if data.get("schedule") else None
    reader.used.add("schedule")
    zero_stage = reader.optional_count("zero_stage", least=0)
    if zero_stage is not None and zero_stage > 3:
        raise ConfigError(f"{key}.zero_stage: {zero_stage} is not 0, 1, 2 or 3. Set it to 1.")
    parallel = ParallelSpec(
        global_batch_tokens=reader.count("global_batch_tokens"),
        sequence_length=reader.count("sequence_length"),
        dtype=reader.choice("dtype", COMPUTE_DTYPES),
        linear_dtype=reader.choice("linear_dtype", LINEAR_DTYPES, ""),
        tensor=reader.optional_count("tensor"),
        pipeline=reader.optional_count("pipeline"),
        data=reader.optional_count("data"),
        expert=reader.optional_count("expert"),
        context=reader.optional_count("context"),
        virtual_stages=reader.optional_count("virtual_stages"),
        microbatch_size=reader.optional_count("microbatch_size"),
        zero_stage=zero_stage,
        recompute=recompute,
        schedule=schedule,
        layers_per_stage=reader.counts("layers_per_stage"),
        max_tensor=reader.optional_count("max_tensor"),
        source=reader.text("source", ""),
    )
    reader.finish()
    if parallel.global_batch_tokens < parallel.sequence_length:
        raise ConfigError(
            f"{key}.global_batch_tokens: {parallel.global_batch_tokens} is less than one sequence "
            f"of {parallel.sequence_length} tokens. Set {key}.global_batch_tokens="
            f"{parallel.sequence_length} or more."
        )
    return parallel


def _folders(group: str, extra: Sequence[Path]) -> tuple[Traversable, ...]:
    """Where a group's files are: the user's folders first, then the packaged ones."""
    packaged = importlib.resources.files("configs").joinpath(group)
    own = tuple(folder / group for folder in extra)
    return (*own, packaged)


def list_names(group: str, extra: Sequence[Path] = ()) -> tuple[str, ...]:
    """The names in a group of `configs/` and of further configuration folders, sorted."""
    names = {
        file.name.removesuffix(".yaml")
        for folder in _folders(group, extra)
        if folder.is_dir()
        for file in folder.iterdir()
        if file.name.endswith(".yaml")
    }
    return tuple(sorted(names))


@cache
def _packaged(group: str, name: str) -> Mapping[str, object]:
    return parsed_file(importlib.resources.files("configs").joinpath(group, f"{name}.yaml"))


def parsed_file(file: Traversable) -> Mapping[str, object]:
    """The mapping that a YAML file holds. Raises ConfigError where it holds none."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        data = yaml.load(file.read_text(encoding="utf-8"), Loader=loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not YAML ({error}). Correct the file.") from None
    if not isinstance(data, Mapping):
        raise ConfigError(f"{file}: expected a table of keys, found {data!r}. Correct the file.")
    return data


def load_data(group: str, name: str, extra: Sequence[Path] = ()) -> Mapping[str, object]:
    """The mapping of one file of a group.

    Raises:
        ConfigError: for a name that is not there, with the nearest one.
    """
    for folder in extra:
        file = folder / group / f"{name}.yaml"
        if file.is_file():
            return parsed_file(file)
    if name not in list_names(group):
        raise unknown_name(group, group, name, list_names(group, extra))
    return _packaged(group, name)


def load_chip(name: str, extra: Sequence[Path] = ()) -> ChipSpec:
    """The chip of that name. Raises ConfigError for an unknown one."""
    return chip_spec(load_data(Group.CHIP, name, extra), f"chip {name}")


def load_model(name: str, extra: Sequence[Path] = ()) -> ModelSpec:
    """The model of that name. Raises ConfigError for an unknown one."""
    return model_spec(load_data(Group.MODEL, name, extra), f"model {name}")


def load_cluster(name: str, extra: Sequence[Path] = ()) -> ClusterSpec:
    """The cluster of that name. Raises ConfigError for an unknown one."""
    return cluster_spec(load_data(Group.CLUSTER, name, extra), f"cluster {name}")


def load_parallel(name: str, extra: Sequence[Path] = ()) -> ParallelSpec:
    """The parallel plan of that name. Raises ConfigError for an unknown one."""
    return parallel_spec(load_data(Group.PARALLEL, name, extra), f"parallel {name}")


def match_chip(device_name: str, extra: Sequence[Path] = ()) -> ChipSpec | None:
    """The chip whose drivers report that name, or None: an unknown chip is never guessed."""
    wanted = device_name.strip().casefold()
    for name in list_names(Group.CHIP, extra):
        chip = load_chip(name, extra)
        if wanted in (known.casefold() for known in chip.match):
            return chip
    return None
