import math
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.config.specs import (
    chip_spec,
    cluster_spec,
    list_names,
    load_chip,
    load_cluster,
    load_data,
    load_model,
    load_parallel,
    match_chip,
    model_spec,
    parallel_spec,
)
from harness.errors import ConfigError
from harness.extrapolate.cluster import ClusterSpec

MODEL = load_data("model", "llama3_8b")
CHIP = load_data("chip", "h100_sxm")
CLUSTER = load_data("cluster", "h100_100k")
PARALLEL = load_data("parallel", "search")


@pytest.mark.parametrize("name", list_names("chip"))
def test_every_chip_loads_and_is_named_as_its_file(name: str) -> None:
    chip = load_chip(name)
    assert chip.name == name
    assert chip.source
    assert all(math.isfinite(rate) and rate > 0 for _, rate in chip.peak_flops_per_s)


@pytest.mark.parametrize("group", ["model", "cluster", "parallel"])
def test_every_file_loads_and_is_named_as_its_file(group: str) -> None:
    load = {"model": load_model, "cluster": load_cluster, "parallel": load_parallel}[group]
    for name in list_names(group):
        load(name)
        assert load_data(group, name)["name"] == name


@pytest.mark.parametrize("name", list_names("cluster"))
def test_every_tier_of_a_cluster_has_its_source(name: str) -> None:
    cluster = load_cluster(name)
    assert isinstance(cluster, ClusterSpec)
    assert all(tier.source for tier in cluster.tiers)
    chips = [island.chip for island in cluster.islands] or [cluster.chip]
    assert all(chip == "this" or chip in list_names("chip") for chip in chips)


def test_there_are_sixty_chips() -> None:
    assert len(list_names("chip")) == 60


def test_units_of_a_chip_are_converted() -> None:
    chip = load_chip("h100_sxm")
    assert chip.peak("bf16") == 989e12
    assert chip.achievable("bf16") == 794.5e12
    assert chip.memory_bytes == 80 * 2**30
    assert chip.memory_bandwidth_bytes_per_s == 3350e9
    assert chip.scaleout_bandwidth_bytes_per_s_per_chip == 50e9
    assert chip.peak("fp4") is None


def test_a_chip_without_published_rates_has_none() -> None:
    chip = load_chip("mlu690")
    assert chip.peak("bf16") is None
    assert chip.memory_bytes is None


@pytest.mark.parametrize(
    ("reported", "name"),
    [("NVIDIA H200", "h200_sxm"), ("nvidia h100 80gb hbm3 ", "h100_sxm")],
)
def test_a_driver_s_name_finds_its_chip(reported: str, name: str) -> None:
    chip = match_chip(reported)
    assert chip is not None
    assert chip.name == name


def test_an_unknown_device_is_no_chip() -> None:
    assert match_chip("AMD EPYC 9654 96-Core Processor") is None


def test_no_two_chips_answer_to_one_name() -> None:
    names = [known for name in list_names("chip") for known in load_chip(name).match]
    assert len(names) == len(set(names))


def changed(data: Mapping[str, object], **keys: object) -> dict[str, object]:
    return {**data, **keys}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            changed(MODEL, num_layer=32),
            "model.num_layer: no such key. Did you mean 'num_layers'? Allowed are",
        ),
        (
            changed(MODEL, num_layers=0),
            "model.num_layers: 0 is not a whole number of at least 1. Set model.num_layers=1",
        ),
        (changed(MODEL, num_layers=32.5), "model.num_layers: 32.5 is not a whole number"),
        (changed(MODEL, num_layers=None), "model.num_layers: missing; it must be a whole number"),
        (changed(MODEL, num_kv_heads=12), "12 does not divide num_heads, which is 32"),
        (changed(MODEL, is_embedding_tied="no"), "'no' is not true or false"),
        (changed(MODEL, title=5), "model.title: 5 is not a text"),
        (
            changed(MODEL, experts={"num_experts": 8, "num_experts_per_token": 9, "expert_ffn": 1}),
            "model.experts.num_experts_per_token: 9 is more than the 8 experts",
        ),
        (changed(MODEL, experts=[8]), "model.experts: [8] is not a table of keys"),
    ],
)
def test_a_wrong_model_names_the_key_and_the_way_out(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        model_spec(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            changed(CHIP, memory_gib=-80),
            "chip.memory_gib: -80 is not a finite number greater than 0. Set chip.memory_gib=80",
        ),
        (changed(CHIP, memory_gib=math.nan), "chip.memory_gib: nan is not a finite number"),
        (changed(CHIP, memory_gib="80GB"), "chip.memory_gib: '80GB' is not a finite number"),
        (
            changed(CHIP, peak_tflops={"bf17": 989}),
            "chip.peak_tflops.bf17: no such key. Did you mean 'bf16'?",
        ),
        (
            changed(CHIP, achievable_tflops={"bf16": 1200}),
            "chip.achievable_tflops.bf16: 1200 is more than the peak, chip.peak_tflops.bf16, of",
        ),
        (changed(CHIP, peak_tflops=989), "chip.peak_tflops: 989 is not a table by data type"),
        (changed(CHIP, match="NVIDIA H100"), "is not a list of texts"),
    ],
)
def test_a_wrong_chip_names_the_key_and_the_way_out(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        chip_spec(data)


def with_tier(index: int, **keys: object) -> dict[str, object]:
    tiers = CLUSTER["tiers"]
    assert isinstance(tiers, list)
    found = [dict(tier) for tier in tiers]
    found[index].update(keys)
    return changed(CLUSTER, tiers=found)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_tier(0, gb_per_s_per_chip=0), "cluster.tiers[0].gb_per_s_per_chip: 0 is not"),
        (with_tier(0, gbit_per_s_per_chip=400), "cluster.tiers[0].gb_per_s_per_chip: it and"),
        (with_tier(0, efficiency=1.2), "cluster.tiers[0].efficiency: 1.2 is more than 1"),
        (with_tier(2, oversubscription=0.5), "0.5 is less than 1"),
        (
            with_tier(0, topology="fully_conected"),
            "'fully_conected' is not one of fat_tree, full_mesh, fully_connected, torus. "
            "Did you mean 'fully_connected'?",
        ),
        (with_tier(0, topology="torus"), "cluster.tiers[0].dims: missing; a torus needs"),
        (
            with_tier(0, topology="torus", dims=[2, 3]),
            "cluster.tiers[0].dims: 2 x 3 is 6, but chips is 8. Set cluster.tiers[0].chips=6",
        ),
        (with_tier(0, topology="torus", dims=8), "cluster.tiers[0].dims: 8 is not a list of whole"),
        (with_tier(0, topology="torus", dims=[8, 0]), "0 is not a whole number of at least 1"),
        (with_tier(1, dims=[8, 8]), "cluster.tiers[1].dims: a fat_tree has no axes"),
        (
            with_tier(1, algorithms=["rings"]),
            "cluster.tiers[1].algorithms: 'rings' is not one of ring, halving, tree, pat. "
            "Did you mean 'ring'?",
        ),
        (with_tier(1, algorithms=["tree"]), "a tree alone gives no reduce-scatter"),
        (
            with_tier(1, scattered_efficiency=85),
            "85 is not a finite number greater than 0 and at most 1",
        ),
        (with_tier(1, half_size_kb=-1), "cluster.tiers[1].half_size_kb: -1 is not a finite number"),
        (with_tier(1, chips=100), "cluster.tiers[1].chips: 100 is not a larger multiple of the 8"),
        (changed(CLUSTER, num_chips=200_000), "the last tier joins only 122880"),
        (changed(CLUSTER, reliability=None), "cluster.reliability: missing"),
        (changed(CLUSTER, tiers=[]), "cluster.tiers: [] is not a list of tables"),
        (changed(CLUSTER, tiers=[8]), "cluster.tiers[0]: 8 is not a table of keys"),
    ],
)
def test_a_wrong_cluster_names_the_key_and_the_way_out(
    data: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        cluster_spec(data)


def test_a_tier_says_how_its_switches_and_ports_are() -> None:
    tier = cluster_spec(
        with_tier(
            0,
            topology="torus",
            dims=[2, 4],
            algorithms=["ring"],
            in_network_efficiency=0.85,
            scattered_efficiency=0.75,
            half_size_kb=512,
            ports_per_chip=0.5,
        )
    ).tiers[0]
    assert tier.dims == (2, 4)
    assert tier.algorithms == ("ring",)
    assert tier.in_network_efficiency == 0.85
    assert tier.scattered_efficiency == 0.75
    assert tier.half_size_bytes == 512e3
    assert tier.ports_per_chip == 0.5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(PARALLEL, dtype="bf8"), "parallel.dtype: 'bf8' is not one of bf16, fp16, fp32"),
        (
            changed(PARALLEL, schedule="zb-h1"),
            "parallel.schedule: 'zb-h1' is not one of gpipe, 1f1b, interleaved, zb_h1, zb_h2, zbv, "
            "dualpipe, dualpipe_v. Did you mean 'zb_h1'?",
        ),
        (
            changed(PARALLEL, layers_per_stage=[8, 0]),
            "parallel.layers_per_stage[1]: 0 is not a whole number of at least 1",
        ),
        (changed(PARALLEL, tensor=0), "parallel.tensor: 0 is not a whole number of at least 1"),
        (
            changed(PARALLEL, zero_stage=4),
            "parallel.zero_stage: 4 is not a whole number of at least 0 and at most 3",
        ),
        (
            changed(PARALLEL, offload="optimizer"),
            "parallel.offload: 'optimizer' is not modelled: weights, gradients, optimizer states "
            "and activations stay in the memory of the chip",
        ),
        (
            changed(PARALLEL, expert_load=0.5),
            "parallel.expert_load: 0.5 is less than 1, but the busiest expert has at least the "
            "mean. Set parallel.expert_load=1.",
        ),
        (
            changed(PARALLEL, context_exchange="ulysses"),
            "parallel.context_exchange: 'ulysses' is not one of gather, ring, all_to_all",
        ),
        (changed(PARALLEL, recompute="some"), "'some' is not one of none, selective, full"),
        (changed(PARALLEL, tensr=8), "parallel.tensr: no such key. Did you mean 'tensor'?"),
        (
            changed(PARALLEL, global_batch_tokens=100),
            "100 is less than one sequence of 8192 tokens, which is parallel.sequence_length. Set",
        ),
    ],
)
def test_a_wrong_plan_names_the_key_and_the_way_out(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parallel_spec(data)


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"no model named 'lama3_8b'. Did you mean 'llama3_8b'"):
        load_model("lama3_8b")


def test_a_folder_of_the_user_comes_first(tmp_path: Path) -> None:
    folder = tmp_path / "chip"
    folder.mkdir()
    text = "name: h100_sxm\ntitle: Mine\nvendor: me\ntorch_device_type: cuda\nsource: here\n"
    (folder / "h100_sxm.yaml").write_text(text, encoding="utf-8")
    (folder / "new_chip.yaml").write_text(
        text.replace("h100_sxm", "new_chip") + "match: [New Chip 9000]\n", encoding="utf-8"
    )
    assert load_chip("h100_sxm", [tmp_path]).title == "Mine"
    assert "new_chip" in list_names("chip", [tmp_path])
    found = match_chip("New Chip 9000", [tmp_path])
    assert found is not None
    assert found.name == "new_chip"


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", ""])
def test_a_file_that_is_no_table_is_refused_by_its_path(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "chip"
    folder.mkdir()
    (folder / "bad.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bad\.yaml: "):
        load_chip("bad", [tmp_path])
