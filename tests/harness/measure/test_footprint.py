"""What a case needs is known, and refused in numbers, before anything is made."""

from dataclasses import replace

import pytest
import torch

from harness.device.cpu import CpuDevice
from harness.device.fake import FakeDevice
from harness.device.request import FakeOptions
from harness.measure import footprint as footprint_module
from harness.measure.footprint import (
    NotEnoughMemory,
    affordable_sets,
    footprint,
    outline,
    require_host_memory,
)
from harness.measure.policy import Cache, MeasurePolicy
from harness.measure.workbench import open_workbench
from kernels import registry
from kernels.op import Mode, Op, Problem, problem
from tests.kernels.checks import exact_dtype, odd_problem

GEMM = registry.load("gemm")
HUGE = problem("gemm", "bf16", M=131072, N=131072, K=131072)
"""Three matrices of 32 GiB each."""

DRAWS_AGAIN = ("moe_route",)
"""Ops whose inputs are drawn again until they fit."""


class Held(CpuDevice):
    """A processor with as much memory as it is told."""

    def __init__(self, free_bytes: int | None) -> None:
        super().__init__("a processor", 1)
        self.free_bytes = free_bytes

    def available_memory_bytes(self) -> int | None:
        return self.free_bytes


def _cases() -> list:
    return [
        pytest.param(op, case, id=case.group)
        for op in map(registry.load, registry.names())
        for mode in op.modes
        for case in [odd_problem(op, exact_dtype(op), mode)]
    ]


@pytest.mark.parametrize(("op", "case"), _cases())
def test_the_outline_is_that_of_the_inputs(op: Op, case: Problem) -> None:
    inputs = op.make_inputs(case, torch.Generator().manual_seed(0))
    found = outline(op, case)
    if op.name in DRAWS_AGAIN:
        assert found is None
    else:
        assert found == {
            name: (tuple(tensor.shape), tensor.dtype) for name, tensor in inputs.items()
        }


@pytest.mark.parametrize(("op", "case"), _cases())
def test_the_footprint_is_at_most_what_is_allocated(op: Op, case: Problem) -> None:
    inputs = op.make_inputs(case, torch.Generator().manual_seed(0))
    exact = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in inputs.items()
    }
    outputs = op.reference(case, exact)
    needed = footprint(op, case)
    made = sum(tensor.nbytes for tensor in inputs.values())
    copies = sum(tensor.nbytes for name, tensor in inputs.items() if name in op.mutates)
    if op.name not in DRAWS_AGAIN:
        assert needed.inputs == made + copies
    assert needed.exact_inputs <= sum(tensor.nbytes for tensor in exact.values())
    # A cache that is written in part is an output as a whole.
    assert needed.exact_outputs <= sum(output.numel() for output in outputs) * 8 + copies * 8


def test_a_case_that_is_too_large_is_refused_in_numbers_before_it_is_made() -> None:
    device = FakeDevice(FakeOptions(memory_bytes=78 * 2**30))
    with pytest.raises(NotEnoughMemory) as refused:
        open_workbench(GEMM, HUGE, device, MeasurePolicy())
    assert str(refused.value) == (
        "needs at least 96.0 GiB for inputs and outputs, 78.0 GiB are free"
    )


@pytest.mark.parametrize(
    ("free_gib", "num_sets"), [(96, 1), (319, 1), (320, 2), (447, 2), (448, 3), (1000, 3)]
)
def test_further_sets_of_inputs_leave_half_of_the_memory_free(free_gib: int, num_sets: int) -> None:
    device = FakeDevice(FakeOptions(memory_bytes=free_gib * 2**30))
    policy = MeasurePolicy(num_input_sets=3)
    runs = open_workbench(GEMM, HUGE, device, policy).subject("torch").runs
    assert len(runs) == num_sets
    hot = replace(policy, cache=Cache.HOT)
    assert len(open_workbench(GEMM, HUGE, device, hot).subject("torch").runs) == 1


def test_what_a_run_overwrites_is_needed_twice() -> None:
    case = problem("adamw", "bf16", N=2**20)
    needed = footprint(registry.load("adamw"), case)
    # param and both averages in fp32, grad and weight in bf16; all but grad with a copy.
    assert needed.inputs == 2**20 * (2 * (3 * 4 + 2) + 2)
    assert needed.outputs == 0


def test_on_a_processor_the_references_share_the_memory() -> None:
    case = problem("gemm", "bf16", M=1024, N=1024, K=1024)
    mib = 2**20
    # Two inputs and an output of 2 MiB, two inputs and two references of 8 MiB in fp64.
    needed = (2 * 2 + 2 + 4 * 8) * mib
    assert affordable_sets(GEMM, case, Held(needed), 2) == 1
    assert affordable_sets(GEMM, case, Held(2 * (needed + 4 * mib) - 2), 2) == 1
    assert affordable_sets(GEMM, case, Held(2 * (needed + 4 * mib)), 2) == 2
    with pytest.raises(NotEnoughMemory, match=r"at least 38\.0 MiB for inputs, outputs and their"):
        affordable_sets(GEMM, case, Held(needed - 1), 2)


def test_nothing_is_refused_where_memory_cannot_be_told() -> None:
    assert affordable_sets(GEMM, HUGE, Held(None), 2) == 2


def test_a_reference_that_the_host_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint_module, "available_memory_bytes", lambda: 100 * 2**30)
    with pytest.raises(NotEnoughMemory, match=r"at least 384 GiB for the fp64 reference on the"):
        require_host_memory(GEMM, HUGE)


@pytest.mark.parametrize("host_bytes", [500 * 2**30, None], ids=["too little", "not told"])
def test_an_accelerator_is_not_used_where_the_host_cannot_hold_the_references(
    host_bytes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Held(None)
    device.torch_device = torch.device("xpu")
    monkeypatch.setattr(footprint_module, "available_memory_bytes", lambda: host_bytes)
    if host_bytes is None:
        assert affordable_sets(GEMM, HUGE, device, 2) == 2
    else:
        with pytest.raises(NotEnoughMemory, match="512 GiB for fp64 references on the host"):
            affordable_sets(GEMM, HUGE, device, 2)


def test_an_op_that_refuses_a_size_refuses_it_with_its_own_words() -> None:
    op = registry.load("int4_gemm")
    case = problem("int4_gemm", "bf16", Mode.FORWARD, M=3, N=5, K=7)
    assert outline(op, case) is None
    with pytest.raises(ValueError, match="K must be a multiple of"):
        open_workbench(op, case, CpuDevice("a processor", 1), MeasurePolicy())
