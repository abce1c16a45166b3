"""The `compile` implementation: when it is refused, and that any number can live side by side."""

import pytest
import torch

from kernels import compiled, registry, triton_support
from kernels.op import problem
from tests.kernels.checks import DEVICE, assert_within, expected, inputs_of

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

CASE = problem("copy", "fp32", N=7)


def test_cpu_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    reason = compiled.compile_unsupported(CASE, torch.device("cpu"))
    assert reason == (
        "torch.compile needs a C++ compiler on the CPU and finds no 'no-such-compiler'; "
        "install one or set CXX."
    )


def test_cpu_with_a_compiler_is_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "sh")
    assert compiled.compile_unsupported(CASE, torch.device("cpu")) is None


def test_interpreted_kernels_cannot_be_compiled_into_gpu_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(triton_support, "INTERPRETED", True)
    reason = compiled.compile_unsupported(CASE, torch.device("cuda"))
    assert reason is not None
    assert "TRITON_INTERPRET" in reason


# Dynamo gives up on a code object after eight specialisations; its products need no C++ compiler.
def test_twelve_problems_can_be_prepared_before_the_first_runs() -> None:
    op = registry.load("gemm")
    impl = op.impl("compile")
    prepared = []
    for M in range(20, 32):
        case = problem("gemm", "fp32", M=M, N=17, K=9)
        inputs = inputs_of(op, case)
        prepared.append((case, inputs, impl.prepare(case, inputs)))
    assert len(prepared) == 12
    with torch.compiler.set_stance("fail_on_recompile"):
        for case, inputs, run in prepared:
            assert_within(run(), expected(op, case, inputs), op.tolerance(case))


def test_backward_run_is_the_backward_pass_alone() -> None:
    calls = []

    def square(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return x.square()

    x = torch.arange(3.0, device=DEVICE)
    run = compiled.prepare_eager(square, (x,), torch.ones_like(x))
    for _ in range(3):
        (dx,) = run()
        assert torch.equal(dx, 2 * x)
    assert len(calls) == 1
    assert not x.requires_grad
