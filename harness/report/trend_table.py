"""A trend for the terminal, and as Markdown for a nightly job's summary."""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from harness.report.trend_rows import (
    HEADS,
    NOTE,
    change_rows,
    commits,
    headline,
    left_out_sentence,
    shared_sentence,
    sparkline,
)
from harness.trend import Trend
from harness.units import duration, signed_percent

MAX_MARKDOWN_ROWS = 100


def trend_view(trend: Trend) -> RenderableType:
    """Narrow enough for 80 columns: two lines for each change."""
    parts: list[RenderableType] = [Text(headline(trend), style="bold")]
    parts += [Text(shared_sentence(one, trend), style="yellow") for one in trend.shared_changes]
    for case in trend.changed:
        parts += [Text(""), Text(case.case_id, style="bold cyan")]
        for change in reversed(case.change_points):
            style = "red" if change.change.value > 0 else "green"
            line = Text.assemble(
                (signed_percent(change.change.value), style),
                f"  {duration(change.before_s)} -> {duration(change.after_s)}  since "
                f"{change.started_at[:16].replace('T', ' ')}, {commits(change)}, "
                f"{change.num_after} runs",
            )
            parts.append(Padding(line, (0, 0, 0, 2)))
        parts.append(Padding(Text(f"[{sparkline(case)}]", style="dim"), (0, 0, 0, 2)))
    parts.append(Text(""))
    parts += [Text(text, style="dim") for text in (NOTE, left_out_sentence(trend)) if text]
    return Group(*parts)


def trend_markdown(trend: Trend) -> str:
    """The same for a page of a forge; at most MAX_MARKDOWN_ROWS changes."""
    lines = [f"**{headline(trend)}**", ""]
    lines += [f"- {shared_sentence(one, trend)}" for one in trend.shared_changes]
    rows = change_rows(trend.changed)
    if rows:
        lines += ["", f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
        lines += [
            f"| {' | '.join(text.replace('|', chr(92) + '|') for text in row)} |"
            for row in rows[:MAX_MARKDOWN_ROWS]
        ]
    if len(rows) > MAX_MARKDOWN_ROWS:
        lines += ["", f"{len(rows) - MAX_MARKDOWN_ROWS} more are in trend.json and trend.html."]
    lines += ["", NOTE, left_out_sentence(trend)]
    return "\n".join(lines).rstrip() + "\n"
