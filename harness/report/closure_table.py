"""Whole layers against the sum of their ops, for the terminal and as rows for other reports."""

from collections.abc import Sequence
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.closure import FASTEST, TARGET, Closure, complete, headlines
from harness.projection import Interval
from harness.units import duration, significant

TITLE = "Layers against their ops"
NOTE = (
    "A layer measured whole, and the sum of its ops measured one by one, with 95 % intervals. "
    "Above zero the sum is too long, as where data that an op finds flushed from the cache is "
    "still there in the layer, or where a compiler fuses ops; below zero the layer has what no op "
    "counts, as copies between them and the host's own time. Hot ops had their data in the cache."
)
HEADS = ("layer", "part", "by", "ops' cache", "layer takes", "ops take", "error", "95 % interval")
NUM_TEXTS = 4
OP_HEADS = ("op", "in the layer", "times", "together", "share")
MAX_OPS = 8
MAX_MISSING = 2


def _percent(share: float) -> str:
    sign = "+" if share >= 0 else "-"
    return f"{sign}{significant(100 * abs(share), 2)} %"


def error_text(error: Interval) -> str:
    """`+4.1 % (+3.2 % to +5.1 %)`."""
    return f"{_percent(error.value)} ({_percent(error.low)} to {_percent(error.high)})"


def _missing_text(closure: Closure) -> str:
    missing = closure.missing
    more = f" and {len(missing) - MAX_MISSING} more" if len(missing) > MAX_MISSING else ""
    return f"no time of {', '.join(missing[:MAX_MISSING])}{more}"


def rows(closures: Sequence[Closure]) -> tuple[tuple[str, ...], ...]:
    """A row for each closure, in the order of HEADS.

    Where a layer has one implementation alone, that is the fastest, and told once.
    """
    names: dict[str, set[str]] = {}
    for one in closures:
        names.setdefault(one.layer, set()).add(one.implementation)
    found = []
    for one in closures:
        if one.implementation != FASTEST and len(names[one.layer]) == 2:
            continue
        texts = (one.layer, one.part, one.implementation, one.cache, duration(one.layer_s.value))
        if one.sum_s is None or one.error is None:
            found.append((*texts, "", "", _missing_text(one)))
            continue
        interval = f"{_percent(one.error.low)} to {_percent(one.error.high)}"
        found.append((*texts, duration(one.sum_s.value), _percent(one.error.value), interval))
    return tuple(found)


def longest_ops(closures: Sequence[Closure]) -> tuple[tuple[str, ...], ...]:
    """The ops that make most of the first sum a projection would make, in the order of OP_HEADS."""
    first = next(iter(complete(headlines(closures))), None)
    if first is None or first.sum_s is None:
        return ()
    total_s = first.sum_s.value
    timed = [(op, op.seconds.value) for op in first.ops if op.seconds is not None]
    timed.sort(key=lambda pair: -pair[1])
    return tuple(
        (
            op.problem_id,
            op.role,
            str(op.count),
            duration(seconds),
            f"{significant(100 * seconds / total_s, 2)} %",
        )
        for op, seconds in timed[:MAX_OPS]
    )


def verdict(closures: Sequence[Closure]) -> str:
    """One sentence: how far the sums that a projection makes are off, at worst."""
    held = complete(headlines(closures))
    if not held:
        return "No layer can be held against its ops: each sum lacks some."
    worst = max(held, key=lambda one: abs(one.error.value) if one.error else 0.0)
    assert worst.error is not None
    inside = sum(abs(one.error.value) <= TARGET for one in held if one.error is not None)
    return (
        f"The fastest of each op, {worst.cache}: {inside} of {len(held)} sums within "
        f"{100 * TARGET:g} % of the layer, which is the aim on a GPU; farthest off is "
        f"{worst.layer} {worst.part}, {error_text(worst.error)}."
    )


def closure_view(closures: Sequence[Closure]) -> RenderableType:
    """A table for each layer, and the verdict."""
    by_layer: dict[str, list[Closure]] = {}
    for one in closures:
        by_layer.setdefault(one.layer, []).append(one)
    parts: list[RenderableType] = [Text(f"{TITLE}:", style="bold")]
    for layer, found in by_layer.items():
        table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
        for place, head in enumerate(HEADS[1:], start=1):
            is_text = place < NUM_TEXTS
            justify: Literal["left", "right"] = "left" if is_text else "right"
            table.add_column(head, justify=justify, no_wrap=is_text, overflow="fold")
        for row in rows(found):
            table.add_row(*map(Text, row[1:]))
        parts += [Text(layer.replace("[", " ").replace("]", "")), table, Text("")]
    return Group(*parts, Text(verdict(closures), style="bold"))
