from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cases import CLOSURE_ROLE, Case
from harness.closure import FASTEST, Closure, Closures, Part, closures_of, headlines
from harness.codec import from_json, to_json
from harness.config.specs import list_names, load_model
from harness.errors import PlanError
from harness.record import Record, Status
from harness.workload.layer import is_layer, layer_kinds, layer_problem, work_of_layer
from harness.workload.step import (
    LayerKind,
    Phase,
    Shard,
    layer_parameters_per_chip,
    layer_work,
    merged,
    optimizer_work,
)
from kernels import registry
from kernels.op import Mode, Problem, problem
from tests.harness.sample_run import ok_record

LAYER = problem(
    "dense_layer", "bf16", Mode.TRAINING, "gated", B=1, S=64, H=128, A=4, G=2, D=32, F=256
)
FORWARD = replace(LAYER, mode=Mode.PREFILL)


def is_one_op(name: str, kind: LayerKind) -> bool:
    """Whether an op is a whole layer of that kind; `tests/harness/workload` lists those without."""
    try:
        layer_problem(load_model(name), Shard(), kind, Phase.TRAINING)
    except PlanError:
        return False
    return True


LAYERS = [
    pytest.param(name, kind, id=f"{name}-{kind}")
    for name in list_names("model")
    for kind in layer_kinds(load_model(name))
    if is_one_op(name, kind)
]


def timed(
    one: Problem, seconds: float, impl: str = "torch", cache: str = "cold", spread: float = 0.0
) -> Record:
    """A record whose median is so long, with an interval of about `spread` on both sides."""
    record = ok_record(Case(problem=one, impl=impl, roles=(CLOSURE_ROLE,), cache=cache))
    assert record.measurement is not None
    steps = range(-20, 21)
    samples = tuple(seconds * (1 + spread * step / 5) for step in steps)
    return replace(record, measurement=replace(record.measurement, samples_s=samples, cache=cache))


def ops_of(
    layer: Problem,
    seconds: Callable[[Problem], float] = lambda one: 1e-3,
    impl: str = "torch",
    cache: str = "cold",
    spread: float = 0.0,
) -> list[Record]:
    distinct = dict.fromkeys(item.problem for item in work_of_layer(layer))
    return [timed(one, seconds(one), impl, cache, spread) for one in distinct]


def num_ops(layer: Problem) -> int:
    return sum(item.count for item in work_of_layer(layer))


def the(closures: tuple[Closure, ...], part: Part, impl: str, cache: str = "cold") -> Closure:
    (found,) = (
        one for one in closures if (one.part, one.implementation, one.cache) == (part, impl, cache)
    )
    return found


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize(("name", "kind"), LAYERS)
def test_the_ops_of_a_layer_are_those_that_a_projection_sums(
    name: str, kind: LayerKind, phase: Phase
) -> None:
    model, shard = load_model(name), Shard(microbatch_size=2, sequence_length=512)
    projected = list(layer_work(model, shard, kind, phase))
    if phase is Phase.TRAINING:
        num_weights = sum(layer_parameters_per_chip(model, shard, kind))
        projected += optimizer_work(num_weights, shard.dtype)
    layer = layer_problem(model, shard, kind, phase)
    assert work_of_layer(layer) == merged(projected)


def test_every_op_that_is_a_layer_has_its_ops() -> None:
    blocks = {name for name in registry.names() if registry.outline(name).is_block}
    assert blocks == {name for name in registry.names() if is_layer(Problem(name, (), "bf16"))}


def test_a_shared_expert_that_is_no_whole_number_of_experts_is_refused() -> None:
    layer = layer_problem(load_model("deepseek_v3"), Shard(), LayerKind.MOE, Phase.TRAINING)
    odd = replace(layer, axes=tuple((k, 3000 if k == "W" else size) for k, size in layer.axes))
    with pytest.raises(PlanError, match="Set W=2048"):
        work_of_layer(odd)
    # A record of it is no reason for a report to fail.
    assert closures_of([timed(odd, 1.0)]) == ()


def test_an_op_counts_as_often_as_the_layer_has_it() -> None:
    closures = closures_of([timed(LAYER, 0.030), *ops_of(LAYER)])
    closed = the(closures, Part.TRAINING, FASTEST)
    assert closed.sum_s is not None
    assert closed.error is not None
    assert closed.sum_s.value == pytest.approx(1e-3 * num_ops(LAYER))
    assert closed.error.value == pytest.approx(closed.sum_s.value / 0.030 - 1)
    assert closed.missing == ()


def test_an_op_without_a_time_leaves_no_sum_and_is_named() -> None:
    records = ops_of(LAYER)
    lacking = records[3]
    records[3] = replace(lacking, status=Status.ERROR, measurement=None)
    closed = the(closures_of([timed(LAYER, 0.03), *records]), Part.TRAINING, FASTEST)
    assert closed.sum_s is None
    assert closed.error is None
    assert closed.missing == (lacking.case.problem.id,)


def test_a_layer_without_any_op_measured_is_held_against_nothing() -> None:
    gemm = problem("gemm", "bf16", M=1, N=2, K=3)
    assert closures_of([timed(LAYER, 0.03), timed(gemm, 1e-3)]) == ()


def test_an_implementation_is_held_against_itself_and_the_fastest_against_the_fastest() -> None:
    def fast_where_even(one: Problem) -> float:
        return 1e-3 if len(one.id) % 2 else 3e-3

    records = [
        timed(LAYER, 0.05, "torch"),
        timed(LAYER, 0.04, "compile"),
        *ops_of(LAYER, lambda one: 2e-3, "torch"),
        *ops_of(LAYER, fast_where_even, "compile"),
    ]
    closures = closures_of(records)
    compiled = the(closures, Part.TRAINING, "compile")
    fastest = the(closures, Part.TRAINING, FASTEST)
    eager = the(closures, Part.TRAINING, "torch")
    assert compiled.layer_s.value == fastest.layer_s.value == pytest.approx(0.04)
    assert eager.layer_s.value == pytest.approx(0.05)
    assert eager.sum_s is not None
    assert compiled.sum_s is not None
    assert fastest.sum_s is not None
    assert eager.sum_s.value == pytest.approx(2e-3 * num_ops(LAYER))
    assert fastest.sum_s.value < min(eager.sum_s.value, compiled.sum_s.value)


def test_hot_ops_are_summed_apart_and_the_headline_is_of_cold_ones() -> None:
    records = [
        timed(LAYER, 0.03),
        *ops_of(LAYER, lambda one: 2e-3),
        *ops_of(LAYER, cache="hot"),
    ]
    closures = closures_of(records)
    cold = the(closures, Part.TRAINING, FASTEST, "cold").sum_s
    hot = the(closures, Part.TRAINING, FASTEST, "hot").sum_s
    assert cold is not None
    assert hot is not None
    assert cold.value == pytest.approx(2 * hot.value)
    assert headlines(closures) == (the(closures, Part.TRAINING, FASTEST, "cold"),)


def test_backward_is_what_training_takes_longer_than_forward() -> None:
    records = [timed(LAYER, 0.030), timed(FORWARD, 0.010), *ops_of(LAYER), *ops_of(FORWARD)]
    closures = closures_of(records)
    backward = the(closures, Part.BACKWARD, FASTEST)
    training = the(closures, Part.TRAINING, FASTEST)
    assert backward.layer_s.value == pytest.approx(0.020)
    assert {op.direction for op in backward.ops} == {"backward", "update"}
    assert backward.sum_s is not None
    assert training.sum_s is not None
    assert backward.sum_s.value < training.sum_s.value


def test_no_backward_is_told_where_forward_took_longer() -> None:
    records = [timed(LAYER, 0.010), timed(FORWARD, 0.011), *ops_of(LAYER), *ops_of(FORWARD)]
    assert Part.BACKWARD not in {one.part for one in closures_of(records)}


@given(
    scale=st.floats(1e-3, 1e3),
    spread=st.floats(0.0, 0.1),
    layer_ms=st.floats(1.0, 100.0),
)
def test_errors_know_no_unit_and_lie_in_their_interval(
    scale: float, spread: float, layer_ms: float
) -> None:
    def error(factor: float) -> tuple[float, float, float]:
        records = [
            timed(LAYER, factor * layer_ms / 1e3, spread=spread),
            *ops_of(LAYER, lambda one: factor * 1e-3, spread=spread),
        ]
        closed = the(closures_of(records), Part.TRAINING, FASTEST).error
        assert closed is not None
        return closed.low, closed.value, closed.high

    low, value, high = error(1.0)
    assert low <= value <= high
    assert error(scale) == pytest.approx((low, value, high), rel=1e-6, abs=1e-9)


def test_independent_errors_of_many_ops_partly_cancel() -> None:
    exact = closures_of([timed(LAYER, 0.03), *ops_of(LAYER, spread=0.1)])
    closed = the(exact, Part.TRAINING, FASTEST)
    assert closed.sum_s is not None
    one_op = next(op.seconds for op in closed.ops if op.count == 1 and op.seconds is not None)
    of_an_op = (one_op.high - one_op.low) / one_op.value
    of_the_sum = (closed.sum_s.high - closed.sum_s.low) / closed.sum_s.value
    assert 0 < of_the_sum < of_an_op / 3


def test_closures_come_back_from_their_file_as_they_were() -> None:
    closures = Closures(
        closures=closures_of([timed(LAYER, 0.03, spread=0.01), *ops_of(LAYER)[:-1]])
    )
    assert from_json(Closures, to_json(closures)) == closures
