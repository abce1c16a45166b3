"""Finds every op file in this package by its name; importing one is left to whoever needs it."""

import ast
import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kernels.op import Mode, Op

_WORDS = {
    "op",
    "registry",
    "dtypes",
    "compiled",
    "tuning",
    "tiles",
    "triton_support",
    "resources",
    "row_norm",
    "gated",
}
"""Files of this package that describe or support ops and are none themselves."""


@cache
def names() -> tuple[str, ...]:
    """The names of all ops, sorted, without importing any."""
    found = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return tuple(sorted(name for name in found if name not in _WORDS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What a problem of an op must have."""

    axes: tuple[str, ...]
    modes: tuple[Mode, ...]
    dtypes: tuple[str, ...]
    variants: tuple[str, ...] = ("",)


# What `dtypes.ALL` is, for a reader that does not import torch.
_ALL_DTYPES = ("bf16", "fp16", "fp32")


@cache
def outline(name: str) -> Outline:
    """The op's axes, modes, types and variants, read from the text of its description.

    A configuration is checked with this before anything runs, and importing the op would cost
    seconds for torch. A test holds it against the op itself.
    """
    folder = Path(__file__).parent
    path = folder / name / "__init__.py"
    text = (path if path.exists() else folder / f"{name}.py").read_text(encoding="utf-8")
    (call,) = (
        node
        for node in ast.walk(ast.parse(text))
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
    )


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
