"""What every op keeps, whoever wrote it; an op is taken in by its file in `kernels/`."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from kernels import registry
from kernels.dtypes import size_bytes, torch_dtype
from kernels.op import Impl, Mode, Op, Problem, problem
from kernels.triton_support import bf16_dot_unsupported
from tests.kernels.checks import (
    DEVICE,
    assert_within,
    expected,
    inputs_of,
    odd_problem,
)

# Inductor's own use of TorchScript, when it is first imported.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

OPS = [registry.load(name) for name in registry.names()]


def _name(op: Op) -> str:
    return op.name


def _cases() -> list:
    cases = []
    for op in OPS:
        for impl in op.impls:
            for dtype in op.dtypes:
                # Compiling takes seconds a case on a CPU; fp16 is the same code as bf16 there.
                if impl.name == "compile" and dtype == "fp16" and DEVICE.type == "cpu":
                    continue
                for mode in op.modes:
                    case = odd_problem(op, dtype, mode)
                    name = f"{op.name}-{impl.name}-{dtype}-{mode}"
                    cases.append(pytest.param(op, impl, case, id=name))
    return cases


def _modes(*dtypes: str) -> list:
    return [
        pytest.param(op, odd_problem(op, dtype, mode), id=f"{op.name}-{dtype}-{mode}")
        for op in OPS
        for mode in op.modes
        for dtype in dtypes
    ]


def _axes() -> list:
    return [
        pytest.param(op, mode, axis, id=f"{op.name}-{mode}-{axis}")
        for op in OPS
        for mode in op.modes
        for axis in op.axes
    ]


class _CustomOpCalls(TorchDispatchMode):
    """Keeps every call of a custom op of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[torch._ops.OpOverload, tuple]] = []

    def __torch_dispatch__(
        self,
        function: torch._ops.OpOverload,
        types: object,
        args: tuple = (),
        kwargs: object = None,
    ) -> object:
        if function.namespace == "chipscale":
            assert not kwargs
            self.calls.append((function, args))
        return function(*args, **(kwargs or {}))


def _custom_op_call(op: Op, case: Problem) -> tuple[torch._ops.OpOverload, tuple]:
    """The custom op that a run of the Triton implementation calls, and what it calls it with."""
    run = op.impl("triton").prepare(case, inputs_of(op, case))
    with _CustomOpCalls() as found:
        run()
    assert len(found.calls) == 1, (
        f"kernels/{op.name}: a {case.mode} run of triton calls {len(found.calls)} ops registered "
        "as chipscale::...; wrap its kernels in one, with torch.library.custom_op"
    )
    return found.calls[0]


def _copies(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in inputs.items()}


@pytest.mark.parametrize(("op", "impl", "case"), _cases())
def test_agrees_with_fp64_each_time_and_leaves_its_inputs(
    op: Op, impl: Impl, case: Problem
) -> None:
    reason = impl.unsupported(case, DEVICE)
    if reason is not None and reason == bf16_dot_unsupported(case.dtype):
        pytest.skip(reason)
    assert reason is None
    inputs = inputs_of(op, case)
    before = _copies(inputs)
    references = expected(op, case, inputs)

    run = impl.prepare(case, inputs)
    for name, tensor in inputs.items():
        assert torch.equal(tensor, before[name]), f"preparing changed {name}"

    first = tuple(output.clone() for output in run())
    assert_within(first, references, op.tolerance(case))
    for name, tensor in inputs.items():
        is_changed = not torch.equal(tensor, before[name])
        assert is_changed == (name in op.mutates), f"{name} changed: {is_changed}"

    for name in op.mutates:
        inputs[name].copy_(before[name])
    second = run()
    assert_within(second, references, op.tolerance(case))
    if impl.name == "triton":
        # These kernels sum in a fixed order. Those of a vendor need not: cuDNN and PyTorch add the
        # gradients of attention with atomics.
        for output, again in zip(first, second, strict=True):
            assert torch.equal(output, again), "a second run gave another result"


@pytest.mark.parametrize(("op", "case"), _modes("fp32"))
def test_reference_keeps_fp64_and_its_inputs(op: Op, case: Problem) -> None:
    inputs = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in inputs_of(op, case).items()
    }
    before = _copies(inputs)
    for output in op.reference(case, inputs):
        assert output.dtype == torch.float64
        assert not output.requires_grad
    for name, tensor in inputs.items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(("op", "case"), _modes("bf16", "fp16", "fp32"))
def test_inputs_are_of_the_dtype_random_and_never_zeros(op: Op, case: Problem) -> None:
    inputs = inputs_of(op, case)
    assert any(tensor.dtype == torch_dtype(case.dtype) for tensor in inputs.values())
    for name, tensor in inputs.items():
        assert tensor.device.type == DEVICE.type
        assert tensor.is_contiguous()
        assert tensor.double().std() > 0, name
    for name, tensor in inputs_of(op, case).items():
        assert torch.equal(tensor, inputs[name]), "the same seed gave other inputs"
    other = inputs_of(op, case, seed=1)
    assert not any(torch.equal(other[name], tensor) for name, tensor in inputs.items())


# opcheck compares the real op with its fake in shape, type, strides and device, and the eager op
# with one traced by AOTAutograd, gradients included.
@pytest.mark.parametrize(("op", "case"), _modes("fp32"))
def test_custom_op_passes_opcheck(op: Op, case: Problem) -> None:
    function, arguments = _custom_op_call(op, case)
    if case.mode == Mode.FORWARD and not op.mutates:
        arguments = tuple(
            tensor.requires_grad_() if tensor.is_floating_point() else tensor
            for tensor in arguments
        )
    torch.library.opcheck(function, arguments)


@pytest.mark.parametrize(("op", "case"), _modes("fp16", "fp32"))
def test_fake_output_is_like_the_real_one(op: Op, case: Problem) -> None:
    function, arguments = _custom_op_call(op, case)
    real = function(*arguments)
    with torch._subclasses.FakeTensorMode() as mode:
        fake = function(*(mode.from_tensor(argument) for argument in arguments))
    reals, fakes = (
        value if isinstance(value, tuple) else () if value is None else (value,)
        for value in (real, fake)
    )
    assert len(reals) == len(fakes)
    for one, other in zip(reals, fakes, strict=True):
        assert one.shape == other.shape
        assert one.stride() == other.stride()
        assert one.dtype == other.dtype
        assert one.device == other.device


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("op", [op for op in OPS if Mode.BACKWARD in op.modes], ids=_name)
def test_gradients_through_autograd_agree_with_fp64(op: Op, dtype: str) -> None:
    case = odd_problem(op, dtype, Mode.BACKWARD)
    forward_case = odd_problem(op, dtype, Mode.FORWARD)
    inputs = inputs_of(op, case)
    operands = inputs_of(op, forward_case).keys()
    gradients = inputs.keys() - operands
    assert len(gradients) == 1, (
        f"kernels/{op.name}: the inputs of the backward mode are those of the forward mode and the "
        f"gradient of its output, not {sorted(inputs)} and {sorted(operands)}"
    )
    references = expected(op, case, inputs)
    leaves = [inputs[name] for name in operands if inputs[name].is_floating_point()]
    for leaf in leaves:
        leaf.requires_grad_()
    (output,) = op.impl("triton").prepare(forward_case, inputs)()
    found = torch.autograd.grad(output, leaves, inputs[gradients.pop()], allow_unused=True)
    # A table, as of angles, is an operand without a gradient.
    found = tuple(gradient for gradient in found if gradient is not None)
    assert_within(found, references, op.tolerance(case))


@pytest.mark.parametrize(("op", "mode", "axis"), _axes())
@settings(deadline=None)
@given(factor=st.integers(2, 5))
def test_cost_grows_with_each_axis(op: Op, mode: Mode, axis: str, factor: int) -> None:
    # Powers of two, so that head counts and key lengths stay multiples and bounds of each other.
    sizes = dict.fromkeys(op.axes, 4)
    if op.name == "attention":
        sizes |= {"H": 60, "G": 1, "Q": 8, "S": 64}
    small = op.cost(problem(op.name, "bf16", mode, **sizes))
    large = op.cost(problem(op.name, "bf16", mode, **sizes | {axis: sizes[axis] * factor}))
    assert large.flops >= small.flops
    if (op.name, axis) == ("embedding", "V"):
        # T rows are looked up and summed, however many the table has; its gradient has them all.
        assert (large.num_bytes > small.num_bytes) == (mode == Mode.BACKWARD)
        return
    assert large.num_bytes > small.num_bytes
    # Key/value heads are shared: more of them move more bytes and multiply nothing more.
    if small.flops and axis != "G":
        assert large.flops > small.flops


@pytest.mark.parametrize(("op", "case"), _modes("bf16", "fp32"))
def test_least_traffic_is_each_input_read_and_each_output_written(op: Op, case: Problem) -> None:
    inputs = inputs_of(op, case)
    outputs = op.reference(case, inputs)

    def is_read(name: str) -> bool:
        # An input need not be an operand: the weight copy of an optimizer is written only, the bias
        # of a norm is in none of its gradients, the backward pass of a linear op needs no x. A NaN
        # in such a one reaches no result.
        if not inputs[name].is_floating_point():
            return True
        unknown = inputs | {name: torch.full_like(inputs[name], math.nan)}
        return not all(output.isfinite().all() for output in op.reference(case, unknown))

    operands = {name: tensor for name, tensor in inputs.items() if is_read(name)}
    if op.name == "embedding" and "table" in operands:
        # The rows that are looked up.
        operands["table"] = inputs["table"][inputs["ids"]]
    cost = op.cost(case)
    assert cost.bytes_read == sum(tensor.nbytes for tensor in operands.values())
    assert cost.bytes_written == sum(
        output.numel() * size_bytes(tolerance.dtype)
        for output, tolerance in zip(outputs, op.tolerance(case), strict=True)
    )


@pytest.mark.parametrize("mode", registry.load("gemm").modes)
def test_gemm_flops_are_what_torch_counts(mode: Mode) -> None:
    op = registry.load("gemm")
    case = odd_problem(op, "fp32", mode)
    run = op.impl("torch").prepare(case, inputs_of(op, case))
    with FlopCounterMode(display=False) as counter:
        run()
    assert op.cost(case).flops == counter.get_total_flops()


# torch counts every pair of query and key, we count those that are visible.
@pytest.mark.parametrize("mode", registry.load("attention").modes)
def test_attention_flops_are_what_torch_counts_for_the_visible_pairs(mode: Mode) -> None:
    op = registry.load("attention")
    case = odd_problem(op, "fp32", mode)
    with (
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        run = op.impl("torch").prepare(case, inputs_of(op, case))
        before_flops = counter.get_total_flops()
        run()
    counted = counter.get_total_flops() - before_flops
    Q, S = case["Q"], case["S"]
    visible = sum(min(S, i + S - Q + 1) for i in range(Q))
    assert op.cost(case).flops == counted * visible // (Q * S)
    assert math.isclose(visible, Q * S - Q * (Q - 1) / 2)


@pytest.mark.parametrize("op", OPS, ids=_name)
def test_description_is_complete(op: Op) -> None:
    assert [impl.name for impl in op.impls] == ["torch", "compile", "triton"]
    assert op.dtypes == ("bf16", "fp16", "fp32")
    assert op.modes[0] == Mode.FORWARD
    assert op.source
    for axis in op.axes:
        assert axis in op.formula, f"the formula does not say what {axis} is"
    case = odd_problem(op, "fp32", Mode.FORWARD)
    assert set(op.mutates) <= set(inputs_of(op, case))
