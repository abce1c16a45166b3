"""What MLflow shall hold of a projection of serving: a run whose steps are tokens/s per user."""

from collections.abc import Mapping

from harness.errors import RecordError
from harness.projection import Source
from harness.serving_projection import ServingProjection, serving_headline
from harness.store.folder import REPORT_HTML, SERVING, RunFolder
from harness.store.mlflow.keys import clean
from harness.store.mlflow.layout import (
    MAX_NOTE,
    NOTE_TAG,
    SERVINGS,
    Artifact,
    Point,
    RunContent,
    present_files,
    rounded,
)
from harness.store.mlflow.views import SERVING_VIEWS
from harness.units import MEGA


def _points(projection: ServingProjection) -> tuple[Point, ...]:
    best = projection.best
    joules, cost = best.joules_per_token, best.cost_per_million_tokens
    summary = {
        "chips": projection.num_chips,
        "tokens_per_s": best.tokens_per_s.value,
        "million_tokens_per_s": best.tokens_per_s.value / MEGA,
        "tokens_per_s_low": best.tokens_per_s.low,
        "tokens_per_s_high": best.tokens_per_s.high,
        "tokens_per_s_per_chip": best.tokens_per_s_per_chip.value,
        "ttft_s": best.ttft_s.value,
        "tpot_s": best.tpot_s.value,
        "joules_per_token": None if joules is None else joules.value,
        "tokens_per_joule": best.tokens_per_joule,
        "cost_per_million_tokens": None if cost is None else cost.value,
        "measured_share": dict(projection.source_share).get(Source.MEASURED, 0.0),
    }
    points = [Point(name, rounded(value)) for name, value in summary.items() if value is not None]
    for at in projection.front:
        step = round(at.tokens_per_s_per_user.value)
        values = {
            "tokens_per_s_per_chip": at.tokens_per_s_per_chip.value,
            "tokens_per_s_per_chip_low": at.tokens_per_s_per_chip.low,
            "tokens_per_s_per_chip_high": at.tokens_per_s_per_chip.high,
            "sequences_per_chip": at.sequences_per_chip,
        }
        points += [
            Point(f"by_tokens_per_s_per_user/{name}", rounded(value, 6), step)
            for name, value in values.items()
        ]
    for pool in best.pools:
        points += [
            Point(
                f"{pool.role}_pass/{clean(part.name.replace(' ', '_'), 180)}_s",
                rounded(part.seconds, 6),
            )
            for part in pool.parts
        ]
    # Two points of the front may round to one step, of which MLflow keeps one value.
    return tuple({(point.key, point.step): point for point in points}.values())


def serving_content(folder: RunFolder, vendors: Mapping[str, str] | None = None) -> RunContent:
    """The projection's own run; its uid is the content's hash, as that of a training one.

    Raises RecordError when the folder has none that can be read.
    """
    projection = folder.serving
    if projection is None:
        raise RecordError(f"{folder.path}: no {SERVING} there.")
    source = folder.path / SERVING
    digest = Artifact(path=SERVING, source=source).sha256()[:24]
    written_ms = int(source.stat().st_mtime * 1000)
    plan = " + ".join(pool.plan.label for pool in projection.best.pools)
    tags = {
        "chip": projection.chip,
        "vendor": (vendors or {}).get(projection.chip, ""),
        "model": projection.model,
        "cluster": projection.cluster,
        "mode": str(projection.best.mode),
        "plan": plan,
        "source_runs": " ".join(projection.run_ids),
        NOTE_TAG: _note(projection, plan),
    }
    params = {
        "model": projection.model,
        "chip": projection.chip,
        "cluster": projection.cluster,
        "chips": str(projection.num_chips),
        "weight_dtype": projection.weight_dtype,
        "cache_dtype": projection.cache_dtype,
        "input_tokens": str(projection.input_tokens),
        "output_tokens": str(projection.output_tokens),
        "ttft_limit_s": str(projection.ttft_limit_s),
        "tpot_limit_s": str(projection.tpot_limit_s),
    }
    files = ((SERVING, SERVING), (REPORT_HTML, REPORT_HTML))
    return RunContent(
        experiment=SERVINGS,
        uid=f"serving/{digest}",
        name=f"{projection.model}@{projection.chip} {projection.num_chips}",
        start_ms=written_ms,
        end_ms=written_ms,
        is_finished=True,
        tags=tuple((key, value) for key, value in tags.items() if value),
        params=tuple(params.items()),
        points=_points(projection),
        artifacts=present_files(folder, files),
        views=SERVING_VIEWS,
        about="Serving on clusters of a chip; charts have tokens/s per user as step.",
    )


def _note(projection: ServingProjection, plan: str) -> str:
    lines = [serving_headline(projection), "", f"- Plan: {plan}"]
    lines.append(f"- Interval: {projection.interval_basis}")
    lines += [f"- Taken on trust: {text}" for text in projection.assumptions]
    return "\n".join(lines)[:MAX_NOTE]
