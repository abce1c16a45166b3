"""A comparison of chips as Markdown, for a pull request, a wiki or MLflow's description."""

from collections.abc import Sequence

from harness.comparison import ChipComparison, RunPair
from harness.report.comparison_rows import (
    BAR_HEADS,
    GROUP_HEADS,
    MEAN_HEADS,
    PROJECTION_HEADS,
    RUN_HEADS,
    bar_rows,
    closure_sentences,
    difference_sentence,
    fewer_sentence,
    forced_sentence,
    group_rows,
    headlines,
    mean_rows,
    missing_sentences,
    projection_notes,
    projection_rows,
    projection_title,
    run_rows,
    warning_sentences,
    waterfall_notes,
)


def render(comparison: ChipComparison) -> str:
    """The page; its first line is the verdict."""
    lines = [f"**{sentence}**" for sentence in headlines(comparison)]
    for pair in comparison.pairs:
        lines += [difference_sentence(pair, one) for one in pair.waterfalls]
    parts = ["\n\n".join(lines), _table(RUN_HEADS, run_rows(comparison))]
    warnings = warning_sentences(comparison)
    if warnings:
        parts.append(_bullets(warnings))
    for pair in comparison.pairs:
        parts += _pair(comparison, pair)
    if comparison.projections:
        parts.append(f"## {projection_title(comparison)}")
        rows = projection_rows(comparison)
        parts += [_table(PROJECTION_HEADS, rows)] if rows else []
        parts.append(_bullets(projection_notes(comparison)))
    return "\n\n".join(part for part in parts if part) + "\n"


def _pair(comparison: ChipComparison, pair: RunPair) -> list[str]:
    parts = [
        f"## {comparison.run(pair.label).title} against {comparison.reference.title}",
        _table(MEAN_HEADS, mean_rows(pair)),
    ]
    for waterfall in pair.waterfalls:
        title = waterfall.title[0].upper() + waterfall.title[1:]
        parts += [
            f"### {title}",
            _table(BAR_HEADS, bar_rows(waterfall)),
            _bullets(waterfall_notes(pair.label, waterfall)),
        ]
    parts += [_bullets(pair.no_waterfall), "### Op groups", _table(GROUP_HEADS, group_rows(pair))]
    told = [text for text in (forced_sentence(pair), fewer_sentence(pair)) if text]
    told += [*closure_sentences(pair), *missing_sentences(comparison, pair)]
    parts.append(_bullets(told))
    return parts


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_plain(word) for word in line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Without what would end a cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)
