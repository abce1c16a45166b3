import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.specs import list_names, load_model
from harness.errors import PlanError
from harness.workload.model import ModelSpec
from harness.workload.step import (
    Direction,
    LayerKind,
    Phase,
    Shard,
    WorkItem,
    embedding_work,
    head_work,
    layer_parameters_per_chip,
    layer_work,
    merged,
    phase_problems,
    total_cost,
)
from kernels import registry
from kernels.op import Mode

MATRIX_OPS = ("gemm", "grouped_gemm", "attention")


def whole_step(model: ModelSpec, shard: Shard) -> tuple[WorkItem, ...]:
    """One microbatch through every layer on the chips of one shard group."""
    items: list[WorkItem] = []
    for kind, count in (
        (LayerKind.DENSE, model.num_dense_layers),
        (LayerKind.MOE, model.num_moe_layers),
    ):
        if count:
            items += list(layer_work(model, shard, kind)) * count
    return merged((*embedding_work(model, shard), *items, *head_work(model, shard)))


def matrix_flops(items: tuple[WorkItem, ...], direction: Direction) -> int:
    chosen = (i for i in items if i.problem.op in MATRIX_OPS and i.direction is direction)
    return total_cost(chosen, registry.cost).flops


@pytest.mark.parametrize("name", list_names("model"))
def test_forward_matrix_work_adds_up_to_the_flops_formula(name: str) -> None:
    model = load_model(name)
    items = whole_step(model, Shard(sequence_length=4096))
    expected = 4096 * model.forward_flops_per_token(4096)
    assert matrix_flops(items, Direction.FORWARD) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", list_names("model"))
def test_backward_has_twice_the_matrix_products_of_forward(name: str) -> None:
    items = whole_step(load_model(name), Shard(sequence_length=4096))
    gemms = tuple(item for item in items if item.problem.op in ("gemm", "grouped_gemm"))
    forward = matrix_flops(gemms, Direction.FORWARD)
    assert matrix_flops(gemms, Direction.BACKWARD) == 2 * forward


@pytest.mark.parametrize(
    ("name", "shard"),
    [
        ("llama3_70b", Shard(tensor=8, sequence_length=8192)),
        ("llama3_405b", Shard(tensor=8, context=16, sequence_length=131072)),
        ("llama3_405b", Shard(tensor=8, microbatch_size=2, sequence_length=8192)),
        ("qwen3_235b_a22b", Shard(tensor=4, expert=32, sequence_length=4096)),
        ("gpt3_175b", Shard(tensor=8, sequence_length=2048)),
    ],
)
def test_chips_of_a_shard_group_share_the_work_exactly(name: str, shard: Shard) -> None:
    model = load_model(name)
    items = whole_step(model, shard)
    tokens = shard.microbatch_size * shard.sequence_length
    expected = tokens * model.forward_flops_per_token(shard.sequence_length)
    group = shard.tensor * shard.context
    assert matrix_flops(items, Direction.FORWARD) * group == pytest.approx(expected, rel=1e-12)


def test_every_tensor_chip_keeps_one_key_value_head() -> None:
    shard = Shard(tensor=16, sequence_length=8192)
    items = layer_work(load_model("llama3_405b"), shard, LayerKind.DENSE)
    (core,) = (i for i in items if i.role == "attention core" and i.problem.mode is Mode.FORWARD)
    assert (core.problem["H"], core.problem["G"]) == (8, 1)


def test_decoding_latent_attention_keeps_the_cache_compressed() -> None:
    shard = Shard(tensor=8, expert=32, microbatch_size=64, sequence_length=4096)
    items = phase_problems(load_model("deepseek_v3"), shard, Phase.DECODE)
    (core,) = {i.problem for i in items if i.role == "attention core"}
    assert core.op == "mla_decode"
    assert core.shape == "B=64 S=4096 H=16 C=512 R=64 P=64"


def test_decoding_gives_one_token_to_each_sequence() -> None:
    shard = Shard(tensor=8, microbatch_size=32, sequence_length=8192)
    items = phase_problems(load_model("llama3_70b"), shard, Phase.DECODE)
    assert {i.problem["M"] for i in items if i.problem.op == "gemm"} == {32}


def test_few_tokens_reach_few_experts() -> None:
    # One token of DeepSeek-V3 reaches 8 experts and 32 tokens about 163: E (1 - (1 - K/E)^B).
    model = load_model("deepseek_v3")
    for batch, reached in ((1, 8), (32, 164)):
        shard = Shard(microbatch_size=batch, sequence_length=4096)
        items = phase_problems(model, shard, Phase.DECODE)
        (up,) = (i for i in items if i.role == "expert gate up")
        assert up.problem["E"] == reached


def test_balanced_experts_see_their_share_of_the_tokens() -> None:
    shard = Shard(expert=64, sequence_length=4096)
    items = layer_work(load_model("deepseek_v3"), shard, LayerKind.MOE)
    (up,) = (i for i in items if i.role == "expert gate up" and i.problem.mode is Mode.FORWARD)
    # 64 chips send 4096 tokens to 8 of 256 experts each; a chip has 4 of the experts.
    assert (up.problem["E"], up.problem["R"]) == (4, 4 * 64 * 4096 * 8 // 256)


def test_prefill_continues_only_the_last_token() -> None:
    shard = Shard(tensor=8, microbatch_size=4, sequence_length=2048)
    items = phase_problems(load_model("llama3_70b"), shard, Phase.PREFILL)
    (head,) = (i for i in items if i.role == "head")
    assert head.problem["M"] == 4


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("name", list_names("model"))
def test_problems_are_ones_that_the_ops_can_compute(name: str, phase: Phase) -> None:
    for item in phase_problems(load_model(name), Shard(sequence_length=1024), phase):
        op = registry.load(item.problem.op)
        assert tuple(axis for axis, _ in item.problem.axes) == op.axes
        assert item.problem.dtype in op.dtypes
        assert item.problem.mode in op.modes
        assert item.problem.variant in op.variants
        assert item.count >= 1
        assert all(size >= 1 for _, size in item.problem.axes)
        assert item.phase is phase


def test_a_phase_lists_each_piece_of_work_once() -> None:
    items = phase_problems(load_model("deepseek_v3"), Shard(tensor=8), Phase.TRAINING)
    keys = [(i.problem, i.role, i.direction) for i in items]
    assert len(keys) == len(set(keys))
    assert {i.role for i in items} >= {"optimizer", "loss", "head", "mlp down", "expert down"}


@given(st.sampled_from(list_names("model")), st.sampled_from([1, 2, 4, 8]))
def test_a_larger_tensor_group_gives_each_chip_no_more_weights(name: str, tensor: int) -> None:
    model = load_model(name)
    kind = LayerKind.MOE if model.experts else LayerKind.DENSE
    smaller = layer_parameters_per_chip(model, Shard(tensor=2 * tensor), kind)
    larger = layer_parameters_per_chip(model, Shard(tensor=tensor), kind)
    assert smaller[0] <= larger[0]


@pytest.mark.parametrize("name", list_names("model"))
def test_one_chip_holds_every_parameter_of_a_layer(name: str) -> None:
    model = load_model(name)
    for kind in LayerKind:
        if kind is LayerKind.MOE and model.experts is None:
            continue
        held = sum(layer_parameters_per_chip(model, Shard(), kind))
        assert held == model.layer_parameters(has_experts=kind is LayerKind.MOE)


def test_a_degree_that_does_not_divide_is_refused_with_one_that_does() -> None:
    message = (
        "shard.tensor: 6 does not divide the 128 query heads of llama3_405b. "
        "Set shard.tensor=4, or another divisor of 128."
    )
    with pytest.raises(PlanError, match=re.escape(message)):
        phase_problems(load_model("llama3_405b"), Shard(tensor=6), Phase.TRAINING)


def test_experts_of_a_dense_model_are_refused() -> None:
    with pytest.raises(PlanError, match=r"shard\.expert: 8 does not divide the 1 experts"):
        phase_problems(load_model("llama3_8b"), Shard(expert=8), Phase.TRAINING)


@pytest.mark.parametrize("name", ["llama3_8b", "deepseek_v3"])
def test_eight_bit_layers_have_as_many_flops_as_sixteen_bit_ones(name: str) -> None:
    model = load_model(name)
    kind = LayerKind.MOE if model.num_moe_layers else LayerKind.DENSE
    products = (*MATRIX_OPS, "scaled_gemm")
    shard = Shard(sequence_length=512)
    flops = [
        total_cost(
            [item for item in layer_work(model, one, kind) if item.problem.op in products],
            registry.cost,
        ).flops
        for one in (shard, replace(shard, linear_dtype="fp8"))
    ]
    assert flops[0] == flops[1]


def test_eight_bit_layers_quantize_what_goes_into_each_product() -> None:
    shard = Shard(sequence_length=512, linear_dtype="fp8")
    items = layer_work(load_model("llama3_8b"), shard, LayerKind.DENSE)
    problems = [item.problem for item in items for _ in range(item.count)]
    products = [one for one in problems if one.op == "scaled_gemm"]
    # Four weights, each with a product forward and two backward; no other product has weights.
    assert len(products) == 3 * 4
    assert not [one for one in problems if one.op == "gemm"]
    quantized = [one for one in problems if one.op == "quantize"]
    # Each forward input along its depth and along tokens, and each gradient along both of its axes.
    assert len(quantized) == 4 * 4
    inputs = {(one["T"], one["H"]) for one in quantized}
    assert all((one["M"], one["K"]) in inputs for one in products[:4])


@pytest.mark.parametrize("phase", [Phase.PREFILL, Phase.DECODE])
def test_serving_in_eight_bits_quantizes_what_goes_into_each_product(phase: Phase) -> None:
    shard = Shard(sequence_length=512, linear_dtype="fp8")
    items = layer_work(load_model("llama3_8b"), shard, LayerKind.DENSE, phase)
    problems = [item.problem for item in items]
    products = [one for one in problems if one.op == "scaled_gemm"]
    quantized = {(one["T"], one["H"]) for one in problems if one.op == "quantize"}
    assert len(products) == 4
    assert all((one["M"], one["K"]) in quantized for one in products)


def test_serving_in_eight_bits_reads_the_weights_of_every_expert_that_is_reached() -> None:
    shard = Shard(expert=32, microbatch_size=64, linear_dtype="fp8")
    items = layer_work(load_model("deepseek_v3"), shard, LayerKind.MOE, Phase.DECODE)
    grouped = [item.problem for item in items if item.problem.op == "grouped_gemm"]
    assert [one.dtype for one in grouped] == ["fp8", "fp8"]
    read = sum(registry.cost(one).bytes_read for one in grouped)
    assert read > 8 * 3 * 7168 * 2048  # 256 experts over 32 chips, of one byte a weight.
