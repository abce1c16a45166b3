"""What every op keeps, whoever wrote it; an op is taken in by its file in `kernels/`."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from kernels import dtypes, registry
from kernels.dtypes import size_bytes, torch_dtype
from kernels.op import Impl, Mode, Op, Problem, problem
from kernels.triton_support import bf16_dot_unsupported
from tests.kernels.checks import (
    DEVICE,
    FALLING,
    GROWING,
    PARTLY_READ,
    PARTLY_WRITTEN,
    SHARED_GRADIENTS,
    STILL,
    TRANSFERS,
    assert_within,
    exact_dtype,
    expected,
    inputs_of,
    is_beyond_torch,
    odd_problem,
)

# Inductor's own use of TorchScript, when it is first imported.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

OPS = [registry.load(name) for name in registry.names()]
SINGLE_OPS = [op for op in OPS if not op.is_block]
KERNEL_OPS = [op for op in SINGLE_OPS if op.name not in TRANSFERS]


def _name(op: Op) -> str:
    return op.name


def _cases() -> list:
    cases = []
    for op in OPS:
        for impl in op.impls:
            for dtype in op.dtypes:
                # Compiling takes seconds a case on a CPU, whose types differ in loads and stores.
                is_costly = impl.name == "compile" and DEVICE.type == "cpu"
                if is_costly and dtype != exact_dtype(op):
                    continue
                for mode in op.modes:
                    # A variant is another choice of data or of loop, not another program to be
                    # compiled by inductor.
                    variants = op.variants[:1] if impl.name == "compile" else op.variants
                    for variant in variants:
                        case = odd_problem(op, dtype, mode, variant)
                        cases.append(pytest.param(op, impl, case, id=f"{case.group}-{impl.name}"))
    return cases


def _modes(*dtypes: str, ops: Sequence[Op] = OPS, is_first_variant: bool = False) -> list:
    """Every op, mode and variant in those types; in its most exact one without any."""
    cases = [
        (op, odd_problem(op, dtype, mode, variant))
        for op in ops
        for mode in op.modes
        for variant in op.variants[: 1 if is_first_variant else None]
        for dtype in (dtypes or (exact_dtype(op),))
        if dtype in op.dtypes
    ]
    return [pytest.param(op, case, id=case.group) for op, case in cases]


def _axes() -> list:
    return [
        pytest.param(op, mode, variant, axis, id=f"{op.name}-{mode}-{variant}-{axis}")
        for op in OPS
        for mode in op.modes
        for variant in op.variants
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
    if is_beyond_torch(impl, case):
        assert reason is not None
        assert reason.endswith(".")
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
        if name in inputs:
            inputs[name].copy_(before[name])
    second = run()
    assert_within(second, references, op.tolerance(case))
    if impl.name == "triton":
        # These kernels sum in a fixed order. Those of a vendor need not: cuDNN and PyTorch add the
        # gradients of attention with atomics.
        for output, again in zip(first, second, strict=True):
            assert torch.equal(output, again), "a second run gave another result"


@pytest.mark.parametrize(("op", "case"), _modes())
def test_reference_keeps_fp64_and_its_inputs(op: Op, case: Problem) -> None:
    inputs = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in inputs_of(op, case).items()
    }
    before = _copies(inputs)
    for output, tolerance in zip(op.reference(case, inputs), op.tolerance(case), strict=True):
        # Integers, as the index of a token, are exact as they are.
        is_index = tolerance.dtype in ("int32", "int64")
        assert output.dtype == (torch_dtype(tolerance.dtype) if is_index else torch.float64)
        assert not output.requires_grad
    for name, tensor in inputs.items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(("op", "case"), _modes(*dtypes.NAMES))
def test_inputs_are_of_the_dtype_random_and_never_zeros(op: Op, case: Problem) -> None:
    inputs = inputs_of(op, case)
    # What quantises has the type that it is named by in its outputs only.
    found = {tensor.dtype for tensor in inputs.values()}
    found |= {torch_dtype(tolerance.dtype) for tolerance in op.tolerance(case)}
    assert torch_dtype(case.dtype) in found
    for name, tensor in inputs.items():
        assert tensor.device.type == DEVICE.type
        assert tensor.is_contiguous()
        # Integers may be counts that are all alike, and a scale of a whole tensor is one number.
        is_varied = tensor.is_floating_point() and tensor.numel() > 1
        assert tensor.double().std() > 0 if is_varied else tensor.any(), name
    for name, tensor in inputs_of(op, case).items():
        assert torch.equal(tensor, inputs[name]), "the same seed gave other inputs"
    other = inputs_of(op, case, seed=1)
    # Integers may be offsets or counts, which follow from the sizes.
    assert not any(
        torch.equal(other[name], tensor)
        for name, tensor in inputs.items()
        if tensor.is_floating_point()
    )


# opcheck compares the real op with its fake in shape, type, strides and device, and the eager op
# with one traced by AOTAutograd, gradients included.
@pytest.mark.parametrize(("op", "case"), _modes(ops=KERNEL_OPS, is_first_variant=True))
def test_custom_op_passes_opcheck(op: Op, case: Problem) -> None:
    function, arguments = _custom_op_call(op, case)
    # An op of inference alone has no gradient.
    if case.mode == Mode.FORWARD and len(op.modes) > 1 and not op.mutates:
        for argument in arguments:
            if isinstance(argument, torch.Tensor) and argument.is_floating_point():
                argument.requires_grad_()
    torch.library.opcheck(function, arguments)


@pytest.mark.parametrize(("op", "case"), _modes(ops=KERNEL_OPS, is_first_variant=True))
def test_strides_that_a_kernel_cannot_read_are_refused_and_never_read_wrong(
    op: Op, case: Problem
) -> None:
    function, arguments = _custom_op_call(op, case)
    for index, argument in enumerate(arguments):
        if not isinstance(argument, torch.Tensor) or argument.numel() < 2:
            continue
        strided = torch.stack((argument, argument), dim=-1)[..., 0]
        assert not strided.is_contiguous()
        with pytest.raises(ValueError, match=rf"{op.name}: \w+ of shape .* has strides"):
            function(*arguments[:index], strided, *arguments[index + 1 :])


@pytest.mark.parametrize(("op", "case"), _modes(ops=KERNEL_OPS))
def test_fake_output_is_like_the_real_one(op: Op, case: Problem) -> None:
    function, arguments = _custom_op_call(op, case)
    real = function(*arguments)
    with torch._subclasses.FakeTensorMode() as mode:
        fake = function(
            *(
                mode.from_tensor(argument) if isinstance(argument, torch.Tensor) else argument
                for argument in arguments
            )
        )
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
@pytest.mark.parametrize(
    ("op", "variant"),
    [
        pytest.param(op, variant, id=f"{op.name}-{variant}")
        for op in KERNEL_OPS
        for variant in op.variants
        if Mode.BACKWARD in op.modes
    ],
)
def test_gradients_through_autograd_agree_with_fp64(op: Op, variant: str, dtype: str) -> None:
    case = odd_problem(op, dtype, Mode.BACKWARD, variant)
    forward_case = odd_problem(op, dtype, Mode.FORWARD, variant)
    inputs = inputs_of(op, case)
    operands = inputs_of(op, forward_case).keys()
    gradients = [inputs[name] for name in inputs if name not in operands]
    references = expected(op, case, inputs)
    leaves = {name: inputs[name] for name in operands if inputs[name].is_floating_point()}
    for leaf in leaves.values():
        leaf.requires_grad_()
    outputs = op.impl("triton").prepare(forward_case, inputs)()
    assert len(gradients) == len(outputs), (
        f"kernels/{op.name}: the inputs of the backward mode are those of the forward mode and a "
        "gradient for each of its outputs, in their order, "
        f"not {list(inputs)} for {len(outputs)} outputs of {list(operands)}"
    )
    found = dict(
        zip(
            leaves,
            torch.autograd.grad(outputs, [*leaves.values()], gradients, allow_unused=True),
            strict=True,
        )
    )
    for name, other in SHARED_GRADIENTS.get(op.name, {}).items():
        assert torch.equal(found.pop(name), found[other]), f"{name} has not that of {other}"
    # A table, as of angles, is an operand without a gradient.
    given = tuple(gradient for gradient in found.values() if gradient is not None)
    assert_within(given, references, op.tolerance(case))


@pytest.mark.parametrize(("op", "mode", "variant", "axis"), _axes())
@settings(deadline=None)
@given(factor=st.integers(2, 5))
def test_cost_grows_with_each_axis(
    op: Op, mode: Mode, variant: str, axis: str, factor: int
) -> None:
    # Powers of two, so that head counts and key lengths stay multiples and bounds of each other.
    sizes = dict.fromkeys(op.axes, 4) | dict(GROWING.get(op.name, {}))
    larger = sizes | {axis: sizes[axis] * factor}
    dtype = op.dtypes[0]
    small = op.cost(problem(op.name, dtype, mode, variant, **sizes))
    large = op.cost(problem(op.name, dtype, mode, variant, **larger))
    still = STILL.get(op.name, {}).get(axis, frozenset())
    falling = FALLING.get(op.name, {}).get(axis, frozenset())
    for what, before, after in (
        ("bytes", small.num_bytes, large.num_bytes),
        ("flops", small.flops, large.flops),
    ):
        if what in falling:
            assert after < before
        elif still & {what, f"{what} {mode}"} or not before:
            assert after >= before
        else:
            assert after > before


@pytest.mark.parametrize(("op", "case"), _modes(*dtypes.NAMES, ops=SINGLE_OPS))
def test_least_traffic_is_each_input_read_and_each_output_written(op: Op, case: Problem) -> None:
    inputs = inputs_of(op, case)
    outputs = op.reference(case, inputs)

    def is_read(name: str) -> bool:
        # An input need not be an operand: the weight copy of an optimizer is written only, the bias
        # of a norm is in none of its gradients, the backward pass of a linear op needs no x. A NaN
        # in such a one changes no result; in one that only decides, it changes what was decided.
        if not inputs[name].is_floating_point():
            return True
        unknown = inputs | {name: torch.full_like(inputs[name], math.nan)}
        # Threads add in no fixed order; torch cannot compare 8-bit types on every device.
        found = op.reference(case, unknown)
        return any(
            not torch.allclose(output.double(), other.double(), rtol=1e-3)
            for output, other in zip(found, outputs, strict=True)
        )

    operands = {name: tensor for name, tensor in inputs.items() if is_read(name)}
    if op.name in PARTLY_READ:
        partly = PARTLY_READ[op.name](inputs)
        operands |= {name: partly[name] for name in operands.keys() & partly.keys()}
    if op.name in PARTLY_WRITTEN:
        outputs = PARTLY_WRITTEN[op.name](inputs, outputs)
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
@pytest.mark.parametrize("variant", registry.load("attention").variants)
@pytest.mark.parametrize("mode", registry.load("attention").modes)
def test_attention_flops_are_what_torch_counts_for_the_visible_pairs(
    mode: Mode, variant: str
) -> None:
    op = registry.load("attention")
    case = odd_problem(op, "fp32", mode, variant)
    with (
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        run = op.impl("torch").prepare(case, inputs_of(op, case))
        before_flops = counter.get_total_flops()
        run()
    counted = counter.get_total_flops() - before_flops
    Q, S = case["Q"], case["S"]
    visible = Q * S
    if variant == "causal":
        visible = sum(min(S, i + S - Q + 1) for i in range(Q))
        assert math.isclose(visible, Q * S - Q * (Q - 1) / 2)
    assert op.cost(case).flops == counted * visible // (Q * S)


@pytest.mark.parametrize("op", OPS, ids=_name)
def test_description_is_complete(op: Op) -> None:
    assert [impl.name for impl in op.impls] == ["torch", "compile", "triton"]
    assert op.dtypes
    assert set(op.dtypes) <= set(dtypes.NAMES)
    assert op.modes[0] == Mode.FORWARD or op.is_block
    assert op.source
    for axis in op.axes:
        assert axis in op.formula, f"the formula does not say what {axis} is"
    cases = (odd_problem(op, exact_dtype(op), mode) for mode in op.modes)
    assert set(op.mutates) <= set().union(*(inputs_of(op, case) for case in cases))
