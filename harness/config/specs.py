"""Plain mappings, as YAML or Hydra give them, to the frozen types the program works with.

Every error names the key, the value, what is allowed and what to do. Quick: no torch, no Hydra.
"""

import importlib.resources
import itertools
import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache
from importlib.resources.abc import Traversable
from pathlib import Path

import yaml

from harness.config.cluster_tables import (
    islands_of,
    power_of,
    price_of,
    reliability_of,
    spare_confidence_of,
    storage_of,
    stragglers_of,
)
from harness.config.reader import Reader
from harness.device.chip import ChipSpec
from harness.errors import ConfigError, unknown_name
from harness.extrapolate.cluster import MIXED, ClusterSpec, NetworkTier
from harness.extrapolate.topology import TOPOLOGIES
from harness.units import GIBI, GIGA, MEBI, TERA
from harness.workload.model import Experts, LatentAttention, ModelSpec
from harness.workload.plan import ParallelSpec
from kernels import registry

BYTES_PER_GBIT = GIGA / 8
COMPUTE_DTYPES = ("bf16", "fp16", "fp32")
LINEAR_DTYPES = ("", "fp8", "int8")
RECOMPUTE = ("none", "selective", "full")


class Group(StrEnum):
    """The folders of `configs/` that hold data about the world."""

    CHIP = "chip"
    MODEL = "model"
    CLUSTER = "cluster"
    PARALLEL = "parallel"


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def chip_spec(data: Mapping[str, object], key: str = "chip") -> ChipSpec:
    """The chip a mapping describes; units are in the key names, memory in powers of two.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    reader = Reader(data, key)
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


def _latent_attention(reader: Reader | None) -> LatentAttention | None:
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


def _experts(reader: Reader | None, num_layers: int) -> Experts | None:
    if reader is None:
        return None
    experts = Experts(
        num_experts=reader.count("num_experts"),
        num_experts_per_token=reader.count("num_experts_per_token"),
        expert_ffn=reader.count("expert_ffn"),
        num_shared_experts=reader.count("num_shared_experts", least=0, default=0),
        num_dense_layers=reader.count("num_dense_layers", least=0, default=0),
        routing=reader.choice("routing", registry.outline("moe_route").variants, "softmax"),
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


def model_spec(data: Mapping[str, object], key: str = "model") -> ModelSpec:
    """The model a mapping describes.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    reader = Reader(data, key)
    num_layers = reader.count("num_layers")
    experts = _experts(reader.nested("experts"), num_layers)
    has_dense_layers = experts is None or experts.num_dense_layers > 0
    model = ModelSpec(
        name=reader.text("name"),
        title=reader.text("title"),
        num_layers=num_layers,
        hidden=reader.count("hidden"),
        num_heads=reader.count("num_heads"),
        num_kv_heads=reader.count("num_kv_heads"),
        head_dim=reader.count("head_dim"),
        ffn=reader.count("ffn", least=1 if has_dense_layers else 0),
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
    )
    reader.finish()
    if model.num_heads % model.num_kv_heads:
        raise ConfigError(
            f"{key}.num_kv_heads: {model.num_kv_heads} does not divide num_heads, which is "
            f"{model.num_heads}. Set {key}.num_kv_heads="
            f"{math.gcd(model.num_heads, model.num_kv_heads)}."
        )
    return model


def _tier(reader: Reader) -> NetworkTier:
    gigabytes = reader.optional_real("gb_per_s_per_chip", above=0, example=450)
    gigabits = reader.optional_real("gbit_per_s_per_chip", above=0, example=400)
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
    tier = NetworkTier(
        name=reader.text("name"),
        topology=reader.choice("topology", TOPOLOGIES),
        chips=reader.count("chips", least=2),
        bandwidth_bytes_per_s_per_chip=bandwidth,
        efficiency=efficiency,
        latency_s=reader.real("latency_us", above=0, example=5) * 1e-6,
        oversubscription=oversubscription,
        source=reader.sources(),
    )
    reader.finish()
    return tier


def cluster_spec(
    data: Mapping[str, object], key: str = "cluster", extra: Sequence[Path] = ()
) -> ClusterSpec:
    """The cluster a mapping describes; its islands are files of the group or of `extra` folders.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    reader = Reader(data, key)
    num_chips = reader.count("num_chips")
    tiers = tuple(_tier(tier) for tier in reader.list_of_tables("tiers"))
    islands = islands_of(reader, num_chips, extra, load_cluster)
    cluster = ClusterSpec(
        name=reader.text("name"),
        title=reader.text("title"),
        chip=MIXED if islands else reader.text("chip"),
        num_chips=num_chips,
        tiers=tiers,
        reliability=reliability_of(reader, islands),
        source=reader.sources(),
        chips_per_host=reader.count("chips_per_host", default=min(8, tiers[0].chips)),
        chips_per_rack=reader.optional_count("chips_per_rack"),
        spare_hosts=reader.optional_count("spare_hosts", least=0),
        spare_confidence=spare_confidence_of(reader),
        storage=storage_of(reader),
        stragglers=stragglers_of(reader),
        power=power_of(reader),
        price=price_of(reader),
        islands=islands,
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
    reader = Reader(data, key)
    reader.text("name", "")
    recompute = reader.choice("recompute", RECOMPUTE) if data.get("recompute") is not None else None
    reader.used.add("recompute")
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
    return cluster_spec(load_data(Group.CLUSTER, name, extra), f"cluster {name}", extra)


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
