"""A case on real tensors: checked against fp64, restored between runs, never silently replaced."""

from dataclasses import replace

import pytest
import torch

from harness.device.cpu import CpuDevice
from harness.measure.subject import TorchWorkbench, UnsupportedHere
from kernels import registry, triton_support
from kernels.op import Impl, Inputs, Outputs, Problem, Run, problem


@pytest.fixture(scope="module")
def device() -> CpuDevice:
    return CpuDevice("a processor", 1)


def test_an_optimizer_is_right_every_time_though_it_overwrites_its_inputs(
    device: CpuDevice,
) -> None:
    bench = TorchWorkbench(registry.load("adamw"), problem("adamw", "bf16", N=1000), device, seed=0)
    subject = bench.subject("torch")
    assert subject.check().is_right
    subject.run()
    assert subject.check().is_right


def test_a_wrong_implementation_is_found_out(device: CpuDevice) -> None:
    op = registry.load("copy")
    broken = Impl("torch", lambda problem, inputs: lambda: (2 * inputs["x"],))
    bench = TorchWorkbench(
        replace(op, impls=(broken,)), problem("copy", "fp32", N=100), device, seed=0
    )
    correctness = bench.subject("torch").check()
    assert not correctness.is_right
    assert correctness.outputs[0].relative_error == pytest.approx(1.0)


def test_what_is_left_unwritten_is_found_out_though_its_memory_held_the_right_result(
    device: CpuDevice,
) -> None:
    op = registry.load("copy")

    def prepare_half(problem: Problem, inputs: Inputs) -> Run:
        def run() -> Outputs:
            y = torch.empty_like(inputs["x"])
            half = y.numel() // 2
            y[:half] = inputs["x"][:half]
            return (y,)

        return run

    impls = (op.impl("torch"), Impl("half", prepare_half))
    case = problem("copy", "fp32", N=100_000)
    bench = TorchWorkbench(replace(op, impls=impls), case, device, seed=0)
    assert bench.subject("torch").check().is_right
    assert not bench.subject("half").check().is_right


def test_what_cannot_run_here_says_why(device: CpuDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_support, "INTERPRETED", False)
    bench = TorchWorkbench(registry.load("copy"), problem("copy", "fp32", N=100), device, seed=0)
    with pytest.raises(UnsupportedHere, match="Triton"):
        bench.subject("triton")


def test_timing_under_the_interpreter_is_refused(
    device: CpuDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_support, "INTERPRETED", True)
    bench = TorchWorkbench(registry.load("copy"), problem("copy", "fp32", N=100), device, seed=0)
    with pytest.raises(UnsupportedHere, match="interpreter's time says nothing"):
        bench.subject("triton")
