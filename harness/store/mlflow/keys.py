"""Metric keys: which chart a case is drawn in, and where on its axis.

    gemm.bf16.forward.N4096.K14336/median_us.triton   at step M
    `-------- section ------------'`-- measure --' `impl'

MLflow makes a section of everything before the last slash and a chart of each key in it, so the
implementations of one problem stand side by side, and each chart has one line per run.
"""

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.results import ResultRow

MAX_SECTION = 180
MAX_IMPL = 40
"""With the longest measure and a mark of uniqueness a key stays below MLflow's 250 characters."""
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_.:-]")
"""MLflow also takes spaces and slashes; a slash would begin another section."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the numbers of one case go."""

    section: str
    impl: str
    step: int

    def key(self, measure: str) -> str:
        """The metric key of one of the case's numbers."""
        return f"{self.section}/{measure}.{self.impl}"


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


def places(rows: Sequence[ResultRow]) -> dict[str, Place]:
    """The place of every case by its id; no two cases share a key and a step."""
    shapes_of_group: dict[str, list[tuple[tuple[str, int], ...]]] = {}
    for row in rows:
        shapes_of_group.setdefault(row.group, []).append(row.axes)
    sweeps = {
        group: (swept_axis(shapes), _constant(shapes)) for group, shapes in shapes_of_group.items()
    }
    found: dict[str, Place] = {}
    taken: set[Place] = set()
    for row in rows:
        axis, constant = sweeps[row.group]
        lines = [
            f"{name}{size}"
            for name, size in row.axes
            if name != axis and (name, size) not in constant
        ]
        section = clean(".".join([row.group, *lines]), MAX_SECTION)
        impl, step = clean(row.impl, MAX_IMPL), dict(row.axes).get(axis, 0)
        place, number = Place(section, impl, step), 1
        while place in taken:
            # Two names that differ only in letters MLflow does not take.
            number += 1
            place = Place(section, f"{impl}.{number}", step)
        taken.add(place)
        found[row.case_id] = place
    return found
