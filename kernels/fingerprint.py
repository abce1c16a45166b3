"""A short text that changes whenever what a kernel is compiled from does.

Compiling every kernel for every target takes minutes, and reading what they are made of does not.
"""

import hashlib
import inspect
import io
import tokenize
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from types import ModuleType
from typing import Any

from kernels.triton_support import AotKernel, tl

_VALUES = (bool, int, float, str, tuple)

_LAYOUT = (tokenize.COMMENT, tokenize.NL)


def fingerprint(parts: Iterable[object]) -> str:
    """16 hexadecimal digits: of 2000 kernels two are alike in one case of 10^13."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part!r}\n".encode())
    return digest.hexdigest()[:16]


def ingredients(description: AotKernel) -> tuple[object, ...]:
    """All that decides what a kernel is compiled to, the target and the compiler apart.

    That is its code, the code of the kernels that it calls and the constants that they read, its
    arguments, and how it is launched. Comments, blank lines and the place in the file are not.
    """
    return (
        description.label,
        code_of(description.kernel),
        tuple(description.signature.items()),
        tuple(description.constexprs.items()),
        description.num_warps,
        description.num_stages,
        description.small,
    )


@cache
def code_of(kernel: Any) -> str:
    """The fingerprint of a function decorated with `triton.jit` and of all that it reaches."""
    return fingerprint(_reached(kernel, set()))


def without_comments(function: Callable[..., object]) -> str:
    """The source of a function as the words that Python reads, in one line."""
    lines = io.StringIO(inspect.cleandoc("\n" + inspect.getsource(function)) + "\n")
    return " ".join(
        tokenize.tok_name[token.type] if not token.string.strip() else token.string
        for token in tokenize.generate_tokens(lines.readline)
        if token.type not in _LAYOUT
    )


def _is_kernel(value: object) -> bool:
    # `triton.jit` and its interpreter keep the function there. Triton's own functions are part of
    # its version.
    module = getattr(getattr(value, "fn", None), "__module__", "")
    return bool(module) and not module.startswith("triton")


def _reached(kernel: Any, seen: set[Any]) -> Iterator[object]:
    function = kernel.fn
    if function in seen:
        return
    seen.add(function)
    yield without_comments(function)
    yield function.__defaults__
    variables = inspect.getclosurevars(function)
    used: dict[str, object] = {**variables.globals, **variables.nonlocals}
    for module in [value for value in used.values() if isinstance(value, ModuleType)]:
        if module.__name__.startswith("kernels"):
            # As in `tiles.load(...)`.
            names = [name for name in function.__code__.co_names if hasattr(module, name)]
            used |= {f"{module.__name__}.{name}": getattr(module, name) for name in names}
    for name, value in sorted(used.items()):
        if _is_kernel(value):
            yield name
            yield from _reached(value, seen)
        # Triton lets a kernel read nothing else; a host function of the name of a method is here
        # by that name alone.
        elif isinstance(value, (tl.constexpr, *_VALUES)):
            yield name, value
