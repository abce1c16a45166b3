"""A comparison of a run with others, as sections of the run's own page."""

from html import escape

from harness.comparison import ChipComparison
from harness.report import comparison_page
from harness.report.comparison_rows import headlines, warning_sentences
from harness.report.elements import Part, bullets, part

NOTE = "The reference is A. What follows explains the difference, op group by op group."


def comparison_parts(comparison: ChipComparison) -> tuple[Part, ...]:
    """The verdict with its warnings, then the waterfall, op groups, cases and projections."""
    body = "".join(f"<p><b>{escape(sentence)}</b></p>" for sentence in headlines(comparison))
    warnings = warning_sentences(comparison)
    body += f'<div class="warning">{bullets(warnings)}</div>' if warnings else ""
    title = f"Against {comparison.reference.title}"
    return (
        part("comparison", title, NOTE, body),
        *comparison_page.sections(comparison),
    )
