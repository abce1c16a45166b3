import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from kernels.fingerprint import ingredients
from kernels.resources import Resources, described_for, sealed, unchanged
from kernels.triton_support import AotKernel

pytest.importorskip("triton")

SHARED = """
from kernels.triton_support import tl, triton

@triton.jit
def half(x):
    return x * 0.5
"""
KERNEL = """
from kernels.triton_support import tl, triton

FACTOR = tl.constexpr(2)

def store(x):
    return x

@triton.jit
def _times(x):
    return x * FACTOR

@triton.jit
def _kernel(x_ptr, N, BLOCK: tl.constexpr, OTHER: tl.constexpr = 0):
    offsets = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets, mask=offsets < N)
    tl.store(x_ptr + offsets, _times(shared.half(x)), mask=offsets < N)
"""


def _module(folder: Path, name: str, text: str) -> ModuleType:
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"kernels.{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _described(tmp_path: Path, kernel: str = KERNEL, shared: str = SHARED) -> AotKernel:
    # A folder for each, since Python keeps the source of a file that it has read.
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    folder.mkdir()
    module = _module(folder, "made_up", kernel)
    module.shared = _module(folder, "shared", shared)  # type: ignore[attr-defined]
    return AotKernel(
        label="made up",
        kernel=module._kernel,
        signature={"x_ptr": "*fp32:16", "N": "i32", "BLOCK": "constexpr", "OTHER": "constexpr"},
        constexprs={"BLOCK": 64, "OTHER": 0},
        num_warps=4,
        num_stages=1,
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("mask=offsets < N)\n    tl.store", "mask=offsets <= N)\n    tl.store"),
        ("x * FACTOR", "x + FACTOR"),
        ("constexpr(2)", "constexpr(3)"),
        ("OTHER: tl.constexpr = 0", "OTHER: tl.constexpr = 1"),
        ("@triton.jit\ndef _times", "@triton.jit(noinline=True)\ndef _times"),
    ],
)
def test_other_code_of_a_kernel_or_of_what_it_reaches_is_another_kernel(
    before: str, after: str, tmp_path: Path
) -> None:
    assert before in KERNEL
    changed = _described(tmp_path, KERNEL.replace(before, after))
    assert ingredients(changed) != ingredients(_described(tmp_path))


def test_other_code_in_a_file_that_is_named_is_another_kernel(tmp_path: Path) -> None:
    changed = _described(tmp_path, shared=SHARED.replace("0.5", "0.25"))
    assert ingredients(changed) != ingredients(_described(tmp_path))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("FACTOR = tl", "\n\n# Moved down.\nFACTOR = tl"),
        ("    offsets = ", "    # Of one block.\n\n    offsets = "),
        ("tl.arange(0, BLOCK)", "tl.arange(\n        0, BLOCK\n    )"),
        ("def store(x):\n    return x", "def store(x):\n    return 2 * x"),
    ],
)
def test_comments_layout_and_what_is_not_reached_leave_a_kernel_as_it_was(
    before: str, after: str, tmp_path: Path
) -> None:
    assert before in KERNEL
    changed = _described(tmp_path, KERNEL.replace(before, after))
    assert ingredients(changed) == ingredients(_described(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_warps": 8},
        {"num_stages": 2},
        {"small": ("x_ptr",)},
        {"label": "another"},
        {"constexprs": {"BLOCK": 128, "OTHER": 0}},
        {"signature": {"x_ptr": "*fp32", "N": "i32", "BLOCK": "constexpr", "OTHER": "constexpr"}},
    ],
)
def test_another_launch_is_another_kernel(changes: dict, tmp_path: Path) -> None:
    described = _described(tmp_path)
    assert ingredients(replace(described, **changes)) != ingredients(described)


def _rows(op: str, target: str) -> list[Resources]:
    return [
        sealed(
            Resources(
                op=op, kernel=one.label, target=target, num_warps=one.num_warps,
                num_stages=one.num_stages, registers_per_thread=16, spilled_bytes_per_thread=0,
                shared_bytes=0, shared_limit_bytes=1024, tensor_memory_columns=0, narrow_offsets="",
            ),
            one,
        )
        for one in described_for(op, target)
    ]  # fmt: skip


def test_what_is_in_the_table_as_it_is_need_not_be_compiled_but_for_one_kernel_of_an_op() -> None:
    targets = ["sm_90", "gfx942"]
    rows = {(op, target): _rows(op, target) for op in ("add", "copy") for target in targets}
    table = [row for some in rows.values() for row in some]
    known = unchanged(table, ["add", "copy"], targets)
    again = [rows["add", "sm_90"][0], rows["copy", "gfx942"][0]]
    assert sorted(map(str, known.values())) == sorted(str(row) for row in table if row not in again)


def test_a_row_that_was_edited_or_is_of_another_compiler_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = _rows("softmax", "sm_90")
    edited = [replace(row, registers_per_thread=15) for row in rows]
    assert unchanged(rows, ["softmax"], ["sm_90"])
    assert not unchanged(edited, ["softmax"], ["sm_90"])
    monkeypatch.setattr("triton.__version__", "9.9")
    assert not unchanged(rows, ["softmax"], ["sm_90"])
