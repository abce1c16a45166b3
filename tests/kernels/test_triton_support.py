"""Where Triton cannot run, the reason is said; what a kernel cannot read is refused."""

import pytest
import torch

from kernels import triton_support

CPU = torch.device("cpu")


def test_cpu_without_the_interpreter_has_no_back_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_support, "INTERPRETED", False)
    reason = triton_support.unsupported(CPU)
    assert reason is not None
    assert reason.startswith("Triton has no CPU back-end; TRITON_INTERPRET=1")


def test_interpreter_runs_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_support, "IS_INSTALLED", True)
    monkeypatch.setattr(triton_support, "INTERPRETED", True)
    assert triton_support.unsupported(CPU) is None


def test_missing_triton_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_support, "IS_INSTALLED", False)
    assert triton_support.unsupported(CPU) == (
        "Triton is not installed; `pip install triton` (published for Linux only)."
    )


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has a driver")
def test_missing_driver_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_support, "INTERPRETED", False)
    reason = triton_support.unsupported(torch.device("cuda"))
    assert reason is not None
    assert reason.startswith("Triton finds no driver for cuda: ")


def test_bf16_products_are_refused_under_the_interpreter_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(triton_support, "INTERPRETED", True)
    reason = triton_support.bf16_dot_unsupported("bf16")
    assert reason is not None
    assert "wrongly" in reason
    assert triton_support.bf16_dot_unsupported("fp16") is None
    monkeypatch.setattr(triton_support, "INTERPRETED", False)
    assert triton_support.bf16_dot_unsupported("bf16") is None


def test_strided_tensor_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"op: x of shape \(3, 2\) has strides \(1, 3\).*contig"):
        triton_support.require_contiguous("op", x=torch.zeros(2, 3).T)


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"torch.float64 is not supported; use bfloat16"):
        triton_support.require_dtype("op", torch.float64)
    with pytest.raises(ValueError, match=r"w is torch.float16, but must be torch.float32"):
        triton_support.require_dtype("op", torch.float32, x=torch.zeros(1), w=torch.zeros(1).half())


@pytest.mark.parametrize(
    ("number", "power"), [(1, 1), (2, 2), (3, 4), (123, 128), (4096, 4096), (4097, 8192)]
)
def test_next_power_of_2(number: int, power: int) -> None:
    assert triton_support.next_power_of_2(number) == power


def test_op_files_load_without_triton(tmp_path: object) -> None:
    import subprocess
    import sys
    from pathlib import Path

    script = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from kernels import registry\n"
        "from kernels.op import problem\n"
        "ops = [registry.load(name) for name in registry.names()]\n"
        "case = problem('copy', 'fp32', N=7)\n"
        "copy = registry.load('copy')\n"
        "inputs = copy.make_inputs(case, torch.Generator())\n"
        "assert torch.equal(copy.impl('torch').prepare(case, inputs)()[0], inputs['x'])\n"
        "print(copy.impl('triton').unsupported(case, torch.device('cpu')))\n"
    )
    root = Path(triton_support.__file__).parents[1]
    completed = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.startswith("Triton is not installed")
