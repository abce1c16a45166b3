"""A comparison of chips for the terminal, within 80 columns and the verdict first."""

from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.comparison import (
    ChipComparison,
    GroupComparison,
    MeanComparison,
    RunPair,
    Verdict,
    Waterfall,
)
from harness.report.comparison_rows import (
    case_verdict,
    closure_sentences,
    difference_sentence,
    fewer_sentence,
    forced_sentence,
    headline,
    heights,
    interval_text,
    missing_sentences,
    projection_notes,
    projection_rows,
    projection_title,
    ratio_text,
    signed,
    signed_percent,
    sorted_groups,
    warning_sentences,
    waterfall_notes,
)
from harness.units import duration

STYLES = {Verdict.FASTER: "green", Verdict.SLOWER: "red", Verdict.AMBIGUOUS: "yellow"}
BAR_WIDTH = 22
MAX_WARNINGS = 6
"""More would push the numbers off the screen; the other formats have all of them."""


def comparison_view(comparison: ChipComparison, has_cases: bool = False) -> RenderableType:
    """All of it; every case only where that is asked for."""
    parts: list[RenderableType] = []
    for pair in comparison.pairs:
        style = STYLES.get(pair.overall.verdict, "")
        parts.append(Text(headline(comparison, pair), style=f"bold {style}".strip()))
        parts += [Text(difference_sentence(pair, one)) for one in pair.waterfalls]
    parts += [Text(""), *_runs(comparison), Text("")]
    for pair in comparison.pairs:
        parts += _pair(comparison, pair, has_cases)
    if comparison.projections:
        parts += _projections(comparison)
    return Group(*parts)


def _runs(comparison: ChipComparison) -> list[RenderableType]:
    parts: list[RenderableType] = [
        Text(f"{run.label}: {run.chip or run.device}, {run.suite}, {run.run_id}")
        for run in comparison.runs
    ]
    warnings = warning_sentences(comparison)
    parts += [Text(text, style="yellow") for text in warnings[:MAX_WARNINGS]]
    if len(warnings) > MAX_WARNINGS:
        parts.append(Text(f"and {len(warnings) - MAX_WARNINGS} more warnings", style="yellow"))
    return parts


def _pair(comparison: ChipComparison, pair: RunPair, has_cases: bool) -> list[RenderableType]:
    parts: list[RenderableType] = [_groups(pair), Text("")]
    for waterfall in pair.waterfalls:
        parts += [*_waterfall(pair, waterfall), Text("")]
    parts += [Text(reason, style="dim") for reason in pair.no_waterfall]
    if has_cases or pair.different_protocol:
        parts += [_cases(pair), Text("")]
    told = [(forced_sentence(pair), "red"), (fewer_sentence(pair), "yellow")]
    parts += [Text(text, style=style) for text, style in told if text]
    sentences = [*closure_sentences(pair), *missing_sentences(comparison, pair)]
    parts += [Text(sentence) for sentence in sentences]
    if sentences:
        parts.append(Text(""))
    return parts


def _table(heads: tuple[str, ...]) -> Table:
    """Its first and last columns are text."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for place, head in enumerate(heads):
        is_text = place in (0, len(heads) - 1)
        justify: Literal["left", "right"] = "left" if is_text else "right"
        table.add_column(head, justify=justify, no_wrap=not is_text, overflow="fold")
    return table


def _groups(pair: RunPair) -> RenderableType:
    """A line for each phase and, below it, its groups: where the other chip is worst first."""
    table = _table((f"{pair.label} over A", "n", "speedup", "95 % interval", "of roof", "verdict"))
    means = {mean.phase: mean for mean in pair.means}
    for phase in dict.fromkeys(group.phase for group in pair.groups):
        mean = means.get(phase)
        name = Text(phase, style="bold cyan")
        if mean is None:
            table.add_row(name)
        else:
            table.add_row(name, *_numbers(mean), style="bold")
        for group in sorted_groups(pair):
            if group.phase != phase:
                continue
            table.add_row(f" {group.group}", *_numbers(group))
            told = _group_remark(pair, group)
            if told:
                table.add_row(Text(f"   {told}", style="dim"))
    return table


def _numbers(one: MeanComparison | GroupComparison) -> tuple[RenderableType, ...]:
    return (
        str(one.num_problems),
        ratio_text(one.speedup.value),
        interval_text(one.speedup),
        _shares(one.first_roof_share, one.second_roof_share),
        Text(str(one.verdict), style=STYLES.get(one.verdict, "")),
    )


def _shares(first: float | None, second: float | None) -> str:
    """Per cent of both roofs; here there is no room for digits after the point."""
    if first is None or second is None:
        return ""
    return f"{100 * first:.0f} -> {100 * second:.0f} %"


def _group_remark(pair: RunPair, group: GroupComparison) -> str:
    """Which implementations are fastest where they are not the same, and what to know of times."""
    words = []
    if group.first_impls[0] != group.second_impls[0]:
        words.append(f"A {group.first_impls[0]}, {pair.label} {group.second_impls[0]}")
    return "; ".join([*words, *group.remarks])


def _waterfall(pair: RunPair, waterfall: Waterfall) -> list[RenderableType]:
    """From the time of A to that of the other, bar by bar."""
    title = waterfall.title[0].upper() + waterfall.title[1:]
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    top = max(heights(waterfall))
    reached = waterfall.first_s
    table.add_row("A", duration(reached), "", _stretch(0.0, reached, top), style="bold")
    for bar in waterfall.bars:
        ends = sorted((reached, reached + bar.seconds))
        reached += bar.seconds
        style = "green" if bar.seconds < 0 else "red"
        share = signed_percent(bar.seconds / waterfall.first_s)
        drawn = Text(_stretch(ends[0], ends[1], top), style=style)
        table.add_row(str(bar.cause), signed(bar.seconds), share, drawn)
    table.add_row(
        pair.label,
        duration(waterfall.second_s),
        signed_percent(waterfall.difference_s / waterfall.first_s),
        _stretch(0.0, waterfall.second_s, top),
        style="bold",
    )
    notes = [Text(note, style="dim") for note in waterfall_notes(pair.label, waterfall)]
    return [Text(title, style="bold cyan"), table, *notes]


def _stretch(low: float, high: float, top: float) -> str:
    """A bar from one height to another; what is too short to be seen is a mark."""
    first, last = (round(BAR_WIDTH * max(end, 0.0) / top) for end in (low, high))
    if last <= first:
        return " " * min(first, BAR_WIDTH - 1) + "|"
    return " " * first + "#" * (last - first)


def _cases(pair: RunPair) -> RenderableType:
    heads = ["case", "A", pair.label, "speedup", "95 % interval", f"{pair.label} is"]
    table = _table(tuple(heads))
    if pair.different_protocol:
        table.add_column("not equal work", overflow="fold")
    for case in pair.cases:
        table.add_row(
            case.case_id.replace("[", " ").replace("]", ""),
            duration(case.first_s),
            duration(case.second_s),
            ratio_text(case.speedup),
            f"{case.low:.3g} to {case.high:.3g}",
            case_verdict(pair.label, case),
            *([case.difference] if pair.different_protocol else []),
            style=STYLES.get(case.verdict),
        )
    return table


def _projections(comparison: ChipComparison) -> list[RenderableType]:
    """A block for each run, since side by side the numbers need more than 80 columns."""
    parts: list[RenderableType] = [Text(projection_title(comparison), style="bold cyan")]
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    rows = projection_rows(comparison)
    table.add_column("")
    for row in rows:
        table.add_column(row[0], overflow="fold")
    heads = (
        "tokens/s (P10 to P90)",
        "against A",
        "MFU",
        "useful tokens/s",
        "MW at the site",
        "J per token",
        "cost of 1M tokens",
    )
    for place, head in enumerate(heads, start=1):
        table.add_row(head, *(row[place] for row in rows))
    parts.append(table)
    parts += [Text(note, style="dim") for note in projection_notes(comparison)]
    return parts
