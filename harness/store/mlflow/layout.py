"""What MLflow shall hold of a run folder, as plain data; nothing here knows MLflow's client.

One experiment per suite and one run per suite, chip and invocation: a nested run per case fills
the UI's pages with children and hides the chips, and is some hundred times slower to log.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from harness.cases import Case
from harness.closure import Closure, closures_of, complete
from harness.environment import Environment
from harness.fingerprint import fingerprint
from harness.record import Record, protocol_values
from harness.results import (
    ResultRow,
    Roofs,
    accepted,
    geomean_roof_share,
    geomean_s,
    headline,
    num_failed,
    result_rows,
    roofs_text,
    sheet_share,
    status_counts,
)
from harness.spread import Spread
from harness.store.folder import (
    CASES,
    CLOSURE,
    CONFIG,
    ENVIRONMENT,
    PROJECTION,
    PROOF,
    RECORDS,
    REPORT_HTML,
    REPORT_MARKDOWN,
    ROOFS,
    RUN,
    SPREAD,
    RunFolder,
    RunInfo,
)
from harness.store.mlflow.charts import suite_sections
from harness.store.mlflow.keys import MAX_NAME, Placeable, PlannedCase, clean, places
from harness.store.mlflow.views import SUITE_VIEWS, View, with_charts
from harness.units import GIGA, TERA
from harness.wall_time import wall_time_of

EXPERIMENT = "chipscale"
PROJECTIONS = f"{EXPERIMENT}/projection"
SERVINGS = f"{EXPERIMENT}/serving"
COMPARISONS = f"{EXPERIMENT}/comparison"
GATE_EXPERIMENT = f"{EXPERIMENT}/gate"
DERIVED = (PROJECTIONS, SERVINGS, COMPARISONS, GATE_EXPERIMENT)
"""Experiments of what is made from runs."""
UID_TAG = "chipscale.run_uid"
SYNC_TAG = "chipscale.sync"
CONTENT_TAG = "chipscale.content"
NOTE_TAG = "mlflow.note.content"
MAX_NOTE = 7500
"""MLflow keeps 8000 characters of a tag; the whole text is the artifact report.md."""
TABLE = "results.json"
SUMMARY_DIGITS = 4
"""The UI shows all digits it is given, and cuts a column off at about twelve characters."""
COLUMNS = (
    "case",
    "median_us",
    "low_us",
    "high_us",
    "status",
    "tflops",
    "gbps",
    "pct_roof",
    "joules",
    "sustained_us",
    "op",
    "impl",
    "dtype",
    "mode",
    "shape",
    "launch",
    "remarks",
    "reason",
    "protocol_hash",
    "case_id",
)
"""MLflow's table comparison joins runs on the first column and shows the second."""


def is_derived(experiment: str) -> bool:
    """It is of what is made from runs, or of the sides of gates; all others are suites."""
    return experiment in DERIVED or experiment.startswith(f"{GATE_EXPERIMENT}/")


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a metric."""

    key: str
    value: float
    step: int = 0
    time_ms: int | None = None
    """When it was measured; None for what is of the whole run, and so of its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file to keep with the run: one that is there, or a text made here."""

    path: str
    source: Path | None = None
    text: str = ""

    def sha256(self) -> str:
        """Of the content."""
        if self.source is None:
            return hashlib.sha256(self.text.encode()).hexdigest()
        with self.source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContent:
    """Everything one MLflow run shall hold."""

    experiment: str
    uid: str
    """Never two MLflow runs with the same one."""
    name: str
    start_ms: int
    end_ms: int
    is_finished: bool
    """False for a run that was stopped before its end and may be resumed."""
    tags: tuple[tuple[str, str], ...]
    params: tuple[tuple[str, str], ...]
    points: tuple[Point, ...]
    artifacts: tuple[Artifact, ...]
    views: tuple[View, ...]
    about: str
    """What the experiment holds, for MLflow's list of experiments."""


def milliseconds(time: str, otherwise: int = 0) -> int:
    """An ISO 8601 time, taken as UTC where it names no zone, in milliseconds since 1970."""
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        return otherwise
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def rounded(value: float, digits: int = SUMMARY_DIGITS) -> float:
    """That many significant digits; a count is whole."""
    return float(value) if isinstance(value, int) else float(f"{value:.{digits}g}")


def scaled(row: ResultRow) -> dict[str, float]:
    """The numbers of a case under the names of its metrics; what is unknown is absent."""
    values = {
        "median_us": row.median_s and row.median_s * 1e6,
        "tflops": row.flops_per_s and row.flops_per_s / TERA,
        "gbps": row.bytes_per_s and row.bytes_per_s / GIGA,
        "pct_roof": row.roof_share and row.roof_share * 100,
        "joules": row.energy.joules_per_run if row.energy else None,
        "sustained_us": row.sustained.sustained_s * 1e6 if row.sustained else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def case_name(row: ResultRow) -> str:
    """`gemm torch M4096 N4096 K4096 bf16.forward`: the case, with what tells cases apart first.

    MLflow shows some twenty characters of it.
    """
    sizes = " ".join(f"{name}{size}" for name, size in row.axes)
    return f"{row.op} {row.impl} {sizes} {row.group.removeprefix(f'{row.op}.')}"


def table_rows(rows: Sequence[ResultRow]) -> list[list[str | float | None]]:
    """The rows of `results.json` and `results.csv`, in the order of COLUMNS."""
    table: list[list[str | float | None]] = []
    for row in rows:
        numbers = {name: rounded(value, 6) for name, value in scaled(row).items()}
        table.append(
            [
                case_name(row),
                numbers.get("median_us"),
                None if row.low_s is None else rounded(row.low_s * 1e6, 6),
                None if row.high_s is None else rounded(row.high_s * 1e6, 6),
                row.status_word,
                numbers.get("tflops"),
                numbers.get("gbps"),
                numbers.get("pct_roof"),
                numbers.get("joules"),
                numbers.get("sustained_us"),
                row.op,
                row.impl,
                row.dtype,
                row.mode,
                row.shape,
                row.launch,
                ", ".join(row.remarks),
                row.reason,
                row.protocol_hash,
                row.case_id,
            ]
        )
    return table


def table_artifacts(rows: Sequence[ResultRow]) -> tuple[Artifact, ...]:
    """results.json and results.csv."""
    frame = pd.DataFrame(table_rows(rows), columns=list(COLUMNS))
    return (
        # Columns and data apart is the form that MLflow's table view joins across runs.
        Artifact(path=TABLE, text=frame.to_json(orient="split", index=False, double_precision=15)),
        Artifact(path="results.csv", text=frame.to_csv(index=False, lineterminator="\n")),
    )


def present_files(folder: RunFolder, names: Iterable[tuple[str, str]]) -> tuple[Artifact, ...]:
    """Those files of the folder that are there, each with its path among the artifacts."""
    return tuple(
        Artifact(path=path, source=folder.path / name)
        for name, path in names
        if (folder.path / name).is_file()
    )


def case_points(
    rows: Sequence[ResultRow],
    started_at: Mapping[str, str] | None = None,
    planned: Sequence[Case] = (),
    *,
    has_final_roofs: bool = True,
) -> tuple[Point, ...]:
    """The stepped metrics: every number of every case that has a time.

    Args:
        rows: All cases of the run.
        started_at: When each case was begun, by its id. A run that grows is synced many times,
            and with times of their own its older cases are the same points each time.
        planned: All cases that the run is to have, so that none moves as it grows: MLflow cannot
            take a point back.
        has_final_roofs: No better roof can be found; until then a share of one may still fall, and
            of two values at one time and step MLflow takes the larger for the newest.
    """
    known: dict[str, Placeable] = {case.id: PlannedCase.of(case) for case in planned}
    place_of = places(list((known | {row.case_id: row for row in rows}).values()))
    times = started_at or {}
    points = []
    for row in rows:
        place = place_of[row.case_id]
        time_ms = milliseconds(times.get(row.case_id, "")) or None
        points += [
            Point(place.key(measure), rounded(value, 6), place.step, time_ms)
            for measure, value in scaled(row).items()
            if has_final_roofs or measure != "pct_roof"
        ]
    return tuple(points)


def summary_points(rows: Sequence[ResultRow], roofs: Roofs) -> tuple[Point, ...]:
    """At most eight numbers for the columns of the run table, rounded."""
    mean_s, share = geomean_s(rows), geomean_roof_share(rows)
    matrix, bandwidth = roofs.best_flops_per_s, roofs.bytes_per_s
    num_ok = sum(row.is_ok for row in rows)
    failed = num_failed(rows)
    values = {
        "geomean_us": mean_s and mean_s * 1e6,
        "pct_roof": share and share * 100,
        "ok": num_ok,
        "failed": failed,
        "unsupported": len(rows) - num_ok - failed,
        "noisy": sum(row.is_noisy for row in rows),
        "roof_tflops": matrix and matrix / TERA,
        "roof_gbps": bandwidth and bandwidth / GIGA,
    }
    return tuple(Point(name, rounded(value)) for name, value in values.items() if value is not None)


def fleet_points(spread: Spread | None, run_id: str) -> tuple[Point, ...]:
    """How long the run's device takes over the one in the middle of those measured at once."""
    device = spread.of_run(run_id) if spread is not None else None
    return () if device is None else (Point("over_middle_device", rounded(device.ratio, 6)),)


def wall_time_points(records: Sequence[Record]) -> tuple[Point, ...]:
    """For how much of the run's time its device was measured, compiling left out."""
    wall_time = wall_time_of(records)
    if wall_time is None:
        return ()
    return (Point("pct_measuring", rounded(100 * wall_time.measured_share_once_compiled)),)


_ROOF_SCALES = {"FLOP/s": ("tflops", TERA), "B/s": ("gbps", GIGA), "s": ("us", 1e-6)}


def roof_points(roofs: Roofs) -> tuple[Point, ...]:
    """Each measured roof with its interval and its share of the data sheet, in their own section.

    `roofs/bf16.tflops`, `roofs/bf16.tflops_low`, `roofs/bf16.tflops_high`, `roofs/bf16.pct_sheet`.
    """
    points = []
    for roof in roofs.roofs:
        measure, scale = _ROOF_SCALES[roof.unit]
        name = f"roofs/{roof.what.replace(' ', '_')}"
        values = {measure: roof.value, f"{measure}_low": roof.low, f"{measure}_high": roof.high}
        points += [
            Point(f"{name}.{key}", rounded(value / scale, 6)) for key, value in values.items()
        ]
        share = sheet_share(roof, roofs.sheet)
        if share is not None:
            points.append(Point(f"{name}.pct_sheet", rounded(100 * share)))
    return tuple(points)


def closure_points(closures: Sequence[Closure]) -> tuple[Point, ...]:
    """By how much the sum of a layer's ops is off, as a share of the layer, in their own section.

    `closure/closure_error_dense_layer.bf16.gated_B_1_..._.training.fastest.cold`.
    """
    return tuple(
        Point(f"closure/{clean(_closure_name(one), MAX_NAME)}", rounded(one.error.value))
        for one in complete(closures)
        if one.error is not None
    )


def _closure_name(closure: Closure) -> str:
    # The checksum of a long name is of all of it, so that no two share one.
    place = f"{closure.part.replace(' ', '_')}.{closure.implementation}.{closure.cache}"
    return f"closure_error_{closure.layer}.{place}"


def _tags(info: RunInfo, environment: Environment, vendor: str, config: Path) -> dict[str, str]:
    commit = environment.commit + ("-dirty" if environment.has_local_changes else "")
    tags = {
        **dict(info.tags),
        "chip": info.chip,
        "vendor": vendor,
        "suite": info.suite,
        "model": info.model,
        "device": info.device,
        "device_name": environment.device.name,
        "device_uuid": environment.device.uuid,
        "host": environment.host,
        "git_sha": commit if environment.commit else "",
        "git_branch": environment.branch,
        "driver": environment.device.driver,
        "runtime": environment.device.runtime,
        "torch": environment.version("torch"),
        "triton": environment.version("triton"),
        "fingerprint": fingerprint(environment),
        # No param: MLflow would draw a hash as the first thing in which two runs differ.
        "config_sha256": (
            hashlib.sha256(config.read_bytes()).hexdigest()[:12] if config.is_file() else ""
        ),
        "mlflow.source.name": info.command,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": environment.commit,
        "mlflow.loggedArtifacts": json.dumps([{"path": TABLE, "type": "table"}]),
    }
    return {key: value for key, value in tags.items() if value}


def _params(
    info: RunInfo, environment: Environment, records: Sequence[Record]
) -> tuple[tuple[str, str], ...]:
    timed = [record.measurement for record in records if record.measurement is not None]

    def distinct(values: Iterable[str]) -> str:
        return " ".join(sorted(set(values)))

    params = {
        "chip": info.chip,
        "model": info.model,
        "impls": distinct(record.case.impl for record in records),
        "dtypes": distinct(record.case.problem.dtype for record in records),
        "launch": distinct(one.launch for one in timed if one.launch),
        "timer": distinct(one.timer for one in timed),
        "cache": distinct(one.cache for one in timed),
        "inputs": " ".join(protocol_values(records, "inputs")),
        "driver": environment.device.driver,
        "runtime": environment.device.runtime,
        "torch": environment.version("torch"),
        "triton": environment.version("triton"),
    }
    return tuple((key, value) for key, value in params.items() if value)


def note_of(folder: RunFolder, otherwise: str) -> str:
    """The Markdown report, whose first line is the verdict, as far as MLflow keeps it."""
    report = folder.path / REPORT_MARKDOWN
    text = report.read_text(encoding="utf-8") if report.is_file() else otherwise
    if len(text) <= MAX_NOTE:
        return text
    cut = text[:MAX_NOTE].rpartition("\n")[0]
    return f"{cut}\n\nThe rest is in the artifact {REPORT_MARKDOWN}."


def run_content(folder: RunFolder, vendors: Mapping[str, str] | None = None) -> RunContent:
    """The suite's run. Raises RecordError when the folder cannot be read."""
    info, environment, records = folder.info, folder.environment, folder.records()
    roofs = folder.roofs_with(lambda: records)
    rows = result_rows(records, roofs)
    points = (
        *roof_points(roofs),
        *closure_points(closures_of(accepted(records, roofs))),
        *case_points(
            rows,
            {record.case.id: record.started_at for record in records},
            folder.planned_cases,
            has_final_roofs=bool(info.ended_at) or (folder.path / ROOFS).is_file(),
        ),
    )
    last_ms = max(
        (milliseconds(record.started_at) for record in records),
        default=milliseconds(info.started_at),
    )
    commit = f" {environment.commit[:7]}" if environment.commit else ""
    config = folder.path / CONFIG
    tags = _tags(info, environment, (vendors or {}).get(info.chip, ""), config)
    tags[NOTE_TAG] = note_of(
        folder,
        f"{headline(info.suite, info.chip, rows)}\n\n"
        f"- Cases: {status_counts(rows)}\n- Measured roofs: {roofs_text(roofs)}\n",
    )
    files = (
        (RECORDS, RECORDS),
        (ENVIRONMENT, ENVIRONMENT),
        (PROOF, PROOF),
        (RUN, RUN),
        (CONFIG, f"config/{CONFIG}"),
        (CASES, f"config/{CASES}"),
        (PROJECTION, PROJECTION),
        (CLOSURE, CLOSURE),
        (SPREAD, SPREAD),
        (ROOFS, ROOFS),
        (REPORT_HTML, REPORT_HTML),
        (REPORT_MARKDOWN, REPORT_MARKDOWN),
    )
    return RunContent(
        experiment=f"{EXPERIMENT}/{info.suite}",
        uid=info.run_id,
        name=f"{info.suite}@{info.chip}{commit}",
        start_ms=milliseconds(info.started_at, last_ms),
        end_ms=milliseconds(info.ended_at, last_ms) if info.ended_at else last_ms,
        is_finished=bool(info.ended_at),
        tags=tuple(tags.items()),
        params=_params(info, environment, records),
        points=(
            *summary_points(rows, roofs),
            *fleet_points(folder.spread, info.run_id),
            *wall_time_points(records),
            *points,
        ),
        artifacts=(*table_artifacts(rows), *present_files(folder, files)),
        views=with_charts(SUITE_VIEWS, suite_sections((one.key, one.step) for one in points)),
        about=f"Suite {info.suite}: one run per chip and invocation. Charts, and a table of all "
        "chips, are the second and third icon above the runs; Views has a leaderboard.",
    )
