"""A case on real tensors: right on values that nobody has seen, restored, never silently replaced.

Each way to cheat is found out, and the reason says which it was.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import count

import pytest
import torch

from harness.device.cpu import CpuDevice
from harness.measure import torch_workbench
from harness.measure.policy import Cache, MeasurePolicy, Values
from harness.measure.subject import Subject, UnsupportedHere
from harness.measure.torch_workbench import TorchWorkbench
from harness.record import Correctness
from kernels import registry, triton_support
from kernels.op import Impl, Inputs, Mode, Outputs, Problem, Run, problem

Prepare = Callable[[Problem, Inputs], Run]

CASE = problem("scale", "fp32", N=10_000)
HOT = MeasurePolicy(cache=Cache.HOT)


# Inductor's own use of TorchScript, when it is first imported.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


@pytest.fixture(scope="module")
def device() -> CpuDevice:
    return CpuDevice("a processor", 1)


def bench_of(
    device: CpuDevice, prepare: Prepare | None = None, policy: MeasurePolicy | None = None
) -> TorchWorkbench:
    """A workbench of `scale`, with an implementation `other` beside those that are right."""
    op = registry.load("scale")
    if prepare is not None:
        op = replace(op, impls=(op.impl("torch"), Impl("other", prepare)))
    return TorchWorkbench(op, CASE, device, policy or MeasurePolicy())


def timed(subject: Subject, num_runs: int = 6) -> Correctness:
    """What is said after check and so many timed runs, which take turns between the sets."""
    found = subject.check()
    if not found.is_right:
        return found
    for index in range(num_runs):
        which = index % len(subject.runs)
        subject.restore(which)
        outputs: Outputs = ()  # As the loop does, which leaves their memory to the run.
        outputs = subject.runs[which]()
    outputs = subject.keep(outputs)
    subject.restore(which)
    return subject.recheck(which, outputs)


def hands_out_its_first_output(problem: Problem, inputs: Inputs) -> Run:
    kept: list[torch.Tensor] = []

    def run() -> Outputs:
        if not kept:
            kept.append(3 * inputs["x"])
        return (kept[0],)

    return run


def clones_its_first_output(problem: Problem, inputs: Inputs) -> Run:
    kept: list[torch.Tensor] = []

    def run() -> Outputs:
        if not kept:
            kept.append(3 * inputs["x"])
        return (kept[0].clone(),)

    return run


def remembers_by_address() -> Prepare:
    kept: dict[int, torch.Tensor] = {}

    def prepare(problem: Problem, inputs: Inputs) -> Run:
        x = inputs["x"]

        def run() -> Outputs:
            if x.data_ptr() not in kept:
                kept[x.data_ptr()] = 3 * x
            return (kept[x.data_ptr()].clone(),)

        return run

    return prepare


def does_half_of_the_work(problem: Problem, inputs: Inputs) -> Run:
    def run() -> Outputs:
        x = inputs["x"]
        y = torch.empty_like(x)
        half = len(x) // 2
        torch.mul(x[:half], 3, out=y[:half])
        return (y,)

    return run


def does_all_of_the_work_only_at_first(problem: Problem, inputs: Inputs) -> Run:
    calls = count()

    def run() -> Outputs:
        x = inputs["x"]
        y = torch.empty_like(x)
        part = len(x) if next(calls) < 3 else len(x) // 2
        torch.mul(x[:part], 3, out=y[:part])
        return (y,)

    return run


def writes_nothing(problem: Problem, inputs: Inputs) -> Run:
    return lambda: (torch.empty_like(inputs["x"]),)


def overwrites_its_input(problem: Problem, inputs: Inputs) -> Run:
    return lambda: (inputs["x"].mul_(3).clone(),)


def overwrites_its_input_later(problem: Problem, inputs: Inputs) -> Run:
    calls = count()

    def run() -> Outputs:
        y = 3 * inputs["x"]
        if next(calls) == 3:
            inputs["x"][7] += 1
        return (y,)

    return run


NOT_WRITTEN = "An output holds what its memory was filled with before the run"
REMEMBERS = "It returned the result of earlier values of its inputs, which had changed since"
OVERWRITES = "A run has overwritten its input x, which has to stay as it is."


@pytest.mark.parametrize("policy", [MeasurePolicy(), HOT], ids=["two sets", "one set"])
@pytest.mark.parametrize(
    ("make", "finding"),
    [
        (lambda: hands_out_its_first_output, NOT_WRITTEN),
        (lambda: clones_its_first_output, REMEMBERS),
        (remembers_by_address, REMEMBERS),
        (lambda: does_half_of_the_work, NOT_WRITTEN),
        (lambda: writes_nothing, NOT_WRITTEN),
        (lambda: overwrites_its_input, OVERWRITES),
        (lambda: overwrites_its_input_later, OVERWRITES),
    ],
    ids=[
        *("hands out its first output", "clones its first output", "remembers by address"),
        *("does half of the work", "writes nothing", "overwrites its input"),
        "overwrites its input later",
    ],
)
def test_a_cheat_is_found_out_and_the_reason_says_what_was_found(
    device: CpuDevice, policy: MeasurePolicy, make: Callable[[], Prepare], finding: str
) -> None:
    bench = bench_of(device, make(), policy)
    assert timed(bench.subject("torch")).is_right
    found = timed(bench.subject("other"))
    assert not found.is_right
    assert finding in found.explanation
    # What it did harms no other.
    assert timed(bench.subject("torch")).is_right


def test_half_of_the_work_in_the_timed_set_alone_is_found_out(device: CpuDevice) -> None:
    bench = bench_of(device, does_all_of_the_work_only_at_first)
    found = timed(bench.subject("other"), num_runs=8)
    assert not found.is_right
    # What the allocator has left in the other half decides which of them finds it.
    assert any(
        words in found.finding
        for words in ("the last timed run is wrong", "is wrong on others", "was not written")
    )


def test_what_is_left_unwritten_is_found_out_though_its_memory_held_the_right_result(
    device: CpuDevice,
) -> None:
    bench = bench_of(device, does_half_of_the_work)
    assert bench.subject("torch").check().is_right
    assert not bench.subject("other").check().is_right


def test_an_output_that_is_an_input_is_no_work() -> None:
    op = registry.load("copy")
    lazy = Impl("other", lambda problem, inputs: lambda: (inputs["x"],))
    case = problem("copy", "fp32", N=100)
    bench = TorchWorkbench(
        replace(op, impls=(lazy,)), case, CpuDevice("a processor", 1), MeasurePolicy()
    )
    found = bench.subject("other").check()
    assert found.outputs[0].relative_error == 0
    assert "An output is the input x itself" in found.explanation


def test_a_wrong_implementation_is_found_out(device: CpuDevice) -> None:
    bench = bench_of(device, lambda problem, inputs: lambda: (6 * inputs["x"],))
    correctness = bench.subject("other").check()
    assert not correctness.is_right
    assert correctness.finding == ""
    assert correctness.outputs[0].relative_error == pytest.approx(1.0)


def test_what_is_right_only_for_the_values_it_was_timed_with_is_found_out(
    device: CpuDevice,
) -> None:
    def prepare(problem: Problem, inputs: Inputs) -> Run:
        first = inputs["x"][0].clone()
        return lambda: (inputs["x"] * (3 if inputs["x"][0] == first else 4),)

    found = timed(bench_of(device, prepare).subject("other"))
    assert "right on the inputs it was timed with, and is wrong on others" in found.explanation


@pytest.mark.parametrize(("packs", "is_right"), [(("x",), True), ((), False)])
def test_what_packs_an_input_is_prepared_again_for_its_new_values(
    device: CpuDevice, packs: tuple[str, ...], is_right: bool
) -> None:
    def prepare(problem: Problem, inputs: Inputs) -> Run:
        packed = inputs["x"].flip(0)
        return lambda: ((3 * packed).flip(0),)

    op = registry.load("scale")
    op = replace(op, impls=(Impl("other", prepare, packs=packs),))
    bench = TorchWorkbench(op, CASE, device, MeasurePolicy())
    assert timed(bench.subject("other")).is_right == is_right


@pytest.mark.parametrize("num_runs", [5, 6])
@pytest.mark.parametrize("policy", [MeasurePolicy(), HOT], ids=["two sets", "one set"])
def test_an_optimizer_is_right_every_time_though_it_overwrites_its_inputs(
    device: CpuDevice, policy: MeasurePolicy, num_runs: int
) -> None:
    case = problem("adamw", "bf16", N=1000)
    bench = TorchWorkbench(registry.load("adamw"), case, device, policy)
    for _ in range(2):
        found = timed(bench.subject("torch"), num_runs)
        assert found.is_right, found.explanation


def test_an_optimizer_that_does_only_its_first_step_is_found_out(device: CpuDevice) -> None:
    op = registry.load("adamw")

    def prepare(problem: Problem, inputs: Inputs) -> Run:
        step, calls = op.impl("torch").prepare(problem, inputs), count()
        names = ("param", "exp_avg", "exp_avg_sq", "weight")
        return lambda: step() if next(calls) < 3 else tuple(inputs[name] for name in names)

    op_with_lazy = replace(op, impls=(Impl("other", prepare),))
    bench = TorchWorkbench(op_with_lazy, problem("adamw", "bf16", N=1000), device, MeasurePolicy())
    assert not timed(bench.subject("other"), 7).is_right


@pytest.mark.parametrize("impl", ["torch", "compile"])
def test_a_backward_pass_is_checked_on_gradients_it_has_not_seen(
    device: CpuDevice, impl: str
) -> None:
    case = problem("rms_norm", "fp32", Mode.BACKWARD, T=5, H=64)
    bench = TorchWorkbench(registry.load("rms_norm"), case, device, MeasurePolicy())
    assert bench._changing == ("dy",)
    found = timed(bench.subject(impl))
    assert found.is_right, found.explanation


def test_sets_of_inputs_take_turns_only_where_the_cache_is_cold(device: CpuDevice) -> None:
    assert len(bench_of(device).subject("torch").runs) == 2
    three = MeasurePolicy(num_input_sets=3)
    assert len(bench_of(device, policy=three).subject("torch").runs) == 3
    assert len(bench_of(device, policy=HOT).subject("torch").runs) == 1


def test_each_set_has_its_own_values_and_each_run_its_own_set(device: CpuDevice) -> None:
    first, second = (run()[0] for run in bench_of(device).subject("torch").runs)
    assert not torch.equal(first, second)
    again = bench_of(device, policy=MeasurePolicy(seed=1)).subject("torch").runs[0]()[0]
    assert torch.equal(again, second), "the second set is not that of the next seed"


def test_a_function_is_compiled_once_for_all_sets(
    device: CpuDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiles: list[object] = []

    def compile_nothing(function: object, **options: object) -> object:
        compiles.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compile_nothing)
    bench = bench_of(device)
    assert len(bench.subject("compile").runs) == 2
    assert len(compiles) == 1
    bench.subject("compile")
    assert len(compiles) == 2


def test_references_are_computed_once_for_all_implementations(device: CpuDevice) -> None:
    op, calls = registry.load("scale"), []

    def reference(problem: Problem, inputs: Inputs) -> Outputs:
        calls.append(problem)
        return op.reference(problem, inputs)

    bench = TorchWorkbench(replace(op, reference=reference), CASE, device, MeasurePolicy())
    for _ in range(3):
        assert timed(bench.subject("torch")).is_right
    assert len(calls) == 2


def test_all_zeros_have_no_other_values_to_be_checked_on(device: CpuDevice) -> None:
    bench = bench_of(device, policy=MeasurePolicy(inputs=Values.ZEROS))
    subject = bench.subject("torch")
    assert not subject.runs[0]()[0].any()
    assert timed(subject).is_right


def test_one_set_serves_where_there_is_no_memory_for_two(
    device: CpuDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_workbench, "affordable_sets", lambda *args: 1)
    subject = bench_of(device).subject("torch")
    assert len(subject.runs) == 1
    assert timed(subject).is_right


def test_a_device_that_runs_out_while_it_draws_the_second_set_is_left_with_one(
    device: CpuDevice,
) -> None:
    op = registry.load("scale")

    def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
        if generator.initial_seed() == 1:
            raise torch.OutOfMemoryError("no more")
        return op.make_inputs(problem, generator)

    needy = replace(op, make_inputs=make_inputs)
    bench = TorchWorkbench(needy, CASE, device, MeasurePolicy(seed=0))
    subject = bench.subject("torch")
    assert len(subject.runs) == 1
    assert timed(subject).is_right


def test_what_cannot_run_here_says_why(device: CpuDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_support, "INTERPRETED", False)
    with pytest.raises(UnsupportedHere, match="Triton"):
        bench_of(device).subject("triton")


def test_timing_under_the_interpreter_is_refused(
    device: CpuDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_support, "INTERPRETED", True)
    with pytest.raises(UnsupportedHere, match="interpreter's time says nothing"):
        bench_of(device).subject("triton")


@pytest.mark.parametrize("name", ["host_to_device", "device_to_host"])
def test_a_copy_between_host_and_device_is_right_on_values_it_has_not_seen(
    name: str, device: CpuDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both sides are the processor here, and no memory is pinned.
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: tensor.clone())
    empty_like = torch.empty_like
    monkeypatch.setattr(
        torch,
        "empty_like",
        lambda tensor, **options: empty_like(
            tensor, **{key: value for key, value in options.items() if key != "pin_memory"}
        ),
    )
    op = registry.load(name)
    here = replace(op.impl("torch"), unsupported=lambda problem, device: None)
    case = problem(name, "fp32", N=1000)
    bench = TorchWorkbench(replace(op, impls=(here,)), case, device, MeasurePolicy())
    found = timed(bench.subject("torch"))
    assert found.is_right, found.explanation
