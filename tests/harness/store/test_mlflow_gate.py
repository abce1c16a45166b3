"""A gate in MLflow: its own run, and one for either side."""

import dataclasses
import json
from pathlib import Path

import pytest

from harness.errors import RecordError
from harness.gate_result import Arm, GateCase, State
from harness.store.folder import RunFolder
from harness.store.mlflow.gate_layout import (
    GATE_VIEWS,
    base_content,
    gate_content,
    head_content,
    verdict,
)
from tests.harness.report.gate_sample import case, flagged_cases, large, result
from tests.harness.sample_run import sample_records, write_run
from tests.harness.store.gate_run import measured_gate, written


def test_the_gates_own_run_has_the_verdict_in_the_first_line(tmp_path: Path) -> None:
    content = gate_content(written(tmp_path, result(pull_request="17")), {"h200": "NVIDIA"})
    tags = dict(content.tags)
    assert content.experiment == "chipscale/gate"
    assert tags["mlflow.note.content"].splitlines()[0] == result().headline
    assert (tags["verdict"], tags["pr"], tags["vendor"]) == ("regressed", "17", "NVIDIA")
    assert (tags["git_branch"], tags["fingerprint"]) == ("faster", "0123456789ab")
    assert content.name == "quick@h200 fedcba9"
    assert {artifact.path for artifact in content.artifacts} == {
        "results.json",
        "gate.json",
        "gate.html",
        "gate.md",
        "junit.xml",
    }


def test_metrics_count_states_and_an_accepted_regression_is_none(tmp_path: Path) -> None:
    points = gate_content(written(tmp_path, result()), {}).points
    summary = {point.key: point.value for point in points if "/" not in point.key}
    assert (summary["regressed"], summary["accepted"], summary["unchanged"]) == (2, 1, 11)
    assert (summary["cases"], summary["largest_change_pct"]) == (20, 11.2)
    curve = [point for point in points if point.key == "changes/sorted_pct"]
    assert [point.step for point in curve] == list(range(1, 18))
    assert [point.value for point in curve] == sorted(point.value for point in curve)


def test_the_table_begins_with_case_and_change_as_the_compare_view_wants(tmp_path: Path) -> None:
    content = gate_content(written(tmp_path, result()), {})
    table = json.loads(next(one.text for one in content.artifacts if one.path == "results.json"))
    assert table["columns"][:2] == ["case", "change_pct"]
    assert len(table["data"]) == 20


def test_a_long_description_is_cut_with_nothing_left_folded(tmp_path: Path) -> None:
    note = dict(gate_content(written(tmp_path, large(300)), {}).tags)["mlflow.note.content"]
    assert len(note) < 7700
    assert note.count("<details>") == note.count("</details>")
    assert note.endswith("The rest is in the artifact gate.md.")


@pytest.mark.parametrize(
    ("cases", "word"),
    [
        (flagged_cases()[:1], "regressed"),
        (flagged_cases()[2:3], "passed"),
        (flagged_cases()[3:4], "invalid"),
        (flagged_cases()[5:6], "inconclusive"),
        ((case(0, State.UNCHANGED),), "passed"),
        ((), "nothing"),
    ],
)
def test_the_verdict_is_one_word_to_filter_by(cases: tuple[GateCase, ...], word: str) -> None:
    assert verdict(result(cases)) == word


def test_a_sides_samples_are_its_rounds(tmp_path: Path) -> None:
    folder = RunFolder(measured_gate(tmp_path))
    base, head = base_content(folder, {}), head_content(folder, {})
    case_id = sample_records()[0].case.id
    for content, median_us in ((base, 2000.0), (head, 4000.0)):
        table = json.loads(
            next(one.text for one in content.artifacts if one.path == "results.json")
        )
        place = {name: index for index, name in enumerate(table["columns"])}
        row = next(row for row in table["data"] if row[place["case_id"]] == case_id)
        assert row[place["median_us"]] == median_us
        # The gate's own table names the case alike, so that MLflow joins the two.
        gate = json.loads(gate_content(folder, {}).artifacts[0].text)
        assert row[0] in [one[0] for one in gate["data"]]
        assert content.experiment == "chipscale/gate/quick"
    tags = dict(head.tags)
    assert (tags["role"], tags["verdict"], tags["pr"]) == ("head", "passed", "17")
    assert (tags["git_branch"], tags["git_sha"]) == ("mine", "bbbbbbbb-dirty")
    assert dict(base.tags)["git_branch"] == "main"
    assert base.uid != head.uid


def test_a_side_without_its_rounds_is_what_the_gate_says_of_it(tmp_path: Path) -> None:
    content = head_content(written(tmp_path, result()), {})
    table = json.loads(next(one.text for one in content.artifacts if one.path == "results.json"))
    assert table["columns"][:2] == ["case", "median_us"]
    assert dict(content.tags)["role"] == "head"


def test_a_stored_base_stays_the_run_it_is(tmp_path: Path) -> None:
    stored = write_run(tmp_path / "runs")
    gate = result(
        base=Arm(label=stored.info.run_id, run_ids=(stored.info.run_id,)), is_interleaved=False
    )
    assert base_content(written(tmp_path, gate), {}).uid == stored.info.run_id


def test_a_gate_that_was_stopped_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no gate\.json there"):
        gate_content(RunFolder(tmp_path), {})


def test_columns_of_the_views_are_metrics_and_tags_of_a_gate(tmp_path: Path) -> None:
    gate = dataclasses.replace(result(), pull_request="17")
    content = gate_content(written(tmp_path, gate), {})
    names = {f"metrics.`{point.key}`" for point in content.points}
    names |= {f"tags.`{key}`" for key, _ in content.tags}
    assert all(set(view.columns) <= names for view in GATE_VIEWS)
