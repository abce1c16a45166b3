"""Stand-ins for the vendors' tools."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

Tool = Callable[..., Path]
VISIBLE = (
    "ASCEND_RT_VISIBLE_DEVICES",
    "CUDA_VISIBLE_DEVICES",
    "HABANA_VISIBLE_MODULES",
    "HIP_VISIBLE_DEVICES",
    "MACA_VISIBLE_DEVICES",
    "MLU_VISIBLE_DEVICES",
    "MTHREADS_VISIBLE_DEVICES",
    "MUSA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
)


@pytest.fixture(autouse=True)
def _all_chips_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VISIBLE:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Puts a program of that name first on PATH; it answers by its arguments, and notes them.

    The path that is returned is of the notes: a line for each call.
    """
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def made(name: str, answers: dict[str, str] | str, exit_code: int = 0) -> Path:
        notes = folder / f"{name}.calls"
        cases = {"*": answers} if isinstance(answers, str) else answers
        lines = ["#!/bin/sh", f'echo "$*" >> {notes}', 'case "$*" in']
        for index, (arguments, text) in enumerate(cases.items()):
            answer = folder / f"{name}.{index}"
            answer.write_text(text, encoding="utf-8")
            pattern = arguments if arguments == "*" else f'"{arguments}"'
            lines.append(f"{pattern}) cat {answer} ;;")
        lines += ["esac", f"exit {exit_code}"]
        program = folder / name
        program.write_text("\n".join(lines) + "\n", encoding="utf-8")
        program.chmod(0o755)
        return notes

    return made
