"""Metric keys: which chart a case is drawn in, and where on its axis.

    gemm.bf16.forward/median_us.N4096.K14336.triton      at step M
    `---- section --'`- measure '`-- line --' `impl'

    adamw.bf16.forward/median_us.N33554432.torch         at step 0

MLflow makes a section of everything before the last slash and a chart of each key in it, so all
sizes and implementations of an op stand in one section, and each chart has one line per run. A size
that stands alone is in the key, at step 0, of which MLflow draws a bar per run: a line of one point
says nothing.
"""

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.cases import Case

MAX_NAME = 180
"""Of the only part of a key after its section."""
MAX_SECTION = 90
MAX_LINE = 80
MAX_IMPL = 40
"""With the longest measure and a mark of uniqueness a key stays below MLflow's 250 characters."""
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_.:-]")
"""MLflow also takes spaces and slashes; a slash would begin another section."""
MEASURES = ("median_us", "tflops", "gbps", "pct_roof", "joules", "sustained_us")
"""What there may be of a case, in the order in which people ask for it."""


class Placeable(Protocol):
    """What a place follows from: a row of results has it, and a case that is only planned."""

    @property
    def case_id(self) -> str:
        """Unique."""

    @property
    def group(self) -> str:
        """The op with its type and mode."""

    @property
    def axes(self) -> tuple[tuple[str, int], ...]:
        """Its sizes."""

    @property
    def impl(self) -> str:
        """The implementation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCase:
    """A case that may have no result yet."""

    case_id: str
    group: str
    axes: tuple[tuple[str, int], ...]
    impl: str

    @classmethod
    def of(cls, case: Case) -> "PlannedCase":
        """What its place follows from."""
        return cls(case_id=case.id, group=case.group, axes=case.problem.axes, impl=case.impl)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the numbers of one case go."""

    section: str
    line: str
    """The sizes that are the same along the axis and differ between charts; may be empty."""
    impl: str
    step: int

    def key(self, measure: str) -> str:
        """The metric key of one of the case's numbers."""
        name = ".".join(part for part in (measure, self.line, self.impl) if part)
        return f"{self.section}/{name}"


def clean(text: str, max_length: int) -> str:
    """The text in the letters of a metric key, cut with a checksum where it is too long.

    A leading dot could make the key a path that leads elsewhere, which MLflow refuses.
    """
    allowed = _NOT_ALLOWED.sub("_", text).lstrip(".") or "_"
    if len(allowed) <= max_length:
        return allowed
    return f"{allowed[: max_length - 9]}.{zlib.crc32(text.encode()):08x}"


def _without(axes: Iterable[tuple[str, int]], left_out: str) -> tuple[tuple[str, int], ...]:
    return tuple((name, size) for name, size in axes if name != left_out)


def swept_axis(shapes: Sequence[tuple[tuple[str, int], ...]]) -> str:
    """The axis that draws these shapes in the fewest lines; the first of equals.

    An empty string when the shapes have no axes.
    """
    names = list(dict.fromkeys(name for shape in shapes for name, _ in shape))
    varying = [name for name in names if len({dict(shape).get(name) for shape in shapes}) > 1]
    candidates = varying or names[:1]
    return min(
        candidates,
        key=lambda name: len({_without(shape, name) for shape in shapes}),
        default="",
    )


def _constant(shapes: Sequence[tuple[tuple[str, int], ...]]) -> frozenset[tuple[str, int]]:
    first, *others = (frozenset(shape) for shape in shapes)
    return first.intersection(*others)


def _line(axes: Iterable[tuple[str, int]]) -> str:
    text = ".".join(f"{name}{size}" for name, size in axes)
    return clean(text, MAX_LINE) if text else ""


def places(rows: Sequence[Placeable]) -> dict[str, Place]:
    """The place of every case by its id; no two cases share a key and a step.

    It depends on which cases there are, so of a run that grows they are all that it will have.
    """
    shapes_of_group: dict[str, list[tuple[tuple[str, int], ...]]] = {}
    for row in rows:
        shapes_of_group.setdefault(row.group, []).append(row.axes)
    sweeps = {
        group: (swept_axis(shapes), _constant(shapes)) for group, shapes in shapes_of_group.items()
    }
    # How many sizes there are along the axis when all others are held.
    steps: dict[tuple[str, frozenset[tuple[str, int]]], set[int]] = {}
    for row in rows:
        axis, _ = sweeps[row.group]
        held = frozenset(_without(row.axes, axis))
        steps.setdefault((row.group, held), set()).add(dict(row.axes).get(axis, 0))
    found: dict[str, Place] = {}
    taken: set[Place] = set()
    for row in rows:
        axis, constant = sweeps[row.group]
        others = _without(row.axes, axis)
        if len(steps[row.group, frozenset(others)]) == 1:
            line, step = _line(row.axes), 0
        else:
            line = _line(one for one in others if one not in constant)
            step = dict(row.axes).get(axis, 0)
        section, impl = clean(row.group, MAX_SECTION), clean(row.impl, MAX_IMPL)
        place, number = Place(section, line, impl, step), 1
        while place in taken:
            # Two names that differ only in letters MLflow does not take.
            number += 1
            place = Place(section, line, f"{impl}.{number}", step)
        taken.add(place)
        found[row.case_id] = place
    return found
