"""A step of a whole model on one chip: what a suite measures, as often as the model has it."""

import pytest

from harness.config.specs import load_model
from harness.errors import PlanError
from harness.workload.step import Phase, Shard, phase_problems
from harness.workload.whole_step import phase_work

SHARD = Shard(tensor=8, sequence_length=512)


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("name", ["llama3_8b", "mixtral_8x7b", "deepseek_v2_lite"])
def test_its_problems_are_those_that_a_suite_measures(name: str, phase: Phase) -> None:
    model = load_model(name)
    shard = Shard(tensor=4, sequence_length=512)
    work = phase_work(model, shard, phase)
    wanted = {item.problem for item in phase_problems(model, shard, phase)}
    assert {item.problem for item in work.items} == wanted


def test_layers_count_as_often_as_the_model_has_them_and_its_ends_once() -> None:
    work = phase_work(load_model("llama3_8b"), SHARD, Phase.TRAINING)
    counts = {(item.role, item.direction): item.count for item in work.items}
    assert {count for (role, _), count in counts.items() if role == "attention core"} == {32}
    assert {count for (role, _), count in counts.items() if role in ("embedding", "loss")} == {1}
    assert [count for (role, _), count in counts.items() if role == "optimizer"] == [32]


def test_layers_of_two_kinds_count_each_by_itself() -> None:
    model = load_model("deepseek_v2_lite")
    work = phase_work(model, Shard(sequence_length=512), Phase.PREFILL)
    counts = {item.role: item.count for item in work.items}
    assert counts["mlp down"] == model.num_dense_layers == 1
    assert counts["router"] == model.num_moe_layers == 26


def test_its_title_says_what_it_is() -> None:
    model = load_model("llama3_8b")
    one = phase_work(model, Shard(sequence_length=2048), Phase.PREFILL)
    many = phase_work(
        model, Shard(tensor=8, microbatch_size=64, sequence_length=4096), Phase.DECODE
    )
    assert one.title == "prefill of llama3_8b, 1 sequence of 2,048 tokens"
    assert many.title == "decode step of llama3_8b, one chip of 8, 64 sequences of 4,096 tokens"


def test_a_shard_that_does_not_divide_the_model_is_refused() -> None:
    with pytest.raises(PlanError, match="does not divide"):
        phase_work(load_model("llama3_8b"), Shard(tensor=7), Phase.DECODE)
