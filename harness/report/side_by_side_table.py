"""Projections side by side for the terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from harness.report.side_by_side_rows import (
    AGAINST_HEADS,
    BEST_MARK,
    HEADS,
    NOTE,
    against_rows,
    best_columns,
    best_sentence,
    cells,
    confidence_text,
    price_sentences,
)
from harness.side_by_side import Pair, SideBySide

WIDTHS = (22, 9, 10, 10, 7, 10, 12)
"""Of HEADS but for the cluster, which has a line with its plan; each has a place for the mark."""
AGAINST_WIDTHS = (22, 13, 15)


def side_by_side_view(compared: SideBySide) -> RenderableType:
    """For each model a line of numbers and one of the plan for each cluster, and what is told.

    Narrow enough for 80 columns, since a wider table wraps every number.
    """
    parts: list[RenderableType] = []
    for model in compared.models:
        parts += [*_model(model, compared.of(model)), Text("")]
    parts += [Text(sentence, style="dim") for sentence in (NOTE, *price_sentences(compared))]
    return Group(*parts)


def _model(model: str, pairs: Sequence[Pair]) -> list[RenderableType]:
    parts: list[RenderableType] = [
        Text(best_sentence(model, pairs), style="bold"),
        _heads(),
    ]
    best = best_columns(pairs)
    for pair in pairs:
        if pair.outcome is None:
            parts.append(Text(f"{pair.cluster}  not projected", style="yellow"))
            parts.append(Padding(Text(pair.reason), (0, 0, 0, 2)))
            continue
        parts.append(Text.assemble((pair.cluster, "bold cyan"), f"  {pair.outcome.plan}"))
        parts.append(_line(cells(pair.outcome), best[pair.cluster]))
    rows = against_rows(pairs)
    if len(rows) > 1:
        parts += [Text(""), _columns(AGAINST_HEADS, style="dim")]
        parts += [_columns(row) for row in rows]
    known = [(pair.cluster, pair.outcome) for pair in pairs if pair.outcome is not None]
    if known:
        parts += [Text(""), Text("What each rests on:", style="dim")]
    # Clusters that rest on the same say so in one line.
    said: dict[str, list[str]] = {}
    for cluster, outcome in known:
        said.setdefault(confidence_text(outcome), []).append(cluster)
    parts += [
        Padding(Text(f"{', '.join(names)}: {text}"), (0, 0, 0, 2)) for text, names in said.items()
    ]
    return parts


def _heads() -> Text:
    words = (f"{head} ".rjust(width) for head, width in zip(HEADS[1:], WIDTHS, strict=True))
    return Text("".join(words).rstrip(), style="dim")


def _line(words: Sequence[str], best: frozenset[int]) -> Text:
    line = Text()
    for place, (word, width) in enumerate(zip(words, WIDTHS, strict=True), 1):
        is_best = place in best
        mark = BEST_MARK if is_best else " "
        line.append((word + mark).rjust(width), style="bold green" if is_best else "")
    line.rstrip()
    return line


def _columns(words: Sequence[str], style: str = "") -> Text:
    aligned = [word.ljust(width) for word, width in zip(words, AGAINST_WIDTHS, strict=False)]
    return Text("".join(aligned) + words[-1], style=style)
