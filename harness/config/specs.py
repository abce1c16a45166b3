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

from harness.config.bounds import plain
from harness.config.calibration import software_names
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
from harness.extrapolate.calibration import AUTO
from harness.extrapolate.cluster import (
    ALGORITHMS,
    DEFAULT_ALGORITHMS,
    MIXED,
    ClusterSpec,
    NetworkTier,
)
from harness.extrapolate.schedule import NAMES as SCHEDULE_NAMES
from harness.extrapolate.topology import TOPOLOGIES
from harness.units import GIBI, GIGA, KILO, MEBI, TERA
from harness.workload.divisors import largest_divisor
from harness.workload.model import Experts, LatentAttention, ModelSpec, StateSpace
from harness.workload.plan import CONTEXT_EXCHANGES, ParallelSpec
from kernels import registry

BYTES_PER_GBIT = GIGA / 8
COMPUTE_DTYPES = ("bf16", "fp16", "fp32")
LINEAR_DTYPES = ("", "fp8", "int8", "fp4")
RECOMPUTE = ("none", "selective", "full")
MOST_LAYERS = 1_000
"""As the deepest published transformer (DeepNet, arXiv 2203.00555); stages are searched layer by
layer, and more of them would take minutes."""

MOST_SEQUENCES = 10_000_000
"""Of one step: a hundred for each of 100,000 chips. Numbers of microbatches are searched."""


class Group(StrEnum):
    """The folders of `configs/` that hold data about the world."""

    CHIP = "chip"
    MODEL = "model"
    CLUSTER = "cluster"
    PARALLEL = "parallel"
    SERVING = "serving"


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
                f"{key}.achievable_tflops.{dtype}: {plain(achieved / TERA)} is more than the peak, "
                f"{key}.peak_tflops.{dtype}, of {plain(peak / TERA)}; one of the two is wrong. "
                f"Set {key}.achievable_tflops.{dtype}={plain(peak / TERA)} or less, or null."
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
                f"Set {reader.key}.{name}={most} or less."
            )
    return experts


def _state_space(reader: Reader | None, experts: Experts | None) -> StateSpace | None:
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
    reader = Reader(data, key)
    num_layers = reader.count("num_layers", most=MOST_LAYERS)
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


def _torus(reader: Reader, topology: str, chips: int) -> tuple[int, ...]:
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


def _algorithms(reader: Reader) -> tuple[str, ...]:
    names = reader.choices("algorithms", ALGORITHMS, DEFAULT_ALGORITHMS)
    if names == ("tree",):
        raise ConfigError(
            f"{reader.key}.algorithms: a tree alone gives no reduce-scatter. "
            f"Write algorithms: [{', '.join(DEFAULT_ALGORITHMS)}]."
        )
    return names


def _tier(reader: Reader) -> NetworkTier:
    gigabytes = reader.optional_real("gb_per_s_per_chip", above=0, example=450)
    gigabits = reader.optional_real("gbit_per_s_per_chip", above=0, example=400)
    if (gigabytes is None) == (gigabits is None):
        other = f"{reader.key}.gbit_per_s_per_chip"
        both = f"it and {other} are both given"
        what = f"neither it nor {other} is given" if gigabytes is None else both
        offered = "50, for one direction" if gigabytes is None else "null"
        raise ConfigError(
            f"{reader.key}.gb_per_s_per_chip: {what}, where exactly one is "
            f"due. Set {reader.key}.gb_per_s_per_chip={offered}."
        )
    bandwidth = gigabytes * GIGA if gigabytes is not None else (gigabits or 0.0) * BYTES_PER_GBIT
    efficiency = reader.number("efficiency")
    if efficiency > 1:
        raise ConfigError(
            f"{reader.key}.efficiency: {plain(efficiency)} is more than 1. It is the share of "
            f"the bandwidth that large messages reach. Set {reader.key}.efficiency=1 or less."
        )
    oversubscription = reader.optional_number("oversubscription") or 1.0
    if oversubscription < 1:
        raise ConfigError(
            f"{reader.key}.oversubscription: {plain(oversubscription)} is less than 1, which is "
            f"full bisection bandwidth. Set {reader.key}.oversubscription=1 or more."
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
            larger = max(2, round(outer.chips / inner.chips)) * inner.chips
            smaller = largest_divisor(outer.chips, min(inner.chips, outer.chips // 2))
            below, above = f"{key}.tiers[{index - 1}].chips", f"{key}.tiers[{index}].chips"
            ways = [f"{above}={larger}"]
            if smaller > 1:
                # Where the tier below has more chips, that one is the odd one.
                ways.insert(0 if inner.chips > outer.chips else 1, f"{below}={smaller}")
            raise ConfigError(
                f"{above}: {outer.chips} is not a larger multiple of the {inner.chips} chips of "
                f"the tier below, {below}. Set {', or '.join(ways)}."
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
    schedule = reader.choice("schedule", SCHEDULE_NAMES) if data.get("schedule") else None
    reader.used.add("schedule")
    expert_load = reader.optional_number("expert_load")
    if expert_load is not None and expert_load < 1:
        raise ConfigError(
            f"{key}.expert_load: {plain(expert_load)} is less than 1, but the busiest expert has "
            f"at least the mean. Set {key}.expert_load=1."
        )
    if data.get("offload"):
        raise ConfigError(
            f"{key}.offload: {data['offload']!r} is not modelled: weights, gradients, optimizer "
            "states and activations stay in the memory of the chip, of which a higher "
            f"{key}.zero_stage or {key}.recompute needs less. Set {key}.offload=null."
        )
    reader.used.add("offload")
    exchange = data.get("context_exchange")
    if exchange is not None:
        exchange = reader.choice("context_exchange", CONTEXT_EXCHANGES)
    reader.used.add("context_exchange")
    zero_stage = reader.optional_count("zero_stage", least=0, most=3)
    parallel = ParallelSpec(
        global_batch_tokens=reader.count("global_batch_tokens"),
        sequence_length=reader.count("sequence_length"),
        dtype=reader.choice("dtype", COMPUTE_DTYPES),
        linear_dtype=reader.choice("linear_dtype", LINEAR_DTYPES, ""),
        tensor=reader.optional_count("tensor"),
        pipeline=reader.optional_count("pipeline"),
        data=reader.optional_count("data"),
        expert=reader.optional_count("expert"),
        expert_load=expert_load,
        context=reader.optional_count("context"),
        context_exchange=exchange,
        virtual_stages=reader.optional_count("virtual_stages"),
        microbatch_size=reader.optional_count("microbatch_size"),
        zero_stage=zero_stage,
        shard_group=reader.optional_count("shard_group", least=0),
        recompute=recompute,
        schedule=schedule,
        layers_per_stage=reader.counts("layers_per_stage"),
        max_tensor=reader.optional_count("max_tensor"),
        software=reader.choice("software", ("", AUTO, *software_names()), ""),
        source=reader.text("source", ""),
    )
    reader.finish()
    _check_batch(parallel, key)
    return parallel


def _check_batch(parallel: ParallelSpec, key: str) -> None:
    """Refuse a batch that does not give each replica one microbatch."""
    tokens, length = parallel.global_batch_tokens, parallel.sequence_length
    if tokens < length:
        raise ConfigError(
            f"{key}.global_batch_tokens: {tokens} is less than one sequence of {length} tokens, "
            f"which is {key}.sequence_length. Set {key}.global_batch_tokens={length} or more, or "
            f"{key}.sequence_length={tokens} or less."
        )
    sequences = parallel.global_batch_sequences
    if sequences > MOST_SEQUENCES:
        raise ConfigError(
            f"{key}.global_batch_tokens: {tokens} are {sequences} sequences of {length} tokens, "
            f"where {MOST_SEQUENCES} are the most. Set {key}.global_batch_tokens="
            f"{MOST_SEQUENCES * length} or less, or a larger {key}.sequence_length."
        )
    size, data = parallel.microbatch_size or 1, parallel.data or 1
    if size * data <= sequences:
        return
    is_data = size <= sequences
    name = f"{key}.data" if is_data else f"{key}.microbatch_size"
    most = sequences // size if is_data else max(1, sequences // data)
    raise ConfigError(
        f"{name}: {data if is_data else size} is too large, as {data} replicas of {size} sequences "
        f"are more than the {sequences} sequences of {key}.global_batch_tokens={tokens}. "
        f"Set {name}={most} or less, or {key}.global_batch_tokens={size * data * length} or more."
    )


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
