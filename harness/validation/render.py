"""The outcome of a validation as a Markdown table, a terminal table and one JSON object."""

from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.units import significant
from harness.validation.predict import Prediction
from harness.validation.rows import Dropped
from harness.validation.summary import by_family, held_out_coverage

YARDSTICKS = {
    "megatron-sc21-t1": "8.6 / 12.0",
    "mtnlg": " - / 31.6",
    "vtrain-multi": "20.9 / 15.3",
    "vtrain-single": "63.3 / 49.5",
    "llmfoundry": "15 / -",
}
"""MAPE in % of one fitted rate per source / of Calculon without fitting, on the same source."""


def markdown(predictions: Sequence[Prediction]) -> str:
    """The errors by source as a Markdown table."""
    held_out = held_out_coverage(predictions)
    lines = [
        "| source | runs | MAPE | median | bias | worst | in interval | held out | yardsticks |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in by_family(predictions):
        other = f"{held_out[row.family]:.0%}" if row.family in held_out else ""
        lines.append(
            f"| {row.family} | {row.num_runs} | {row.mape:.1%} | {row.median:.1%} | "
            f"{row.bias:+.1%} | {row.worst:+.1%} | {row.coverage:.0%} | {other} | "
            f"{YARDSTICKS.get(row.family, '')} |"
        )
    return "\n".join(lines)


def as_data(predictions: Sequence[Prediction], dropped: Sequence[Dropped]) -> dict[str, Any]:
    """What `format=json` prints: errors are absolute shares of the published value.

    None stands for a figure of nothing, where no row could be used.
    """
    by_source: dict[str, list[Prediction]] = {}
    for one in predictions:
        by_source.setdefault(one.run.family, []).append(one)
    return {
        "rows": len(predictions) + len(dropped),
        "used": len(predictions),
        "dropped": [{"id": row.id, "reason": row.reason} for row in dropped],
        **_errors(predictions),
        "by_source": {
            name: {"used": len(group), **_errors(group)}
            for name, group in sorted(by_source.items())
        },
        "predictions": [_prediction(one) for one in predictions],
    }


def _prediction(one: Prediction) -> dict[str, Any]:
    low, high = one.deciles
    return {
        "id": one.run.id,
        "metric": one.run.metric,
        "published": one.run.published,
        "predicted": one.predicted,
        "P10": low,
        "P90": high,
    }


def _errors(predictions: Sequence[Prediction]) -> dict[str, float | None]:
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


def view(predictions: Sequence[Prediction], dropped: Sequence[Dropped]) -> RenderableType:
    """The errors by source, of all, and the reasons for dropped rows, for the terminal."""
    errors = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    errors.add_column("source")
    for head in ("runs", "mean error", "median", "worst", "in P10-P90"):
        errors.add_column(head, justify="right", no_wrap=True)
    data = as_data(predictions, dropped)
    for name, found in (*data["by_source"].items(), ("all", data)):
        shares = [found[key] for key in ("mean_abs_error", "median_abs_error", "worst_abs_error")]
        inside = found["inside_band"]
        errors.add_row(
            name,
            str(found["used"]),
            *("n/a" if share is None else f"{significant(100 * share)} %" for share in shares),
            "n/a" if inside is None else f"{inside:.0%}",
        )
    reasons: dict[str, int] = {}
    for row in dropped:
        reasons[row.reason] = reasons.get(row.reason, 0) + 1
    lines = [
        Text(f"{count} rows: {reason}")
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1])
    ]
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
