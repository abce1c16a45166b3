"""Every op is right, and found right again, whatever its inputs hold: numbers, zeros, or half."""

import pytest
import torch

from harness.device.cpu import CpuDevice
from harness.measure.inputs import changing_names, data_names, draw
from harness.measure.policy import MeasurePolicy, Values
from harness.measure.subject import UnsupportedHere
from harness.measure.torch_workbench import TorchWorkbench
from kernels import registry
from kernels.op import Mode, Op, Problem
from tests.kernels.checks import NOT_ON_CPU, exact_dtype, odd_problem

OPS = [registry.load(name) for name in registry.names()]
DEVICE = CpuDevice("a processor", 1)

CHOOSING = ("moe_route", "sampling")
"""Ops whose results are indices of the largest inputs."""


def _cases() -> list:
    return [
        pytest.param(op, case, id=case.group)
        for op in OPS
        for mode in op.modes
        for variant in op.variants
        for case in [odd_problem(op, exact_dtype(op), mode, variant)]
        if NOT_ON_CPU.get(op.name, frozenset()).isdisjoint({case.dtype, variant})
    ]


@pytest.mark.parametrize("values", list(Values))
@pytest.mark.parametrize(("op", "case"), _cases())
def test_is_right_when_checked_and_on_values_that_it_has_not_seen(
    op: Op, case: Problem, values: Values
) -> None:
    bench = TorchWorkbench(op, case, DEVICE, MeasurePolicy(inputs=values))
    if values is not Values.NORMAL and op.name in CHOOSING:
        with pytest.raises(UnsupportedHere, match="zeros are all alike"):
            bench.subject("torch")
        return
    subject = bench.subject("torch")
    assert len(subject.runs) == 2
    checked = subject.check()
    assert checked.is_right, checked.explanation
    subject.restore(0)
    outputs = subject.keep(subject.runs[1]())
    subject.restore(0)
    again = subject.recheck(1, outputs)
    assert again.is_right, again.explanation


@pytest.mark.parametrize(("op", "case"), _cases())
def test_the_data_is_zero_and_what_decides_is_not(op: Op, case: Problem) -> None:
    device = torch.device("cpu")
    drawn = draw(op, case, MeasurePolicy(), device, 0)
    zeros = draw(op, case, MeasurePolicy(inputs=Values.ZEROS), device, 0)
    data = data_names(op, drawn)
    assert data
    for name, tensor in zeros.items():
        if name in data:
            assert not tensor.double().any(), name
        else:
            assert torch.equal(tensor, drawn[name]), name


@pytest.mark.parametrize(("op", "case"), _cases())
def test_half_of_sparse_data_is_zero_and_the_rest_is_as_drawn(op: Op, case: Problem) -> None:
    device = torch.device("cpu")
    drawn = draw(op, case, MeasurePolicy(), device, 0)
    sparse = draw(op, case, MeasurePolicy(inputs=Values.SPARSE), device, 0)
    for name in data_names(op, drawn):
        values, kept = drawn[name].double(), sparse[name].double()
        if drawn[name].dtype is torch.uint8:
            continue  # Codes of 4 bits have a test of their own.
        assert torch.equal(kept[kept != 0], values[kept != 0])
        share = float((kept[values != 0] == 0).double().mean())
        # Four standard deviations of a coin that is thrown so often.
        assert abs(share - 0.5) <= 2 / max(int((values != 0).sum()), 1) ** 0.5, name


def test_each_code_of_four_bits_is_zero_by_itself() -> None:
    op = registry.load("int4_gemm")
    case = odd_problem(op, "bf16", Mode.FORWARD)
    device = torch.device("cpu")
    drawn = draw(op, case, MeasurePolicy(), device, 0)["w4"]
    sparse = draw(op, case, MeasurePolicy(inputs=Values.SPARSE), device, 0)["w4"]
    lows, highs = (sparse & 0x0F, drawn & 0x0F), (sparse >> 4, drawn >> 4)
    for kept, values in (lows, highs):
        assert torch.equal(kept[kept != 0], values[kept != 0])
        assert 0.45 < float((kept[values != 0] == 0).double().mean()) < 0.55
    assert ((lows[0] == 0) & (highs[0] != 0)).any()


@pytest.mark.parametrize(("op", "case"), _cases())
def test_sets_differ_in_the_data_alone_and_in_gradients_alone_where_those_are_what_is_passed_on(
    op: Op, case: Problem
) -> None:
    bench = TorchWorkbench(op, case, DEVICE, MeasurePolicy())
    first, second = bench._sets
    changing = changing_names(op, case, first)
    assert changing
    for name, tensor in first.items():
        is_alike = torch.equal(tensor.double(), second[name].double())
        assert is_alike == (name not in changing), name
        assert tensor.data_ptr() != second[name].data_ptr()
    if case.mode is Mode.BACKWARD:
        forward = odd_problem(op, case.dtype, Mode.FORWARD, case.variant)
        operands = draw(op, forward, MeasurePolicy(), torch.device("cpu"), 0)
        assert set(changing) == first.keys() - operands.keys()
