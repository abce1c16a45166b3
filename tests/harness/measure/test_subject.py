"""A case on real tensors: checked against fp64, restored between runs, never silently replaced."""

from dataclasses import replace

import pytest
import torch

from harness.device.cpu import CpuDevice
from harness.measure.correctness import compare
from harness.measure.subject import TorchWorkbench, UnsupportedHere
from kernels import registry, triton_support
from kernels.op import Impl, Tolerance, problem

TOLERANCE = Tolerance(relative_error=1e-2, max_error=1e-1)


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
    assert correctness.relative_error == pytest.approx(1.0)


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


@pytest.mark.parametrize(
    "output",
    [
        torch.tensor([1.0, float("nan"), 3.0]),
        torch.tensor([1.0, float("inf"), 3.0]),
        torch.tensor([1.0, 2.0]),
    ],
)
def test_nan_infinity_and_a_wrong_shape_are_infinitely_wrong(output: torch.Tensor) -> None:
    reference = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert compare((output,), (reference,), TOLERANCE).relative_error == float("inf")


def test_a_missing_output_is_wrong() -> None:
    reference = torch.ones(3, dtype=torch.float64)
    assert not compare((reference,), (reference, reference), TOLERANCE).is_right


def test_one_wrong_element_among_many_is_seen() -> None:
    reference = torch.ones(100_000, dtype=torch.float64)
    output = reference.clone()
    output[5] = 2.0
    correctness = compare((output,), (reference,), TOLERANCE)
    assert correctness.relative_error < TOLERANCE.relative_error
    assert not correctness.is_right
