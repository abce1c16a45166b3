"""Finds every op file in this package by its name; importing one is left to whoever needs it."""

import ast
import importlib
import pkgutil
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kernels.op import Cost, Mode, Op, Problem

if TYPE_CHECKING:
    from kernels.tuning import Tunable

_WORDS = {
    "compiled",
    "dtypes",
    "eight_bit",
    "fingerprint",
    "gated",
    "layer",
    "moe_rows",
    "op",
    "paged",
    "registry",
    "residual_norm",
    "resources",
    "routing",
    "row_norm",
    "stream",
    "tiles",
    "transfer",
    "triton_support",
    "tuning",
}
"""Files of this package that describe or support ops and are none themselves."""


@cache
def names() -> tuple[str, ...]:
    """The names of all ops, sorted, without importing any."""
    found = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return tuple(sorted(name for name in found if name not in _WORDS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What a problem of an op must have, and what its file says of it."""

    axes: tuple[str, ...]
    modes: tuple[Mode, ...]
    dtypes: tuple[str, ...]
    variants: tuple[str, ...]
    formula: str
    counted: str
    """The paragraph of its docstring on FLOPs and bytes, on one line."""
    source: str
    is_block: bool


# What `dtypes.ALL` is, for a reader that does not import torch.
_ALL_DTYPES = ("bf16", "fp16", "fp32")


@cache
def outline(name: str) -> Outline:
    """The op's description, read from the text of its file.

    A configuration is checked with this before anything runs, and importing the op would cost
    seconds for torch. A test holds it against the op itself.
    """
    folder = Path(__file__).parent
    path = folder / name / "__init__.py"
    text = (path if path.exists() else folder / f"{name}.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    (call,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Op"
    )
    values = {keyword.arg: keyword.value for keyword in call.keywords}
    modes = values["modes"]
    assert isinstance(modes, ast.Tuple)
    is_all = isinstance(values["dtypes"], ast.Attribute)
    return Outline(
        axes=ast.literal_eval(values["axes"]),
        modes=tuple(Mode[mode.attr] for mode in modes.elts if isinstance(mode, ast.Attribute)),
        dtypes=_ALL_DTYPES if is_all else ast.literal_eval(values["dtypes"]),
        variants=ast.literal_eval(values["variants"]) if "variants" in values else ("",),
        formula=ast.literal_eval(values["formula"]),
        counted=_counted(name, ast.get_docstring(tree) or ""),
        source=ast.literal_eval(values["source"]),
        is_block="is_block" in values,
    )


def _counted(name: str, docstring: str) -> str:
    """What stands between `Counted:` and `Source:` in the head of an op's file."""
    found = re.search(r"^Counted: (.*?)^Source: ", docstring, re.DOTALL | re.MULTILINE)
    assert found is not None, f"the head of kernels/{name} has no `Counted:` before `Source:`"
    counted = " ".join(found[1].split())
    return counted[0].upper() + counted[1:]


@cache
def load(name: str) -> Op:
    """The op of that name; imports torch and triton. Raises KeyError for an unknown name."""
    if name not in names():
        raise KeyError(name)
    op = getattr(importlib.import_module(f"kernels.{name}"), "OP", None)
    assert isinstance(op, Op), (
        f"kernels/{name} has no `OP = Op(...)`; a file that describes no operation is named in "
        "_WORDS of kernels/registry.py"
    )
    assert op.name == name, f"kernels/{name}.py describes an op called {op.name!r}"
    return op


def cost(problem: Problem) -> Cost:
    """The least work of a problem, as its op counts it; imports the op."""
    return load(problem.op).cost(problem)


def tunables(name: str) -> "tuple[Tunable, ...]":
    """The kernels of the op whose configuration is worth a search; imports torch and triton."""
    load(name)
    found: tuple[Tunable, ...] = getattr(sys.modules[f"kernels.{name}"], "TUNABLES", ())
    return found
