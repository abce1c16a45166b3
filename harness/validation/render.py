"""The outcome of a validation as a Markdown table, a terminal table and one JSON object."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from statistics import mean, median
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.units import significant
from harness.validation.figure_prediction import FigurePrediction
from harness.validation.outcome import Outcome, Predicted
from harness.validation.predict import Prediction
from harness.validation.rows import Dropped
from harness.validation.summary import FamilyError, by_family

YARDSTICKS = {
    "megatron-sc21-t1": "8.6 / 12.0",
    "mtnlg": " - / 31.6",
    "vtrain-multi": "20.9 / 15.3",
    "vtrain-single": "63.3 / 49.5",
    "llmfoundry": "15 / -",
}
"""MAPE in % of one fitted rate per source / of Calculon without fitting, on the same source."""


def markdown(predictions: Sequence[Prediction], held_out: Collection[str] = ()) -> str:
    """The errors of step times by source as a Markdown table; sources held out are marked."""
    lines = [
        "| source | runs | median | mean | worst | bias | in P10-P90 | yardsticks |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups = [*by_family(predictions)]
    outside = [one for one in predictions if one.family in held_out]
    if outside:
        groups.append(FamilyError.of("all held out", outside))
    for row in groups:
        mark = " (held out)" if row.family in held_out else ""
        lines.append(
            f"| {row.family}{mark} | {row.num_runs} | {row.median:.1%} | {row.mape:.1%} | "
            f"{row.worst:+.1%} | {row.bias:+.1%} | {row.coverage:.0%} | "
            f"{YARDSTICKS.get(row.family, '')} |"
        )
    return "\n".join(lines)


def figures_markdown(figures: Sequence[FigurePrediction]) -> str:
    """The errors of other figures than steps as a Markdown table."""
    lines = ["| source | rows | MAPE | bias | worst | in P10-P90 |", "|---|---|---|---|---|---|"]
    for name, group in by_source(figures).items():
        errors = [one.metric_error for one in group]
        inside = mean(float(one.is_inside_deciles) for one in group)
        lines.append(
            f"| {name} | {len(group)} | {mean(abs(e) for e in errors):.1%} | {mean(errors):+.1%} | "
            f"{max(errors, key=abs):+.1%} | {inside:.0%} |"
        )
    return "\n".join(lines)


def by_source(predicted: Iterable[Predicted]) -> dict[str, list[Predicted]]:
    """The predictions of each source, sources in alphabetical order."""
    groups: dict[str, list[Predicted]] = {}
    for one in predicted:
        groups.setdefault(one.family, []).append(one)
    return dict(sorted(groups.items()))


IDS_NAMED = 3
"""Rows named beside the reason that they share."""


def reasons(dropped: Iterable[Dropped]) -> list[tuple[str, int]]:
    """Why rows are not predicted, with their number, the most frequent first."""
    counts = Counter(row.reason for row in dropped)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def as_data(outcome: Outcome) -> dict[str, Any]:
    """What `format=json` prints: errors are absolute shares of the published value.

    None stands for a figure of nothing, where no row could be used.
    """
    predicted = list(outcome.predicted)
    return {
        "rows": outcome.num_rows,
        "used": outcome.num_predicted,
        "dropped": [{"id": row.id, "reason": row.reason} for row in outcome.dropped],
        **_errors(predicted),
        "by_source": {
            name: {"used": len(group), **_errors(group)}
            for name, group in by_source(predicted).items()
        },
        "predictions": [_prediction(one) for one in predicted],
    }


def _prediction(one: Predicted) -> dict[str, Any]:
    low, high = one.deciles
    return {
        "id": one.id,
        "metric": one.metric,
        "published": one.published,
        "predicted": one.predicted,
        "P10": low,
        "P90": high,
    }


def _errors(predictions: Sequence[Predicted]) -> dict[str, float | None]:
    if not predictions:
        return dict.fromkeys(
            ("median_abs_error", "mean_abs_error", "worst_abs_error", "inside_band")
        )
    errors = [abs(one.metric_error) for one in predictions]
    return {
        "median_abs_error": median(errors),
        "mean_abs_error": mean(errors),
        "worst_abs_error": max(errors),
        "inside_band": mean(float(one.is_inside_deciles) for one in predictions),
    }


def view(outcome: Outcome) -> RenderableType:
    """The errors by source, of all, and the reasons for dropped rows, for the terminal."""
    errors = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    errors.add_column("source")
    for head in ("runs", "mean error", "median", "worst", "in P10-P90"):
        errors.add_column(head, justify="right", no_wrap=True)
    data = as_data(outcome)
    for name, found in (*data["by_source"].items(), ("all", data)):
        shares = [found[key] for key in ("mean_abs_error", "median_abs_error", "worst_abs_error")]
        inside = found["inside_band"]
        errors.add_row(
            name,
            str(found["used"]),
            *("n/a" if share is None else f"{significant(100 * share)} %" for share in shares),
            "n/a" if inside is None else f"{inside:.0%}",
        )
    lines = []
    for reason, count in reasons(outcome.dropped):
        ids = [row.id for row in outcome.dropped if row.reason == reason]
        named = ", ".join(ids[:IDS_NAMED]) + (", ..." if count > IDS_NAMED else "")
        lines.append(Text(f"{count} row{'s' if count > 1 else ''} ({named}): {reason}"))
    parts: list[RenderableType] = [errors]
    if lines:
        parts += [Text(""), Text("Not predicted:", style="bold"), *lines]
    used = f"{data['used']} of {data['rows']} rows predicted"
    return Group(
        *parts,
        Text(""),
        Text(f"{used}, nothing tuned to a row.", style="bold"),
        Text(
            "Errors are of what each row publishes, a time or a rate; format=markdown has those "
            "of the step time, with their bias."
        ),
    )
