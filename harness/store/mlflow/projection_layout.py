"""What MLflow shall hold of a projection: a run whose steps are numbers of chips."""

from collections.abc import Mapping
from math import isfinite

from harness.errors import RecordError
from harness.projection import Projection, ScalePoint, Source
from harness.results import projection_headline
from harness.store.folder import PROJECTION, REPORT_HTML, RunFolder
from harness.store.mlflow.keys import clean
from harness.store.mlflow.layout import (
    MAX_NOTE,
    NOTE_TAG,
    PROJECTIONS,
    Artifact,
    Point,
    RunContent,
    present_files,
    rounded,
)
from harness.store.mlflow.views import PROJECTION_VIEWS
from harness.units import GIBI, MEGA

SECONDS_PER_DAY = 86400.0


def _scale_values(point: ScalePoint) -> dict[str, float | None]:
    """Batch, power and cost of a point; None, and so absent, where they are n/a."""
    values: dict[str, float | None] = {
        "effective_tokens_per_s": point.effective_tokens_per_second,
    }
    goodput = None if point.wall_time is None else point.wall_time.interval
    if goodput is not None:
        values |= {"goodput_low": goodput.low, "goodput_high": goodput.high}
    if point.energy is not None:
        use = point.energy
        values |= {
            "site_mw": use.site_w / MEGA,
            "peak_site_mw": use.peak_site_w / MEGA,
            "swing_mw": use.swing_w / MEGA,
            "chip_w": use.chip_w,
            "joules_per_token": use.joules_per_token,
            "kwh_per_million_tokens": use.kwh_per_million_tokens,
            "cost_per_million_tokens": use.cost_per_million_tokens,
        }
    # What nothing is left of takes endless energy, which no chart can show.
    return {name: value for name, value in values.items() if value is None or isfinite(value)}


def _run_values(projection: Projection) -> dict[str, float | None]:
    """The whole training run, where its tokens are known."""
    run = projection.training_run
    if run is None:
        return {}
    return {
        "train_tokens": run.tokens,
        "train_days": run.seconds / SECONDS_PER_DAY,
        "train_kwh": run.energy_kwh,
        "train_cost": run.cost,
    }


def _projection_points(projection: Projection) -> tuple[Point, ...]:
    head = projection.headline
    summary = {
        "chips": head.num_chips,
        "tokens_per_s": head.tokens_per_second.value,
        "million_tokens_per_s": head.tokens_per_second.value / MEGA,
        "step_s": head.step_time_s.value,
        "mfu": projection.mfu,
        "measured_share": dict(projection.source_share).get(Source.MEASURED, 0.0),
        "memory_gib": projection.memory_bytes_per_chip / GIBI,
        "goodput": head.goodput,
        "useful_tokens_per_s": head.useful_tokens_per_second,
        **_scale_values(head),
        **_run_values(projection),
    }
    points = [Point(name, rounded(value)) for name, value in summary.items() if value is not None]
    for at in projection.scaling:
        values = {
            "tokens_per_s": at.tokens_per_second.value,
            "tokens_per_s_low": at.tokens_per_second.low,
            "tokens_per_s_high": at.tokens_per_second.high,
            "tokens_per_s_per_chip": at.tokens_per_second.value / at.num_chips,
            "step_s": at.step_time_s.value,
            "mfu": at.mfu,
            "goodput": at.goodput,
            "useful_tokens_per_s": at.useful_tokens_per_second,
            **_scale_values(at),
        }
        points += [
            Point(f"by_number_of_chips/{name}", rounded(value, 6), at.num_chips)
            for name, value in values.items()
            if value is not None
        ]
    parts = [
        Point(f"step_parts/{clean(part.name.replace(' ', '_'), 180)}_s", rounded(part.seconds, 6))
        for part in projection.parts
    ]
    return (*points, *parts)


def projection_content(folder: RunFolder, vendors: Mapping[str, str] | None = None) -> RunContent:
    """The projection's own run. Raises RecordError when the folder has none that can be read.

    Its uid is the content's hash: a projection made again with other assumptions is another
    run, since MLflow cannot take a metric back.
    """
    projection = folder.projection
    if projection is None:
        raise RecordError(f"{folder.path}: no {PROJECTION} there.")
    source = folder.path / PROJECTION
    digest = Artifact(path=PROJECTION, source=source).sha256()[:24]
    written_ms = int(source.stat().st_mtime * 1000)
    plan = projection.headline.plan
    tags = {
        "chip": projection.chip,
        "vendor": (vendors or {}).get(projection.chip, ""),
        "model": projection.model,
        "cluster": projection.cluster,
        "plan": plan.label,
        "source_runs": " ".join(projection.run_ids),
        NOTE_TAG: _projection_note(projection),
    }
    params = {
        "model": projection.model,
        "chip": projection.chip,
        "cluster": projection.cluster,
        "chips": str(projection.headline.num_chips),
        "dtype": projection.dtype,
        "sequence_length": str(projection.sequence_length),
        "tensor": str(plan.tensor),
        "pipeline": str(plan.pipeline),
        "data": str(plan.data),
        "recompute": plan.recompute,
    }
    files = ((PROJECTION, PROJECTION), (REPORT_HTML, REPORT_HTML))
    return RunContent(
        experiment=PROJECTIONS,
        uid=f"projection/{digest}",
        name=f"{projection.model}@{projection.chip} {projection.headline.num_chips}",
        start_ms=written_ms,
        end_ms=written_ms,
        is_finished=True,
        tags=tuple((key, value) for key, value in tags.items() if value),
        params=tuple(params.items()),
        points=_projection_points(projection),
        artifacts=present_files(folder, files),
        views=PROJECTION_VIEWS,
        about="Training steps on clusters of a chip; charts have the number of chips as step.",
    )


def _projection_note(projection: Projection) -> str:
    lines = [projection_headline(projection), "", f"- Plan: {projection.headline.plan.label}"]
    lines.append(f"- Interval: {projection.interval_basis}")
    lines += [f"- Taken on trust: {text}" for text in projection.assumptions]
    return "\n".join(lines)[:MAX_NOTE]
