"""The protocol of a case: its parts tell what was done, and one hash whether it was the same."""

import dis
import hashlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from types import CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import NamedTuple

from harness.codec import to_json
from harness.measure.footprint import num_wanted_sets
from harness.measure.inputs import tolerances
from harness.measure.policy import MeasurePolicy
from kernels.op import ROW_FLOOR, Op, Problem

DIGITS = 12
"""Hexadecimal digits of the hash: two of a million protocols share one with probability 0.002."""

NOT_RULES = (
    *("throttle_pause_s", "throttle_retries"),
    *("energy_s", "sustained_timeout_s", "case_timeout_s"),
)
"""Settings that no part names, since they change no sample that counts: what is done after samples
of a throttled chip, what is measured once the samples are taken, and what ends a case."""


def protocol_parts(
    op: Op, problem: Problem, policy: MeasurePolicy, timer: str
) -> tuple[tuple[str, str], ...]:
    """Name and value of everything that defines the work and the rules, for people to compare.

    What is too long to read is a short hash. The implementation and the chip are not among the
    parts, since they may differ between comparable results.
    """
    bounds = tolerances(op, problem, policy)
    definitions = (op.formula, *op.mutates, *op.fixed, *kept_definition(op))
    return (
        ("op", f"{problem.title} {_digest(*definitions)}"),
        ("sizes", problem.shape),
        ("dtype", problem.dtype),
        ("seed", str(policy.seed)),
        ("inputs", policy.inputs),
        (
            "tolerance",
            f"{max((one.relative_error for one in bounds), default=0.0):.3g} "
            f"{_digest(to_json(bounds), str(ROW_FLOOR))}",
        ),
        *rule_parts(policy, timer),
    )


def rule_parts(policy: MeasurePolicy, timer: str) -> tuple[tuple[str, str], ...]:
    """The parts that are the rules alone, whatever is measured by them."""
    return (
        ("cache", f"{policy.cache}, {num_wanted_sets(policy)} sets of inputs"),
        ("launch", policy.launch),
        (
            "warm-up",
            f"two windows of {policy.warmup_window} runs within {policy.warmup_tolerance:g}, or "
            f"{policy.warmup_timeout_s:g} s",
        ),
        (
            "stop rule",
            f"half-width {policy.relative_half_width:g}, {policy.min_samples} to "
            f"{policy.max_samples} samples, or {policy.timeout_s:g} s with "
            f"{policy.min_samples_at_timeout}",
        ),
        ("timer", timer),
    )


def protocol_hash(parts: tuple[tuple[str, str], ...]) -> str:
    """One short text for all parts: equal hashes mean equal work under equal rules."""
    return _digest(*(text for part in parts for text in part), digits=DIGITS)


def _digest(*texts: str, digits: int = 8) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:digits]


@lru_cache(maxsize=128)
def kept_definition(op: Op) -> list[str]:
    """Following an op takes 5 to 20 ms, and a suite has dozens of cases of one."""
    return definition(op)


def definition(op: Op) -> list[str]:
    """What defines an op's work, one text each: how inputs, reference and cost are computed.

    These three are followed through every function of `kernels` and every constant that they use,
    so that no op lists them. Kernels and what launches them are used by none of the three: a
    faster kernel does the same work. Dataclasses are followed through their fields and methods,
    other classes through their methods; other libraries are taken as they are.
    """
    found = _Found(texts=set(), functions=set())
    for part in (op.make_inputs, op.reference, op.cost):
        assert isinstance(part, FunctionType | MethodType)
        _follow(part.__qualname__, part, part.__module__, found)
    return sorted(found.texts)


class _Found(NamedTuple):
    """What was found so far."""

    texts: set[str]
    """`name = text`; a name may have several, as all lambdas of a module and all functions that
    one function returns share theirs."""
    functions: set[FunctionType]
    """Those that were followed, each by itself and not by its name."""


def _follow(name: str, value: object, home: str, found: _Found) -> None:
    """Adds what `value`, used in the module `home`, is made of."""
    value = getattr(value, "__wrapped__", value)  # What a cache stands before.
    if isinstance(value, FunctionType):
        is_ours = value.__module__ == home or value.__module__.startswith("kernels.")
        if is_ours and value not in found.functions:
            found.functions.add(value)
            source = inspect.getsource(value)
            found.texts.add(f"{value.__module__}.{value.__qualname__} = {source}")
            for used_name, used in _uses(value):
                _follow(used_name, used, value.__module__, found)
    elif isinstance(value, MethodType):
        _follow(name, value.__self__, home, found)
    elif is_dataclass(value) and not isinstance(value, type | Op):
        # What it is made of, and what its class does with that; a block is such a one.
        for field in fields(value):
            _follow(f"{name}.{field.name}", getattr(value, field.name), home, found)
        for each, function in vars(type(value)).items():
            if not each.startswith("__"):
                _follow(f"{type(value).__qualname__}.{each}", function, home, found)
    elif isinstance(value, type):
        if value.__module__.startswith("kernels."):
            # As a function with a gradient of its own.
            for each, function in vars(value).items():
                if isinstance(function, FunctionType | staticmethod) and each[:2] != "__":
                    _follow(f"{value.__qualname__}.{each}", function, value.__module__, found)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _follow(f"{name}[{key}]", item, home, found)
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            _follow(f"{name}[{index}]", item, home, found)
    elif not isinstance(value, ModuleType | MemberDescriptorType | Op) and not inspect.isbuiltin(
        value
    ):
        # An object's address would differ from run to run; numbers, texts and torch types have
        # none in their text.
        text = repr(value)
        assert " at 0x" not in text, f"{name} is used by the definition of an op: {text}"
        found.texts.add(f"{home}.{name} = {text}")


def _uses(function: FunctionType) -> Iterator[tuple[str, object]]:
    """Names and values of the globals and the enclosing variables that the function reads."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    # With the function's name: two wrappers of one kind enclose variables of the same names.
    yield from ((f"{function.__qualname__}.{name}", cell.cell_contents) for name, cell in cells)
    for code in _codes(function.__code__):
        for instruction in dis.get_instructions(code):
            name = instruction.argval
            if instruction.opname not in ("LOAD_GLOBAL", "LOAD_NAME"):
                continue
            value = function.__globals__.get(name)
            if isinstance(value, ModuleType) and value.__name__.startswith("kernels."):
                used = ((each, getattr(value, each, None)) for each in code.co_names)
                yield from ((f"{name}.{each}", item) for each, item in used if item is not None)
            elif value is not None:
                yield name, value


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of a function and of all that is defined inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
