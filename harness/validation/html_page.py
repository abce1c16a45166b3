"""The outcome of a validation as one HTML file that loads nothing."""

from html import escape

from harness.report.elements import figures_list, frame, plain_table, plot, section
from harness.units import significant
from harness.validation import agreement_plot
from harness.validation.outcome import Outcome
from harness.validation.render import by_source, reasons
from harness.validation.summary import FamilyError, by_family

ERROR_HEADS = ("source", "runs", "median", "mean", "worst", "bias", "in P10-P90")
ROW_HEADS = ("row", "what", "published", "predicted", "P10", "P90", "error", "inside")


def html_page(outcome: Outcome, held_out: frozenset[str]) -> str:
    """The page: agreement and errors as charts, by source and for each row as tables."""
    links = [("rows", "All rows")]
    sections = [_rows(outcome)]
    sentence = f"{outcome.num_predicted} of {outcome.num_rows} published rows are predicted"
    figures = [(f"{outcome.num_predicted} of {outcome.num_rows}", "rows predicted")]
    if outcome.steps:
        every = by_family(outcome.steps)[-1]
        sentence += (
            f"; a step is {every.median:.1%} off in the median and {every.mape:.1%} in the mean"
        )
        figures += [
            (f"{every.median:.1%}", "median error of a step"),
            (f"{every.mape:.1%}", "mean error of a step"),
            (f"{every.worst:+.1%}", "worst error of a step"),
            (f"{every.coverage:.0%}", "of steps in P10 to P90"),
        ]
        links = [("agreement", "Predicted and published"), ("errors", "Errors by source"), *links]
        sections = [_agreement(outcome, every), _errors(outcome, held_out), *sections]
    if outcome.dropped:
        links.append(("dropped", "Not predicted"))
        sections.append(_dropped(outcome))
    return frame("validation", (sentence + ".",), figures_list(figures), links, sections)


def _agreement(outcome: Outcome, every: FamilyError) -> str:
    note = (
        "Each mark is a published run, predicted from its configuration alone; bars are P10 to P90 "
        "of the prediction. A mark above the line is predicted too slow."
    )
    summary = (
        f"Predicted against published step times of {every.num_runs} runs: median error "
        f"{every.median:.1%}, {every.coverage:.0%} inside P10 to P90"
    )
    body = plot(agreement_plot.agreement(outcome.steps), "agreement", summary)
    return section("agreement", "Predicted and published", note, body)


def _errors(outcome: Outcome, held_out: frozenset[str]) -> str:
    families = by_family(outcome.steps)
    groups = [(one, " (held out)" if one.family in held_out else "") for one in families]
    outside = [one for one in outcome.steps if one.family in held_out]
    if outside:
        groups.append((FamilyError.of("all held out", outside), ""))
    for name, group in by_source(outcome.figures).items():
        groups.append((FamilyError.of_values(name, group), ""))
    rows = [
        (
            one.family + mark,
            str(one.num_runs),
            f"{one.median:.1%}",
            f"{one.mape:.1%}",
            f"{one.worst:+.1%}",
            f"{one.bias:+.1%}",
            f"{one.coverage:.0%}",
        )
        for one, mark in groups
    ]
    summary = "Errors of the step time by source: " + ", ".join(
        f"{one.family} {one.median:.1%}" for one in families
    )
    note = (
        "Predicted over published, less one. Sources held out took no part in the calibration; of "
        "all others constants were fitted to their runs. Rows with a metric in their name are "
        "other figures than steps."
    )
    body = plot(agreement_plot.errors(outcome.steps, held_out), "errors", summary)
    return section("errors", "Errors by source", note, body + plain_table(ERROR_HEADS, rows))


def _rows(outcome: Outcome) -> str:
    rows = []
    for one in outcome.predicted:
        low, high = (significant(end) for end in one.deciles)
        rows.append(
            (
                one.id,
                one.metric,
                significant(one.published),
                significant(one.predicted),
                low,
                high,
                f"{one.metric_error:+.1%}",
                "yes" if one.is_inside_deciles else "no",
            )
        )
    note = "In the metric of each row; the error is of that metric, so a rate too high is +."
    return section("rows", "All rows", note, plain_table(ROW_HEADS, rows, num_texts=2))


def _dropped(outcome: Outcome) -> str:
    counts = [(reason, str(count)) for reason, count in reasons(outcome.dropped)]
    rows = ", ".join(escape(row.id) for row in outcome.dropped)
    body = plain_table(("reason", "rows"), counts) + f'<p class="note">{rows}</p>'
    return section("dropped", "Not predicted", "Rows that say too little, or another thing.", body)
