"""What MLflow shall hold of a comparison of chips: a run of its own, verdict first."""

from collections.abc import Mapping

from harness.comparison import Cause, ChipComparison, MeanComparison, RunPair, Waterfall
from harness.errors import RecordError
from harness.store.folder import COMPARISON, COMPARISON_CSV, REPORT_HTML, REPORT_MARKDOWN, RunFolder
from harness.store.mlflow.keys import clean
from harness.store.mlflow.layout import (
    COMPARISONS,
    NOTE_TAG,
    Point,
    RunContent,
    milliseconds,
    note_of,
    present_files,
    rounded,
)
from harness.store.mlflow.views import NEWEST, View

MAX_KEY_PART = 120
COMPARISON_COLUMNS = (
    "tags.`reference`",
    "tags.`chip`",
    "metrics.`speedup`",
    "metrics.`speedup_low`",
    "metrics.`speedup_high`",
    "metrics.`training_step_speedup`",
    "metrics.`decode_step_speedup`",
    "tags.`suite`",
    "tags.`model`",
)
COMPARISON_VIEWS = (
    View(
        key="latest",
        name="Latest",
        columns=COMPARISON_COLUMNS,
        order_by=NEWEST,
        is_ascending=False,
    ),
    View(
        key="fastest",
        name="Fastest",
        columns=COMPARISON_COLUMNS,
        order_by="metrics.`speedup`",
        is_ascending=False,
    ),
)


def comparison_content(folder: RunFolder, vendors: Mapping[str, str] | None = None) -> RunContent:
    """The comparison's own run; its uid is its id, which follows from the runs and the rules.

    Raises:
        RecordError: when the folder holds none that can be read.
    """
    comparison = folder.comparison
    if comparison is None:
        raise RecordError(f"{folder.path}: no {COMPARISON} there, so it is no comparison")
    created_ms = milliseconds(comparison.created_at)
    others = comparison.runs[1:]
    tags = {
        "reference": comparison.reference.chip,
        "chip": " ".join(run.chip for run in others),
        "vendor": " ".join(filter(None, ((vendors or {}).get(run.chip, "") for run in others))),
        "suite": comparison.reference.suite,
        "model": comparison.reference.model,
        "source_runs": " ".join(run.run_id for run in comparison.runs),
        "forced": "true" if comparison.is_forced else "",
        NOTE_TAG: note_of(
            folder, f"{len(comparison.runs)} runs compared: {comparison.comparison_id}"
        ),
    }
    params = {
        "reference": comparison.reference.run_id,
        "runs": " ".join(run.run_id for run in others),
        "tolerance": str(comparison.tolerance),
    }
    files = tuple((name, name) for name in (COMPARISON, COMPARISON_CSV, *_REPORTS))
    return RunContent(
        experiment=COMPARISONS,
        uid=f"comparison/{comparison.comparison_id}",
        name=" vs ".join(run.chip or run.device for run in comparison.runs),
        start_ms=created_ms,
        end_ms=created_ms,
        is_finished=True,
        tags=tuple((key, value) for key, value in tags.items() if value),
        params=tuple(params.items()),
        points=_points(comparison),
        artifacts=present_files(folder, files),
        views=COMPARISON_VIEWS,
        about="Chips against one another; the description of a run begins with the verdict.",
    )


_REPORTS = (REPORT_HTML, REPORT_MARKDOWN)


def _points(comparison: ChipComparison) -> tuple[Point, ...]:
    """Of one other run under plain names; of several, each after the first below its label."""
    points: list[Point] = []
    for place, pair in enumerate(comparison.pairs):
        prefix = f"{pair.label}/" if place else ""
        points += [Point(f"{prefix}{name}", rounded(value)) for name, value in _values(pair)]
    return tuple(points)


def _values(pair: RunPair) -> list[tuple[str, float]]:
    overall = pair.overall
    found = [
        ("speedup", overall.speedup.value),
        ("speedup_low", overall.speedup.low),
        ("speedup_high", overall.speedup.high),
    ]
    found += [value for mean in pair.means[1:] for value in _phase_values(mean)]
    # Of several steps of one phase, as decoding at two batches, the columns have the first.
    of_phase: dict[str, Waterfall] = {}
    for waterfall in pair.waterfalls:
        of_phase.setdefault(waterfall.phase, waterfall)
    for phase, waterfall in of_phase.items():
        # Above 1 the other chip is faster, as in every column beside it.
        found.append((f"{phase}_step_speedup", waterfall.first_s / waterfall.second_s))
        found += [(f"{phase}_step/{_key_of(bar.cause)}_s", bar.seconds) for bar in waterfall.bars]
    found += [
        (f"speedup_{group.phase}/{clean(group.group, MAX_KEY_PART)}", group.speedup.value)
        for group in pair.groups
    ]
    return found


def _key_of(cause: Cause) -> str:
    return clean(cause.replace(",", "").replace(" ", "_"), MAX_KEY_PART)


def _phase_values(mean: MeanComparison) -> list[tuple[str, float]]:
    values = [(f"{mean.phase}_speedup", mean.speedup.value)]
    if mean.joules_ratio is not None:
        values.append((f"{mean.phase}_joules_ratio", mean.joules_ratio))
    return values
