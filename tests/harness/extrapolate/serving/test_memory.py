import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.serving_spec import load_serving
from harness.config.specs import list_names, load_chip, load_model
from harness.extrapolate.serving.memory import (
    cache_bytes_per_token,
    cache_room,
    cached_tokens,
    stages,
    weight_bytes,
)
from harness.serving_projection import ReplicaPlan

CHAT = load_serving("chat")


@pytest.mark.parametrize(
    ("model", "num_bytes"),
    [("llama3_405b", 516_000), ("deepseek_v3", 70_300), ("llama3_70b", 327_680)],
)
def test_the_cache_of_a_token_is_the_published_one(model: str, num_bytes: float) -> None:
    assert cache_bytes_per_token(load_model(model), "bf16") == pytest.approx(num_bytes, rel=2e-3)


@pytest.mark.parametrize("model", list_names("model"))
def test_one_chip_holds_all_weights_in_their_type(model: str) -> None:
    spec = load_model(model)
    (stage,) = stages(spec, 1)
    held = weight_bytes(spec, ReplicaPlan(), stage, CHAT)
    assert held == pytest.approx(2 * spec.num_parameters, rel=1e-3)


@given(st.sampled_from(list_names("model")), st.sampled_from([1, 2, 3, 4, 8, 16]))
def test_the_stages_of_a_pipeline_have_every_layer_once(model: str, pipeline: int) -> None:
    spec = load_model(model)
    found = stages(spec, pipeline)
    assert sum(stage.num_dense for stage in found) == spec.num_dense_layers
    assert sum(stage.num_moe for stage in found) == spec.num_moe_layers
    assert [stage.is_first for stage in found] == [True] + [False] * (pipeline - 1)
    assert [stage.is_last for stage in found] == [False] * (pipeline - 1) + [True]


def test_latent_attention_gains_no_cache_from_tensor_parallelism() -> None:
    model, memory = load_model("deepseek_v3"), 141e9
    rooms = [
        cache_room(model, ReplicaPlan(tensor=tensor, expert=32), CHAT, memory, 1)
        for tensor in (1, 8)
    ]
    assert rooms[0].stages[0].bytes_per_token == rooms[1].stages[0].bytes_per_token
    dense = load_model("llama3_70b")
    dense_rooms = [
        cache_room(dense, ReplicaPlan(tensor=tensor), CHAT, memory, 1) for tensor in (1, 8)
    ]
    whole, cut = (room.stages[0].bytes_per_token for room in dense_rooms)
    assert whole == pytest.approx(8 * cut)


@given(st.integers(1, 4000))
def test_the_cache_is_full_neither_before_the_mean_nor_after_the_longest(sequences: int) -> None:
    kept = float(cached_tokens(CHAT, np.array(float(sequences))))
    assert kept >= sequences * (CHAT.input_tokens + CHAT.output_tokens / 2)
    assert kept <= sequences * (CHAT.input_tokens + CHAT.output_tokens)


def test_parts_of_the_memory_fill_what_the_model_may_have() -> None:
    chip = load_chip("h100_sxm")
    assert chip.memory_bytes is not None
    room = cache_room(
        load_model("llama3_8b"), ReplicaPlan(), CHAT, chip.memory_bytes, 4096, num_logits=64
    )
    assert room.capacity_tokens > 100_000
    assert sum(size for _, size in room.parts) == pytest.approx(0.9 * chip.memory_bytes)


def test_a_state_takes_as_much_of_a_long_sequence_as_of_a_short_one() -> None:
    model = load_model("nemotron3_nano_30b_a3b")
    space = model.state_space
    assert space is not None
    (stage,) = cache_room(model, ReplicaPlan(), CHAT, 80e9, 1).stages
    least = 2 * space.width * space.state * model.num_moe_layers
    assert least < stage.bytes_per_sequence < 1.2 * least
    keys = 2 * 2 * model.num_kv_heads * model.head_dim * model.num_dense_layers
    assert stage.bytes_per_token == pytest.approx(keys / 0.96)
