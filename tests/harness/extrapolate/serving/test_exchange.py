from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.serving_spec import load_serving
from harness.config.specs import load_cluster, load_model
from harness.extrapolate.serving.exchange import (
    cache_transfer_s,
    expert_exchange,
    nodes_reached,
    one_way_s,
    tensor_exchange,
)
from harness.serving_projection import ReplicaPlan
from harness.workload.step import LayerKind

MODEL = load_model("deepseek_v3")
CLUSTER = load_cluster("h100_100k")
CHAT = load_serving("chat")


@pytest.mark.parametrize(
    ("chips", "dispatch_us", "combine_us"),
    [(16, 118, 195), (32, 155, 273), (64, 173, 314), (128, 192, 369)],
)
def test_tokens_reach_their_experts_as_fast_as_deepep_sends_them(
    chips: int, dispatch_us: float, combine_us: float
) -> None:
    """deepseek-ai/DeepEP docs/legacy.md: 128 tokens of 7,168, 8 experts each, ports of 50 GB/s."""
    there = one_way_s(MODEL, CLUSTER, chips, 128, 7168 * (1 + 4 / 128))
    back = one_way_s(MODEL, CLUSTER, chips, 128, 7168 * 2)
    assert there * 1e6 == pytest.approx(dispatch_us, rel=0.2)
    assert back * 1e6 == pytest.approx(combine_us, rel=0.1)


@given(st.integers(1, 500))
def test_nodes_of_a_token_are_at_most_those_that_there_are_and_its_experts(nodes: int) -> None:
    free, limited = (nodes_reached(nodes, 8, is_limited) for is_limited in (False, True))
    assert 1 - 1e-9 <= free <= min(nodes, 8) + 1e-9
    assert limited == min(free, 4)


def test_many_tokens_are_handed_on_inside_nodes() -> None:
    # Eight copies through the ports would take twice as long as four.
    straight = 8 * 4096 * 7168 * (1 - 8 / 64) / 46e9
    assert one_way_s(MODEL, CLUSTER, 64, 4096, 7168.0) < 0.7 * straight


def test_one_chip_sends_nothing() -> None:
    plan = ReplicaPlan()
    assert tensor_exchange(MODEL, CLUSTER, plan, CHAT, LayerKind.DENSE, 64).total == 0
    assert expert_exchange(MODEL, CLUSTER, plan, CHAT, 64).total == 0


def test_tokens_of_eight_bits_take_less_to_send() -> None:
    plan = ReplicaPlan(expert=64)
    narrow = expert_exchange(MODEL, CLUSTER, plan, CHAT, 4096)
    wide = expert_exchange(MODEL, CLUSTER, plan, replace(CHAT, dispatch_dtype="bf16"), 4096)
    assert narrow.bandwidth == pytest.approx(wide.bandwidth * 3.03 / 4, rel=0.02)


def test_the_cache_of_a_prompt_is_sent_at_the_rate_of_the_ports_that_hold_it() -> None:
    llama = load_model("llama3_70b")
    one = cache_transfer_s(llama, CLUSTER, ReplicaPlan(tensor=8), CHAT)
    assert one == pytest.approx(4096 * 327_680 / 8 / 46e9, rel=0.05)
