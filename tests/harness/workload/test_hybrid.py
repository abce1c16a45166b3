"""Layers with a state space, experts of another width, and modules that predict further tokens."""

from dataclasses import replace

import pytest

from harness.config.specs import load_chip, load_model, model_spec
from harness.errors import ConfigError, PlanError
from harness.extrapolate.lookup import Lookup
from harness.workload.cost import FP4_BYTES, step_cost
from harness.workload.model import CausalCount, ModelSpec
from harness.workload.step import (
    Direction,
    LayerKind,
    Phase,
    Shard,
    check_shard,
    head_work,
    layer_parameters_per_chip,
    layer_work,
    prediction_parameters_per_chip,
    total_cost,
)
from kernels import registry
from kernels.op import Mode, problem

# What makers state only roughly: total parameters in billions, and of them those active on a token.
ROUGHLY = {
    "gemma4_26b_a4b": (25.2, 3.8),
    "gemma4_31b": (30.7, 30.7),
    "gemma2_9b": (9.24, 9.24),
    "gemma2_27b": (27.2, 27.2),
    "gemma3_12b": (11.8, 11.8),
    "gemma3_27b": (27.0, 27.0),
    "gpt3_5b": (5, 5),
    "gpt3_7b": (6.7, 6.7),
    "gpt3_40b": (39.1, 39.1),
    "gpt_oss_20b": (20.9, None),
    "gpt3_20b": (20, 20),
    "grok_1": (314, None),
    "llama4_maverick": (400, 17),
    "llama4_scout": (109, 17),
    "maxtext_16b": (16, 16),
    "maxtext_32b": (32, 32),
    "maxtext_64b": (64, 64),
    "maxtext_128b": (128, 128),
    "megatron_22b": (22, 22),
    "nemotron3_8b": (8.5, 8.5),
    "nemotron3_22b": (22, 22),
    "nemotron3_nano_30b_a3b": (31.6, 3.6),
    "nemotron3_super_120b_a12b": (120.6, 12.7),
    "nemotron4_15b": (15.7, 15.7),
    "nemotron4_340b": (341, 341),
    "qwen2_5_7b": (7.61, 7.61),
    "qwen2_5_32b": (32.5, 32.5),
    "qwen2_5_72b": (72.7, 72.7),
    "starcoder2_15b": (16, 16),
}
# Published TFLOP/s per chip over tokens per second per chip, in GFLOPs per token: what the source
# counted, all pairs of attention included. NVIDIA/NeMo and Megatron-Bridge performance summaries
# and dgxc-benchmarking; MaxText counts half the pairs.
FLOPS_PER_TOKEN = {
    "gpt3_5b": (2048, 32.68, CausalCount.FULL),
    "gpt3_20b": (2048, 128.18, CausalCount.FULL),
    "nemotron3_8b": (4096, 51.41, CausalCount.FULL),
    "nemotron3_22b": (4096, 130.33, CausalCount.FULL),
    "nemotron4_340b": (4096, 2104.3, CausalCount.FULL),
    "nemotron3_nano_30b_a3b": (8192, 22.29, CausalCount.FULL),
    "nemotron3_5_lightning": (8192, 28.15, CausalCount.FULL),
    "nemotron3_super_120b_a12b": (8192, 84.3, CausalCount.FULL),
    "gemma4_26b_a4b": (4096, 25.04, CausalCount.CAUSAL),
    "gemma4_31b": (8192, 196.9, CausalCount.CAUSAL),
}


@pytest.fixture
def nano() -> ModelSpec:
    return load_model("nemotron3_nano_30b_a3b")


@pytest.mark.parametrize("name", ROUGHLY)
def test_parameters_are_about_the_published_ones(name: str) -> None:
    total, active = ROUGHLY[name]
    model = load_model(name)
    assert model.num_parameters == pytest.approx(total * 1e9, rel=0.04)
    if active is not None:
        assert model.num_active_parameters == pytest.approx(active * 1e9, rel=0.04)


@pytest.mark.parametrize("name", FLOPS_PER_TOKEN)
def test_training_flops_are_those_that_the_source_divided_by(name: str) -> None:
    length, gflops, count = FLOPS_PER_TOKEN[name]
    found = load_model(name).model_flops_per_token(length, count)
    assert found == pytest.approx(gflops * 1e9, rel=0.045)


def test_a_hybrid_has_attention_in_its_dense_layers_alone(nano: ModelSpec) -> None:
    assert nano.num_attention_layers == nano.num_dense_layers == 6
    ops = {
        kind: {item.problem.op for item in layer_work(nano, Shard(), kind)} for kind in LayerKind
    }
    assert "attention" in ops[LayerKind.DENSE]
    assert "attention" not in ops[LayerKind.MOE]
    assert "grouped_gemm" in ops[LayerKind.MOE]


def test_the_scan_grows_with_the_tokens_and_attention_with_their_square(nano: ModelSpec) -> None:
    def forward(kind: LayerKind, length: int) -> float:
        items = layer_work(nano, Shard(sequence_length=length), kind)
        chosen = [i for i in items if i.direction is Direction.FORWARD]
        return total_cost(chosen, registry.cost).flops

    assert forward(LayerKind.MOE, 8192) == pytest.approx(2 * forward(LayerKind.MOE, 4096), rel=1e-3)
    assert forward(LayerKind.DENSE, 65536) > 2.5 * forward(LayerKind.DENSE, 32768)


def test_a_tensor_group_shares_the_scan(nano: ModelSpec) -> None:
    def scan(tensor: int) -> int:
        items = layer_work(nano, Shard(tensor=tensor), LayerKind.MOE, Phase.PREFILL)
        (found,) = (i for i in items if i.role.startswith("state space scan"))
        return registry.cost(found.problem).flops

    assert scan(1) == 4 * scan(4)


def test_a_tensor_group_that_cuts_a_state_space_head_is_refused(nano: ModelSpec) -> None:
    space = nano.state_space
    assert space is not None
    odd = replace(nano, state_space=replace(space, num_heads=6))
    with pytest.raises(PlanError, match="4 does not divide the 6 state space heads"):
        check_shard(odd, Shard(tensor=4))


def test_experts_of_another_width_are_sent_narrower_tokens() -> None:
    model = load_model("nemotron3_super_120b_a12b")
    items = layer_work(model, Shard(), LayerKind.MOE)
    (sent,) = (i for i in items if i.role == "expert dispatch" and i.problem.mode is Mode.FORWARD)
    assert sent.problem["H"] == 1024
    (down,) = (
        i for i in items if i.role == "expert latent down" and i.problem.mode is Mode.FORWARD
    )
    assert (down.problem["N"], down.problem["K"]) == (1024, model.hidden)


def test_a_prediction_module_is_a_projection_a_layer_and_the_head_again() -> None:
    plain = load_model("deepseek_v3")
    model = replace(plain, num_prediction_modules=1)
    more = model.forward_flops_per_token(4096) - plain.forward_flops_per_token(4096)
    layer = 2 * (plain.attention_matrix_parameters + plain.active_expert_parameters)
    layer += plain.attention_flops_per_token(4096)
    assert more == pytest.approx(layer + 2 * 2 * plain.hidden**2 + 2 * plain.vocab * plain.hidden)
    # 11.5 B of the module's own weights (arXiv 2412.19437, README of DeepSeek-V3: 14 B with the
    # output head and the table that it shares).
    assert model.prediction_parameters == pytest.approx(11.5e9, rel=0.02)
    assert model.num_parameters == plain.num_parameters


def test_a_module_called_again_works_twice_and_is_held_once() -> None:
    shared = load_model("nemotron3_5_lightning")
    one = replace(shared, num_prediction_modules=1)
    assert prediction_parameters_per_chip(shared, Shard()) == prediction_parameters_per_chip(
        one, Shard()
    )
    heads = [i for i in head_work(shared, Shard()) if i.role == "head"]
    assert sum(i.count for i in heads if i.problem.mode is Mode.FORWARD) == 3


def test_further_tokens_are_predicted_in_training_alone() -> None:
    model = load_model("nemotron3_5_lightning")
    roles = {i.role for i in head_work(model, Shard(), Phase.DECODE)}
    assert not any(role.startswith("prediction") for role in roles)


def test_a_layer_of_attention_alone_holds_no_network(nano: ModelSpec) -> None:
    held = sum(layer_parameters_per_chip(nano, Shard(), LayerKind.DENSE))
    assert held == nano.attention_matrix_parameters + nano.hidden


def test_products_in_four_bits_take_the_chips_rate_and_move_fewer_bytes() -> None:
    sizes = {"M": 8192, "N": 8192, "K": 8192}
    four = problem("scaled_gemm", "fp4", Mode.FORWARD, "row", **sizes)
    eight = problem("scaled_gemm", "fp8", Mode.FORWARD, "row", **sizes)
    assert step_cost(four).flops == step_cost(eight).flops
    assert step_cost(four).bytes_read == round(2 * 8192**2 * FP4_BYTES)
    lookup = Lookup(load_chip("gb300"), step_cost)
    assert lookup.time(four).seconds < lookup.time(eight).seconds


def test_a_step_in_four_bits_has_the_products_of_one_in_eight() -> None:
    model = load_model("llama3_8b")
    four, eight = (
        layer_work(model, Shard(linear_dtype=dtype), LayerKind.DENSE) for dtype in ("fp4", "fp8")
    )
    assert [i.problem.axes for i in four] == [i.problem.axes for i in eight]


def test_routing_has_a_time_on_a_chip_without_a_rate_of_its_type() -> None:
    lookup = Lookup(load_chip("tpu_v7x"), step_cost)
    routed = problem("moe_route", "fp32", Mode.FORWARD, "sigmoid_groups", T=4096, E=256, K=8)
    assert 0 < lookup.time(routed).seconds < 1e-3


def test_a_state_space_without_experts_is_refused() -> None:
    data = {
        "name": "m",
        "title": "M",
        "num_layers": 2,
        "hidden": 64,
        "num_heads": 4,
        "num_kv_heads": 4,
        "head_dim": 16,
        "ffn": 128,
        "vocab": 512,
        "source": "a test",
        "state_space": {"num_heads": 4, "head_dim": 16, "state": 16, "num_groups": 1},
    }
    with pytest.raises(ConfigError, match=r"model.state_space: only layers with experts"):
        model_spec(data)
