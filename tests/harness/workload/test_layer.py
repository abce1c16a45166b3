import importlib
from collections.abc import Callable, Iterable

import pytest

from harness.config.specs import list_names, load_model
from harness.errors import PlanError
from harness.workload.layer import layer_problem, layer_problems
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

MEASURED = ("gpt3_175b", "llama3_405b", "llama3_70b", "llama3_8b", "qwen3_32b")
"""Models whose layers are an op."""

SHARDS = (
    Shard(sequence_length=2048, microbatch_size=2),
    Shard(tensor=8, sequence_length=2048, microbatch_size=2),
)


def parts(problem: Problem) -> tuple[Problem, ...]:
    block = importlib.import_module(f"kernels.{problem.op}").BLOCK
    found: tuple[Problem, ...] = block.parts(problem)
    return found


def flops(problems: Iterable[Problem], is_counted: Callable[[Problem], bool]) -> int:
    return sum(registry.cost(one).flops for one in problems if is_counted(one))


def is_matrix(problem: Problem) -> bool:
    return problem.op in ("gemm", "attention", "paged_decode")


def work(model: ModelSpec, shard: Shard, phase: Phase) -> list[Problem]:
    items = list(layer_work(model, shard, LayerKind.DENSE, phase))
    if phase is Phase.TRAINING:
        parameters = sum(layer_parameters_per_chip(model, shard, LayerKind.DENSE))
        items += optimizer_work(parameters, shard.dtype)
    return [item.problem for item in items for _ in range(item.count)]


@pytest.mark.parametrize("shard", SHARDS, ids=("whole", "shard"))
@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("name", MEASURED)
def test_a_layer_has_the_matrix_flops_of_its_ops(name: str, phase: Phase, shard: Shard) -> None:
    model = load_model(name)
    whole = layer_problem(model, shard, LayerKind.DENSE, phase)
    expected = flops(work(model, shard, phase), is_matrix)
    assert flops(parts(whole), is_matrix) == expected
    # The rest: norms and sums, which the list of ops cuts along the sequence and calls copies, and
    # layer norms, which it calls RMS norms.
    assert registry.cost(whole).flops == pytest.approx(
        expected, rel=0.01 if shard.tensor == 1 else 0.03
    )


@pytest.mark.parametrize("name", MEASURED)
def test_a_layer_updates_the_weights_of_one_chip(name: str) -> None:
    model = load_model(name)
    (update,) = (
        part
        for part in parts(layer_problem(model, SHARDS[0], LayerKind.DENSE, Phase.TRAINING))
        if part.op == "adamw"
    )
    assert update["N"] == model.layer_parameters(has_experts=False)


def test_sizes_are_those_of_the_shard() -> None:
    shard = Shard(tensor=8, microbatch_size=64, sequence_length=4096)
    (decode,) = layer_problems(load_model("llama3_70b"), shard, Phase.DECODE)
    assert decode.id == ("dense_layer.bf16.decode.gated[B=64,S=4096,H=8192,A=8,G=1,D=128,F=3584]")
    assert (
        layer_problems(load_model("qwen3_32b"), shard, Phase.DECODE)[0].variant == "gated_qk_norm"
    )
    assert layer_problems(load_model("gpt3_175b"), shard, Phase.DECODE)[0].variant == "plain"


@pytest.mark.parametrize("name", sorted(set(list_names("model")) - set(MEASURED)))
def test_a_layer_that_no_op_is_is_refused(name: str) -> None:
    with pytest.raises(PlanError, match=rf"model: {name} has .* layers with .* attention"):
        layer_problems(load_model(name), Shard(), Phase.TRAINING)


def test_part_of_a_sequence_is_refused() -> None:
    with pytest.raises(PlanError, match=r"Set shard\.context=1"):
        layer_problems(load_model("llama3_8b"), Shard(context=2), Phase.TRAINING)


def test_part_of_a_model_that_does_not_divide_is_refused() -> None:
    with pytest.raises(PlanError, match="7 does not divide the 32 query heads"):
        layer_problems(load_model("llama3_8b"), Shard(tensor=7), Phase.TRAINING)
