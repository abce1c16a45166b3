import importlib
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from harness.config.specs import list_names, load_model
from harness.errors import PlanError
from harness.workload.layer import layer_kinds, layer_problem, layer_problems
from harness.workload.model import ModelSpec
from harness.workload.step import (
    LayerKind,
    Phase,
    Shard,
    layer_parameters_per_chip,
    layer_work,
    optimizer_work,
)
from kernels import registry
from kernels.op import Problem

WITHOUT_A_LAYER = (
    "deepseek_v2-moe",
    "gemma4_26b_a4b-moe",
    "gpt_oss_120b-moe",
    "gpt_oss_20b-moe",
    "deepseek_v2_lite-moe",
    "deepseek_v2_lite-dense",
    "grok_1-moe",
    "llama4_maverick-moe",
    "llama4_scout-moe",
    "mixtral_8x22b-moe",
    "mixtral_8x7b-moe",
    "nemotron3_22b-dense",
    "nemotron3_5_lightning-dense",
    "nemotron3_5_lightning-moe",
    "nemotron3_8b-dense",
    "nemotron3_nano_30b_a3b-dense",
    "nemotron3_nano_30b_a3b-moe",
    "nemotron3_super_120b_a12b-dense",
    "nemotron3_super_120b_a12b-moe",
    "nemotron4_15b-dense",
    "nemotron4_340b-dense",
    "starcoder2_15b-dense",
)
"""Kinds that no op is a whole layer of; they are measured by their ops alone."""
LAYERS = [
    pytest.param(name, kind, id=f"{name}-{kind}")
    for name in list_names("model")
    for kind in layer_kinds(load_model(name))
    if f"{name}-{kind}" not in WITHOUT_A_LAYER
]
"""Every kind of layer of every model, but for those."""

CUT_ALONG_THE_SEQUENCE = ("router", "query down", "key-value down")
"""Products that a chip of a tensor group makes of its own tokens, and a layer of all."""

SHARDS = (
    Shard(sequence_length=2048, microbatch_size=2),
    Shard(tensor=8, sequence_length=2048, microbatch_size=8),
)


def parts(problem: Problem) -> tuple[Problem, ...]:
    block = importlib.import_module(f"kernels.{problem.op}").BLOCK
    found: tuple[Problem, ...] = block.parts(problem)
    return found


def flops(problems: Iterable[Problem], is_counted: Callable[[Problem], bool]) -> int:
    return sum(registry.cost(one).flops for one in problems if is_counted(one))


def is_matrix(problem: Problem) -> bool:
    return problem.op in ("gemm", "grouped_gemm", "attention", "paged_decode", "mla_decode")


def work(model: ModelSpec, shard: Shard, kind: LayerKind, phase: Phase) -> list[Problem]:
    items = list(layer_work(model, shard, kind, phase))
    if phase is Phase.TRAINING:
        parameters = sum(layer_parameters_per_chip(model, shard, kind))
        items += optimizer_work(parameters, shard.dtype)
    return [
        item.problem
        for item in items
        for _ in range(item.count * (shard.tensor if item.role in CUT_ALONG_THE_SEQUENCE else 1))
    ]


@pytest.mark.parametrize("shard", SHARDS, ids=("whole", "shard"))
@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize(("name", "kind"), LAYERS)
def test_a_layer_has_the_matrix_flops_of_its_ops(
    name: str, kind: LayerKind, phase: Phase, shard: Shard
) -> None:
    model = load_model(name)
    if model.num_heads % shard.tensor:
        pytest.skip("the shard does not divide its heads")
    whole = layer_problem(model, shard, kind, phase)
    expected = flops(work(model, shard, kind, phase), is_matrix)
    assert flops(parts(whole), is_matrix) == expected
    # The rest: norms and sums, which the list of ops cuts along the sequence and calls copies, and
    # layer norms, which it calls RMS norms; and the update, 1 % where a layer has 256 experts.
    assert registry.cost(whole).flops == pytest.approx(
        expected, rel=0.02 if shard.tensor == 1 else 0.03
    )


@pytest.mark.parametrize(("name", "kind"), LAYERS)
def test_a_layer_updates_the_weights_of_one_chip(name: str, kind: LayerKind) -> None:
    model = load_model(name)
    (update,) = (
        part
        for part in parts(layer_problem(model, SHARDS[0], kind, Phase.TRAINING))
        if part.op == "adamw"
    )
    assert update["N"] == model.layer_parameters(has_experts=kind is LayerKind.MOE)


def test_sizes_are_those_of_the_shard() -> None:
    shard = Shard(tensor=8, microbatch_size=64, sequence_length=4096)
    (decode,) = layer_problems(load_model("llama3_70b"), shard, Phase.DECODE)
    assert decode.id == ("dense_layer.bf16.decode.gated[B=64,S=4096,H=8192,A=8,G=1,D=128,F=3584]")
    assert (
        layer_problems(load_model("qwen3_32b"), shard, Phase.DECODE)[0].variant == "gated_qk_norm"
    )
    assert layer_problems(load_model("gpt3_175b"), shard, Phase.DECODE)[0].variant == "plain"


def test_sizes_of_experts_and_of_latent_attention_are_those_of_the_shard() -> None:
    shard = Shard(tensor=8, expert=4, microbatch_size=64, sequence_length=4096)
    (experts,) = layer_problems(load_model("qwen3_235b_a22b"), shard, Phase.DECODE)
    assert experts.id == ("moe_layer.bf16.decode[B=64,S=4096,H=4096,A=8,G=1,D=128,E=32,K=8,F=192]")
    dense, latent = layer_problems(load_model("deepseek_v3"), shard, Phase.TRAINING)
    attention = "B=64,S=4096,H=7168,A=16,Q=1536,C=512,N=128,R=64,V=128"
    assert dense.id == f"latent_layer.bf16.training[{attention},F=2304]"
    assert latent.id == f"latent_moe_layer.bf16.training[{attention},E=64,K=8,F=256,W=256]"


def test_a_chip_with_fewer_experts_than_a_token_has_is_refused() -> None:
    with pytest.raises(PlanError, match=r"Set shard\.expert to at most 16"):
        layer_problems(load_model("qwen3_235b_a22b"), Shard(expert=32), Phase.TRAINING)


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("llama3_8b", {"has_bias": True}, "a gated network, biases;"),
        ("deepseek_v3", {"has_qk_norm": True}, "latent attention, norms of heads;"),
    ],
)
def test_a_layer_that_no_op_is_is_refused(name: str, changes: dict[str, bool], told: str) -> None:
    model = replace(load_model(name), **changes)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=f"no op is a layer of {name}, with .*{told}"):
        layer_problems(model, Shard(), Phase.TRAINING)


def test_part_of_a_sequence_is_refused() -> None:
    with pytest.raises(PlanError, match=r"Set shard\.context=1"):
        layer_problems(load_model("llama3_8b"), Shard(context=2), Phase.TRAINING)


def test_part_of_a_model_that_does_not_divide_is_refused() -> None:
    with pytest.raises(PlanError, match="7 does not divide the 32 query heads"):
        layer_problems(load_model("llama3_8b"), Shard(tensor=7), Phase.TRAINING)
