"""The page of a comparison of chips, and its sections for other pages; it loads nothing."""

from collections.abc import Sequence
from html import escape

from harness.comparison import ChipComparison, RunPair, Verdict, Waterfall
from harness.report.comparison_plots import forest_figure, phases_of, waterfall_figure
from harness.report.comparison_rows import (
    BAR_HEADS,
    PROJECTION_HEADS,
    RUN_HEADS,
    bar_rows,
    case_verdict,
    closure_sentences,
    difference_sentence,
    fewer_sentence,
    forced_sentence,
    headlines,
    impls_text,
    interval_text,
    joules_text,
    missing_sentences,
    projection_notes,
    projection_rows,
    projection_title,
    ratio_text,
    run_rows,
    shares_text,
    signed_percent,
    sorted_groups,
    warning_sentences,
    waterfall_notes,
)
from harness.report.elements import (
    Part,
    bullets,
    figures_list,
    frame,
    part,
    plain_table,
    plot,
    section,
)
from harness.units import duration

VERDICT_CLASS = {Verdict.FASTER: "ok", Verdict.SLOWER: "bad"}
GROUPS_NOTE = (
    "Each chip by its fastest implementation of every size. Speedup: the reference's time over the "
    "other's, the geometric mean of the sizes with its 95 % interval; above 1 the other is faster. "
    "Of roof: the share of each chip's own measured roof. A heading sorts."
)
CASES_NOTE = "The same implementation on both chips, case by case."
WATERFALL_NOTE = (
    "From the reference's time to the other's. The bars add up to the whole difference, in no "
    "order: each op's share is found by the logarithmic mean. Green is time saved."
)


def render(comparison: ChipComparison) -> str:
    """The whole page."""
    found = sections(comparison)
    warnings = warning_sentences(comparison)
    notice = f'<div class="warning" role="note">{bullets(warnings)}</div>' if warnings else ""
    *others, last = (run.title for run in comparison.runs)
    chips = f"{', '.join(others)} and {last}"
    return frame(
        f"{chips} compared",
        headlines(comparison),
        f"{figures_list(_figures(comparison))}{notice}",
        [(one.name, one.title) for one in found],
        [one.html for one in found],
    )


def sections(comparison: ChipComparison) -> tuple[Part, ...]:
    """All sections in reading order: each other run, the projections, the runs themselves."""
    found: list[Part] = []
    for pair in comparison.pairs:
        found += [
            *waterfall_sections(comparison, pair),
            groups_section(comparison, pair),
            cases_section(comparison, pair),
        ]
        found += missing_sections(comparison, pair)
    found += projection_sections(comparison)
    return (*found, runs_section(comparison))


def _figures(comparison: ChipComparison) -> list[tuple[str, str]]:
    """The few numbers that a reader wants first."""
    figures = []
    for pair in comparison.pairs:
        other = comparison.run(pair.label).title
        for mean in pair.means:
            what = f"{mean.phase} ops" if mean.phase else "all ops"
            figures.append((ratio_text(mean.speedup.value), f"{other}, {what}"))
        for waterfall in pair.waterfalls:
            share = signed_percent(waterfall.difference_s / waterfall.first_s)
            figures.append((share, f"{other}, time of a {waterfall.phase} step"))
    return figures


def waterfall_sections(comparison: ChipComparison, pair: RunPair) -> tuple[Part, ...]:
    """The steps taken apart; one section for all, empty where there is none and no reason."""
    if not pair.waterfalls and not pair.no_waterfall and not pair.closures:
        return ()
    body = ""
    for place, waterfall in enumerate(pair.waterfalls):
        sentence = difference_sentence(pair, waterfall)
        body += f"<h3>{escape(waterfall.title[0].upper() + waterfall.title[1:])}</h3>"
        body += f"<p>{escape(sentence)}</p>"
        figure = waterfall_figure(comparison, pair, waterfall)
        body += plot(figure, f"waterfall-{pair.label}-{place}", sentence)
        body += _bars_table(waterfall)
        notes = waterfall_notes(pair.label, waterfall)
        body += bullets(notes) if notes else ""
    told = [*pair.no_waterfall, *closure_sentences(pair)]
    body += f'<div class="reason">{bullets(told)}</div>' if told else ""
    name = f"waterfall-{pair.label}"
    title = f"Why {pair.label} differs" if len(comparison.pairs) > 1 else "Why they differ"
    return (part(name, title, WATERFALL_NOTE, body),)


def _bars_table(waterfall: Waterfall) -> str:
    kinds = ("", "number", "number", "reason")
    lines = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=' + kind if kind else ''}>{escape(text)}</td>"
            for text, kind in zip(row, kinds, strict=True)
        )
        + "</tr>"
        for row in bar_rows(waterfall)
    )
    heads = "".join(
        f'<th scope="col"{" class=" + kind if kind == "number" else ""}>{escape(head)}</th>'
        for head, kind in zip(BAR_HEADS, kinds, strict=True)
    )
    return (
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody>'
        "</table></div>"
    )


def groups_section(comparison: ChipComparison, pair: RunPair) -> Part:
    """A forest plot for each phase, and the sortable table of all groups."""
    body = "".join(f"<p><b>{escape(text)}</b></p>" for text in (forced_sentence(pair),) if text)
    for phase, groups in phases_of(pair).items():
        told = ", ".join(f"{one.group} {ratio_text(one.speedup.value)}" for one in groups)
        figure = forest_figure(pair, groups, comparison.tolerance)
        body += f"<h3>{escape(phase)}</h3>"
        body += plot(figure, f"forest-{pair.label}-{phase}", f"Speedup of {pair.label}: {told}")
    heads = (
        ("op group", ""),
        ("phase", ""),
        ("sizes", "number"),
        ("speedup", "number"),
        ("interval", "number"),
        ("A", "number"),
        (pair.label, "number"),
        ("of roof", "number"),
        ("joules", "number"),
        ("fastest", ""),
        ("verdict", ""),
    )
    rows = [
        (
            (group.group, None),
            (group.phase, None),
            (str(group.num_problems), float(group.num_problems)),
            (ratio_text(group.speedup.value), group.speedup.value),
            (interval_text(group.speedup), group.speedup.high / group.speedup.low),
            (duration(group.first_s), group.first_s),
            (duration(group.second_s), group.second_s),
            (
                shares_text(group.first_roof_share, group.second_roof_share),
                group.second_roof_share,
            ),
            (joules_text(group.joules_ratio), group.joules_ratio),
            (impls_text(group), None),
            (", ".join([group.verdict, *group.remarks]), None),
        )
        for group in sorted_groups(pair)
    ]
    classes = [VERDICT_CLASS.get(group.verdict, "") for group in sorted_groups(pair)]
    name = f"groups-{pair.label}"
    body += sortable_table(name, heads, rows, classes)
    title = f"Op groups, {pair.label} over A" if len(comparison.pairs) > 1 else "Op groups"
    return part(name, title, GROUPS_NOTE, body)


def cases_section(comparison: ChipComparison, pair: RunPair) -> Part:
    """Every case with a time on both, sortable and filtered by words."""
    heads = [
        ("case", ""),
        ("A", "number"),
        (pair.label, "number"),
        ("speedup", "number"),
        ("interval", "number"),
        ("verdict", ""),
    ]
    if pair.different_protocol:
        heads.append(("not equal work", ""))
    rows = [
        [
            (case.case_id, None),
            (duration(case.first_s), case.first_s),
            (duration(case.second_s), case.second_s),
            (ratio_text(case.speedup), case.speedup),
            (f"{case.low:.3g} to {case.high:.3g}", case.high / case.low),
            (case_verdict(pair.label, case), None),
            *([(case.difference, None)] if pair.different_protocol else []),
        ]
        for case in pair.cases
    ]
    classes = [VERDICT_CLASS.get(case.verdict, "") for case in pair.cases]
    told = fewer_sentence(pair)
    name = f"cases-{pair.label}"
    body = (f"<p>{escape(told)}</p>" if told else "") + sortable_table(name, heads, rows, classes)
    title = f"Cases, {pair.label} against A" if len(comparison.pairs) > 1 else "Cases"
    return part(name, title, CASES_NOTE, body)


def missing_sections(comparison: ChipComparison, pair: RunPair) -> tuple[Part, ...]:
    """What one side alone has a time for; empty where nothing is missing."""
    sentences = missing_sentences(comparison, pair)
    if not sentences:
        return ()
    name, title = f"missing-{pair.label}", f"Missing, A and {pair.label}"
    note = "Cases that one of the two has a time for and the other has not, by reason."
    # The names of cases are longer than a phone is wide, and this class breaks them.
    body = f'<div class="reason">{bullets(sentences)}</div>'
    return (part(name, title, note, body),)


def projection_sections(comparison: ChipComparison) -> tuple[Part, ...]:
    """The clusters that the runs were projected to; empty where none was."""
    if not comparison.projections:
        return ()
    rows = projection_rows(comparison)
    body = plain_table(PROJECTION_HEADS, rows) if rows else ""
    body += bullets(projection_notes(comparison))
    note = (
        "A model of a training step on a cluster of each chip, from what was measured; an "
        "expectation, not a measurement. The ratio draws what both share once."
    )
    title = projection_title(comparison)
    return (
        Part(name="projected", title="Projected", html=section("projected", title, note, body)),
    )


def runs_section(comparison: ChipComparison) -> Part:
    """Where the numbers come from."""
    facts = plain_table(RUN_HEADS, run_rows(comparison), num_texts=len(RUN_HEADS))
    command = f"<p><code>{escape(comparison.command)}</code></p>" if comparison.command else ""
    note = "The first is the reference. `chipscale compare` keeps every number in comparison.json."
    return part("runs", "Runs", note, facts + command)


def sortable_table(
    name: str,
    heads: Sequence[tuple[str, str]],
    rows: Sequence[Sequence[tuple[str, float | None]]],
    classes: Sequence[str],
) -> str:
    """A table that a heading sorts and words filter.

    Args:
        name: Of its section, which its filter is named by.
        heads: Title and kind of each column, `number` for one that is sorted by value.
        rows: Text and value of each cell.
        classes: Look of the verdict of each row, the first column whose head is `verdict`.
    """
    head = "".join(
        f'<th scope="col"{" class=" + kind if kind else ""}>'
        f'<button type="button">{escape(title)}</button></th>'
        for title, kind in heads
    )
    verdict = [title for title, _ in heads].index("verdict")
    body = ""
    for row, look in zip(rows, classes, strict=True):
        cells = ""
        for place, ((text, value), (_, kind)) in enumerate(zip(row, heads, strict=True)):
            sort = f' data-value="{"" if value is None else repr(value)}"' if kind else ""
            shown = escape(text)
            if place == verdict and look:
                shown = f'<span class="{look}">{shown}</span>'
            cells += f"<td{' class=' + kind if kind else ''}{sort}>{shown}</td>"
        body += f"<tr>{cells}</tr>"
    return (
        f'<input type="search" id="filter-{name}" placeholder="Filter: gemm triton ..." '
        'aria-label="Show only lines with all of these words">'
        f'<div class="scroll"><table data-sortable data-filter="filter-{name}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
