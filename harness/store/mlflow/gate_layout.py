"""What MLflow shall hold of a gate: the gate as a run of its own, and either side as one.

A side is a run of its suite beside all others, since a baseline is looked up there. Its samples
are its rounds, a fresh process each, for that is what the gate counts.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from harness.gate_result import Arm, GateCase, GateResult, State
from harness.record import Record
from harness.results import result_rows
from harness.stats import geometric_mean
from harness.store.folder import ENVIRONMENT, RUN, RunFolder
from harness.store.gate_folder import (
    GATE,
    GATE_HTML,
    GATE_JUNIT,
    GATE_MARKDOWN,
    GATES,
    GateFolder,
)
from harness.store.mlflow.layout import (
    GATE_EXPERIMENT,
    MAX_NOTE,
    NOTE_TAG,
    TABLE,
    Artifact,
    Point,
    RunContent,
    case_points,
    milliseconds,
    present_files,
    rounded,
    run_content,
    summary_points,
    table_artifacts,
)
from harness.store.mlflow.views import NEWEST, SUITE_VIEWS, View

LOGGED_TABLE = json.dumps([{"path": TABLE, "type": "table"}])
_COLUMNS = (
    "tags.`verdict`",
    "tags.`chip`",
    "tags.`suite`",
    "metrics.`regressed`",
    "metrics.`inconclusive`",
    "metrics.`invalid`",
    "metrics.`improved`",
    "metrics.`cases`",
    "metrics.`largest_change_pct`",
    "tags.`git_branch`",
    "tags.`pr`",
)
GATE_VIEWS = (
    View(key="latest", name="Latest", columns=_COLUMNS, order_by=NEWEST, is_ascending=False),
    View(
        key="regressions",
        name="Regressions",
        columns=_COLUMNS,
        order_by="metrics.`regressed`",
        is_ascending=False,
    ),
    View(
        key="by-chip",
        name="By chip",
        columns=_COLUMNS,
        order_by="metrics.`regressed`",
        is_ascending=False,
        group_by_tag="chip",
    ),
)
TABLE_COLUMNS = (
    "case",
    "change_pct",
    "low_pct",
    "high_pct",
    "tolerance_pct",
    "state",
    "base_us",
    "head_us",
    "op",
    "impl",
    "dtype",
    "mode",
    "shape",
    "reason",
    "case_id",
)
"""MLflow's table comparison joins gates on the first column and shows the second."""


def verdict(result: GateResult) -> str:
    """One word to filter by: what came out worst."""
    if result.num_failing:
        return "regressed"
    for state in (State.INVALID, State.INCONCLUSIVE):
        if result.of(state):
            return state.value.lower()
    return "passed" if result.cases else "nothing"


def gate_content(folder: RunFolder, vendors: Mapping[str, str]) -> RunContent:
    """The gate's own run. Raises RecordError when the folder holds no whole gate."""
    result = GateFolder(folder.path).result
    tags = {
        **_common_tags(result, vendors),
        "git_branch": result.head.branch,
        "git_sha": result.head.commit,
        "base_sha": result.base.commit,
        "fingerprint": result.fingerprint,
        "mlflow.source.name": result.command,
        "mlflow.source.type": "LOCAL",
        "mlflow.loggedArtifacts": LOGGED_TABLE,
        NOTE_TAG: _note(folder.path, result),
    }
    params = {
        "suite": result.suite,
        "model": result.model,
        "chip": result.chip,
        "base": result.base.label,
        "head": result.head.label,
        "rounds": str(result.num_rounds),
        "advisory": str(result.is_advisory).lower(),
        "interleaved": str(result.is_interleaved).lower(),
    }
    files = tuple((name, name) for name in (GATE, GATE_HTML, GATE_MARKDOWN, GATE_JUNIT))
    return RunContent(
        experiment=GATE_EXPERIMENT,
        uid=f"gate/{result.gate_id}",
        name=_name(result, result.head),
        start_ms=milliseconds(result.started_at),
        end_ms=milliseconds(result.ended_at),
        is_finished=True,
        tags=_known(tags),
        params=_known(params),
        points=gate_points(result),
        artifacts=(_table(result), *present_files(folder, files)),
        views=GATE_VIEWS,
        about="Base against head in turns on one chip: one run per gate, verdict first.",
    )


def base_content(folder: RunFolder, vendors: Mapping[str, str]) -> RunContent:
    """What the base measured. Raises RecordError when the folder holds no whole gate."""
    return _arm_content(folder, "base", vendors)


def head_content(folder: RunFolder, vendors: Mapping[str, str]) -> RunContent:
    """What the head measured. Raises RecordError when the folder holds no whole gate."""
    return _arm_content(folder, "head", vendors)


def gate_points(result: GateResult) -> tuple[Point, ...]:
    """Cases in each state, the changes as a whole, and each change with its rank as the step."""
    num_regressed = result.num_failing
    counts = {state.value.lower(): len(result.of(state)) for state in State}
    counts["regressed"] = num_regressed
    values: dict[str, float | None] = {
        "cases": len(result.cases),
        **counts,
        "accepted": len(result.of(State.REGRESSED)) - num_regressed,
        "expected_false_alarms": result.expected_false_alarms,
    }
    changes = sorted(
        (case.change for case in result.cases if case.change is not None),
        key=lambda change: change.value,
    )
    if changes:
        largest = max((change.value for change in changes), key=abs)
        values["largest_change_pct"] = 100 * largest
        mean = geometric_mean([1 + change.value for change in changes])
        values["mean_change_pct"] = 100 * (mean - 1)
    points = [Point(name, rounded(value)) for name, value in values.items() if value is not None]
    for rank, change in enumerate(changes, 1):
        points += [
            Point(f"changes/{name}", rounded(100 * value), rank)
            for name, value in (
                ("sorted_pct", change.value),
                ("sorted_low_pct", change.low),
                ("sorted_high_pct", change.high),
            )
        ]
    return tuple(points)


def _known(values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, value in values.items() if value)


def _common_tags(result: GateResult, vendors: Mapping[str, str]) -> dict[str, str]:
    return {
        "chip": result.chip,
        "vendor": vendors.get(result.chip, ""),
        "suite": result.suite,
        "model": result.model,
        "gate_id": result.gate_id,
        "verdict": verdict(result),
        "pr": result.pull_request,
    }


def _name(result: GateResult, arm: Arm) -> str:
    return f"{result.suite}@{result.chip} {arm.commit[:7]}".strip()


def _note(path: Path, result: GateResult) -> str:
    file = path / GATE_MARKDOWN
    text = file.read_text(encoding="utf-8") if file.is_file() else f"{result.headline}\n"
    if len(text) <= MAX_NOTE:
        return text
    cut = text[:MAX_NOTE].rpartition("\n")[0]
    # What was folded and is cut has to be closed, or the UI shows the rest of its page folded.
    end = "\n\n</details>" if cut.count("<details>") > cut.count("</details>") else ""
    return f"{cut}{end}\n\nThe rest is in the artifact {GATE_MARKDOWN}."


def _case_name(case: GateCase) -> str:
    """As `case_name` of a run's table, so that the two are joined."""
    sizes = case.shape.replace("=", "")
    return f"{case.op} {case.impl} {sizes} {case.dtype}.{case.mode.replace(' ', '.')}"


def _table(result: GateResult) -> Artifact:
    def percent(share: float | None) -> float | None:
        return None if share is None else rounded(100 * share)

    def microseconds(seconds: float | None) -> float | None:
        return None if seconds is None else rounded(1e6 * seconds, 6)

    rows = [
        [
            _case_name(case),
            *(
                (None, None, None)
                if case.change is None
                else map(percent, (case.change.value, case.change.low, case.change.high))
            ),
            percent(case.tolerance),
            case.state.value,
            microseconds(case.base_s),
            microseconds(case.head_s),
            case.op,
            case.impl,
            case.dtype,
            case.mode,
            case.shape,
            case.reason,
            case.case_id,
        ]
        for case in result.cases
    ]
    frame = pd.DataFrame(rows, columns=list(TABLE_COLUMNS))
    return Artifact(
        path=TABLE, text=frame.to_json(orient="split", index=False, double_precision=15)
    )


def _arm_content(folder: RunFolder, role: str, vendors: Mapping[str, str]) -> RunContent:
    result = GateFolder(folder.path).result
    arm = result.base if role == "base" else result.head
    first = _first_round(folder.path, role, arm)
    if first is None:
        stored = _stored_run(folder.path, arm)
        # A run that was there before the gate keeps its MLflow run: it was not measured twice.
        return (
            _without_rounds(result, role, vendors)
            if stored is None
            else run_content(stored, vendors)
        )
    content = run_content(first, vendors)
    rows = result_rows(_of_rounds(first, role, result), first.roofs)
    tags = {
        **dict(content.tags),
        **{name: value for name, value in _arm_tags(result, role, vendors).items() if value},
    }
    files = ((ENVIRONMENT, ENVIRONMENT), (GATE, GATE))
    return replace(
        content,
        experiment=_sides(result),
        about=_about(result),
        uid=f"gate/{result.gate_id}/{role}",
        name=f"{_name(result, arm)} {role}",
        start_ms=milliseconds(result.started_at),
        end_ms=milliseconds(result.ended_at),
        is_finished=True,
        tags=_known(tags),
        params=_known({**dict(content.params), "rounds": str(result.num_rounds)}),
        points=(*summary_points(rows, first.roofs), *case_points(rows)),
        artifacts=(
            *table_artifacts(rows),
            *present_files(first, files[:1]),
            *present_files(folder, files[1:]),
        ),
    )


def _sides(result: GateResult) -> str:
    """The experiment of base and head.

    Apart from the suite's own, whose leaderboard they would fill with other cases and rules.
    """
    return f"{GATE_EXPERIMENT}/{result.suite}"


def _about(result: GateResult) -> str:
    return f"Base and head of the gates of suite {result.suite}; {GATE_EXPERIMENT} has the gates."


def _arm_tags(result: GateResult, role: str, vendors: Mapping[str, str]) -> dict[str, str]:
    arm = result.base if role == "base" else result.head
    return {
        **_common_tags(result, vendors),
        "role": role,
        "label": arm.label,
        "git_sha": arm.commit,
        "git_branch": arm.branch,
        NOTE_TAG: f"{result.headline}\n\nThis is the {role}, {arm.label}, of gate "
        f"{result.gate_id}; the experiment {GATE_EXPERIMENT} has the gate.",
    }


def _first_round(path: Path, role: str, arm: Arm) -> RunFolder | None:
    """The folder of that side's first round, among those that the gate keeps."""
    found = [RunFolder(one.parent) for one in sorted(path.glob(f"{role}-*/{RUN}"))]
    by_id = {folder.info.run_id: folder for folder in found if folder.has_records}
    return next((by_id[run_id] for run_id in arm.run_ids if run_id in by_id), None)


def _stored_run(path: Path, arm: Arm) -> RunFolder | None:
    """The run that served as the base, where it lies in the same results folder."""
    if path.resolve().parent.name != GATES:
        return None
    runs = path.resolve().parents[1] / "runs"
    found = (RunFolder(runs / run_id) for run_id in arm.run_ids)
    return next((one for one in found if (one.path / RUN).exists()), None)


def _rounds_s(case: GateCase, role: str) -> tuple[float, ...]:
    stages = [stage for stage in (case.screen, case.confirm) if stage is not None]
    return tuple(
        value for stage in stages for value in (stage.base_s if role == "base" else stage.head_s)
    )


def _of_rounds(first: RunFolder, role: str, result: GateResult) -> tuple[Record, ...]:
    """The first round's records with the medians of all rounds in place of their samples."""
    rounds_of = {case.case_id: _rounds_s(case, role) for case in result.cases}
    return tuple(
        record
        if record.measurement is None or not rounds_of.get(record.case.id)
        else replace(
            record,
            measurement=replace(
                record.measurement, samples_s=rounds_of[record.case.id], windows=()
            ),
        )
        for record in first.records()
    )


def _without_rounds(result: GateResult, role: str, vendors: Mapping[str, str]) -> RunContent:
    """What the gate alone says of a side whose rounds are not beside it."""
    arm = result.base if role == "base" else result.head
    rows = [
        [
            _case_name(case),
            seconds and rounded(1e6 * seconds, 6),
            *(case.op, case.impl, case.shape, case.case_id),
        ]
        for case in result.cases
        for seconds in (case.base_s if role == "base" else case.head_s,)
    ]
    columns = ["case", "median_us", "op", "impl", "shape", "case_id"]
    frame = pd.DataFrame(rows, columns=columns)
    text = frame.to_json(orient="split", index=False, double_precision=15)
    tags = {
        **_arm_tags(result, role, vendors),
        **dict(arm.versions),
        "mlflow.loggedArtifacts": LOGGED_TABLE,
    }
    return RunContent(
        experiment=_sides(result),
        uid=f"gate/{result.gate_id}/{role}",
        name=f"{_name(result, arm)} {role}",
        start_ms=milliseconds(result.started_at),
        end_ms=milliseconds(result.ended_at),
        is_finished=True,
        tags=_known(tags),
        params=_known({"chip": result.chip, "model": result.model}),
        points=(),
        artifacts=(Artifact(path=TABLE, text=text),),
        views=SUITE_VIEWS,
        about=_about(result),
    )
