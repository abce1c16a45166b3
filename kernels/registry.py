"""Finds every op file in this package by its name; importing one is left to whoever needs it."""

import importlib
import pkgutil
from functools import cache
from pathlib import Path

from kernels.op import Op

_WORDS = {"op", "registry", "dtypes", "compiled", "triton_support"}
"""Files of this package that describe or support ops and are none themselves."""


@cache
def names() -> tuple[str, ...]:
    """The names of all ops, sorted, without importing any."""
    found = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return tuple(sorted(name for name in found if name not in _WORDS))


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
