"""Tables for the terminal: the results of a run, and a projection."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from harness.projection import Projection, SearchSummary
from harness.record import Status
from harness.report.power import PowerTable, power_tables
from harness.report.rows import (
    ALTERNATIVES_TITLE,
    CAUSE_HEADS,
    CAUSES_TITLE,
    ROOF_HEADS,
    alternative_rows,
    cause_rows,
    median_text,
    next_measurement,
    part_shares,
    projection_facts,
    reasons,
    roof_rows,
    roof_source_text,
    roof_text,
    short_warning,
    status_text,
)
from harness.results import (
    NOISY_HALF_WIDTH,
    ResultRow,
    Roofs,
    best_rows,
    disturbed_text,
    projection_headline,
    roofs_text,
    status_counts,
)
from harness.units import duration, significant

BAR_WIDTH = 24
MAX_ASSUMPTIONS = 4
"""More would push the numbers off the screen; the report has all of them."""
MAX_CASES_OF_A_REASON = 2
STATUS_STYLE: dict[str, str] = {Status.OK: "green", Status.UNSUPPORTED: "dim"}
"""Any other status is a failure."""


WIDTHS = (10, 20, 13, 9)
"""Implementation, median, rate and share of the roof; with the status, they fit 80 columns."""


def results_table(rows: Sequence[ResultRow]) -> RenderableType:
    """A line that names each problem, and below it a line for each implementation.

    The fastest implementation is in bold. Narrow enough for any terminal, since a table with the
    shape beside the numbers wraps both.
    """
    best = {row.case_id for row in best_rows(rows)}
    parts: list[RenderableType] = [_line("", "median", "rate", "of roof", "status", style="dim")]
    problem_before = None
    for row in rows:
        if row.problem_id != problem_before:
            problem_before = row.problem_id
            parts.append(Text.assemble((row.title, "bold cyan"), f"  {row.dtype} {row.shape}"))
        style = "bold" if row.case_id in best else ""
        line = _line(f"  {row.impl}", median_text(row), row.rate, roof_text(row), style=style)
        is_doubtful = row.is_noisy or row.is_short
        status_style = "yellow" if is_doubtful else STATUS_STYLE.get(row.status_word, "red")
        # The sentence below the table says of what the steps are; here they must fit a line.
        line.append(status_text(row).replace(" of the timer", ""), style=status_style)
        parts.append(line)
    return Group(*parts)


def _line(impl: str, median: str, rate: str, share: str, status: str = "", style: str = "") -> Text:
    numbers = zip((median, rate, share), WIDTHS[1:], strict=True)
    text = impl.ljust(WIDTHS[0]) + "".join(f"{word.rjust(width)}  " for word, width in numbers)
    return Text(text + status, style=style)


def _reasons(rows: Sequence[ResultRow]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for status, reason, cases in reasons(rows):
        shown = ", ".join(cases[:MAX_CASES_OF_A_REASON])
        more = len(cases) - MAX_CASES_OF_A_REASON
        table.add_row(
            Text(f"{len(cases)} {status}", style="bold"),
            Text(f"{reason} ({shown}{f' and {more} more' if more > 0 else ''})"),
        )
    return table


def _plain_table(content: PowerTable) -> RenderableType:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for head in content.heads:
        is_number = head in content.numbers
        table.add_column(head, justify="right" if is_number else "left", no_wrap=is_number)
    for line in content.lines:
        table.add_row(*(Text(word) for word in line))
    return table


def results_view(rows: Sequence[ResultRow], roofs: Roofs, run_id: str = "") -> RenderableType:
    """The table, why some cases have no time, the measured roofs and the counts.

    Roofs of another run than that of the rows say so.
    """
    parts: list[RenderableType] = [results_table(rows), Text("")]
    if any(not row.is_ok for row in rows):
        parts += [Text("No time, because:", style="bold"), _reasons(rows), Text("")]
    parts.append(Text(f"Measured roofs: {roofs_text(roofs)}."))
    source = roof_source_text(roofs, run_id)
    if source:
        parts.append(Text(f"{source}.", style="dim"))
    if any(row.is_above_roof for row in rows):
        parts.append(
            Text("! Faster than the roof, so the roof cases did not reach this chip's best.")
        )
    noisy = sum(row.is_noisy for row in rows)
    if noisy:
        parts.append(
            Text(
                f"Noisy: {noisy} of {len(rows)} cases, with an interval wider than "
                f"+/- {NOISY_HALF_WIDTH:.0%}. "
                "Measure again on a quiet host before building on them.",
                style="yellow",
            )
        )
    short = short_warning(rows)
    if short:
        parts.append(Text(f"Short: {short}", style="yellow"))
    if any(row.is_throttled for row in rows):
        parts.append(Text("Throttled: the device ran slower than it can all through the case."))
    if any(row.is_power_capped for row in rows):
        parts.append(Text("Power capped: the device lowered its clocks to stay in its limit."))
    for title, table in power_tables(rows):
        parts += [Text(""), Text(f"{title}:", style="bold"), _plain_table(table)]
    disturbed = disturbed_text(rows)
    if disturbed:
        parts.append(Text(disturbed, style="yellow"))
    parts.append(Text(f"Cases: {status_counts(rows)}."))
    return Group(*parts)


ROOF_WIDTHS = (16, 13, 12, 8, 5, 13)
"""Of all of ROOF_HEADS but the last, which has a line of its own: they fit 80 columns."""


def roofs_view(roofs: Roofs) -> RenderableType:
    """Each measured roof with its interval and its share of the data sheet, and what reached it."""
    parts = [Text("Measured roofs:", style="bold"), _roof_line(ROOF_HEADS, style="dim")]
    for row in roof_rows(roofs):
        parts += [_roof_line(row), Text(f"  {row[-1]}", style="dim")]
    return Group(*parts)


def _roof_line(words: Sequence[str], style: str = "") -> Text:
    name, *numbers = (word for word, _ in zip(words, ROOF_WIDTHS, strict=False))
    aligned = [word.rjust(width) for word, width in zip(numbers, ROOF_WIDTHS[1:], strict=True)]
    return Text("  ".join((name.ljust(ROOF_WIDTHS[0]), *aligned)), style=style)


def projection_view(projection: Projection) -> RenderableType:
    """The projection: headline, facts, the step's parts and what is taken on trust."""
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in projection_facts(projection):
        facts.add_row(Text(name), Text(value))
    step = Table.grid(padding=(0, 2, 0, 0))
    step.add_column(overflow="fold")
    step.add_column(justify="right", no_wrap=True)
    step.add_column(justify="right", no_wrap=True)
    step.add_column(no_wrap=True)
    for name, seconds, share in part_shares(projection):
        step.add_row(
            Text(name),
            Text(duration(seconds)),
            Text(f"{significant(100 * share, 2)} %"),
            Text("#" * round(BAR_WIDTH * share), style="cyan"),
        )
    trust = [Text(f"- {text}") for text in projection.assumptions[:MAX_ASSUMPTIONS]]
    more = len(projection.assumptions) - MAX_ASSUMPTIONS
    if more > 0:
        trust.append(Text(f"- and {more} more in the report", style="dim"))
    body: list[RenderableType] = [
        Text(projection_headline(projection), style="bold"),
        Text(""),
        facts,
        Text(""),
        Text("One step:", style="bold"),
        Padding(step, (0, 0, 0, 2)),
    ]
    if projection.search is not None and projection.search.alternatives:
        body += [Text(""), Text(f"{ALTERNATIVES_TITLE}:", style="bold")]
        body.append(Padding(_alternatives(projection.search), (0, 0, 0, 2)))
    if trust:
        body += [Text(""), Text("Taken on trust:", style="bold"), *trust]
    return Panel(Group(*body), title="Projection", title_align="left", expand=False)


def explanation_view(projection: Projection) -> RenderableType:
    """What the interval of the step is made of, and what to measure next."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for place, head in enumerate(CAUSE_HEADS):
        table.add_column(head, justify="right" if place in (1, 2) else "left", overflow="fold")
    for row in cause_rows(projection):
        table.add_row(*(Text(cell) for cell in row))
    advice = next_measurement(projection)
    body: list[RenderableType] = [table]
    if advice:
        body += [Text(""), Text(advice, style="bold")]
    return Panel(Group(*body), title=CAUSES_TITLE, title_align="left", expand=False)


def _alternatives(search: SearchSummary) -> RenderableType:
    """A line for each of the best plans of other kinds."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for label, step_time, margin in alternative_rows(search):
        table.add_row(Text(label), Text(step_time), Text(margin))
    return table
