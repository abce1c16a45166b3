import dataclasses
import json
from pathlib import Path

import pytest

from harness.store.mlflow.layout import (
    COLUMNS,
    MAX_NOTE,
    milliseconds,
    run_content,
)
from harness.store.mlflow.projection_layout import projection_content
from harness.store.mlflow.views import PROJECTION_VIEWS, SUITE_VIEWS
from tests.harness.sample_run import sample_info, sample_projection, sample_records, write_run


def test_one_run_is_named_by_suite_chip_and_commit(tmp_path: Path) -> None:
    content = run_content(write_run(tmp_path))
    assert content.experiment == "chipscale/quick"
    assert content.name == "quick@imaginary_x1 0123456"
    assert content.start_ms == milliseconds("2026-01-02T03:04:05+00:00")
    assert content.end_ms - content.start_ms == 160_000


def test_tags_tell_chip_code_and_software_and_keep_the_users_own(tmp_path: Path) -> None:
    tags = dict(run_content(write_run(tmp_path), {"imaginary_x1": "Imaginary"}).tags)
    assert tags["vendor"] == "Imaginary"
    assert tags["git_sha"].endswith("-dirty")
    assert (tags["torch"], tags["triton"], tags["host"]) == ("2.13.0", "3.7.1", "node-7")
    assert tags["purpose"] == "test"
    assert tags["fingerprint"].startswith("imaginary")


def test_params_tell_what_the_inputs_held(tmp_path: Path) -> None:
    parts = (("inputs", "zeros"),)
    records = tuple(
        dataclasses.replace(record, protocol_parts=parts) for record in sample_records()
    )
    params = dict(run_content(write_run(tmp_path, records=records)).params)
    assert params["inputs"] == "zeros"


def test_a_users_tag_cannot_replace_one_of_ours(tmp_path: Path) -> None:
    info = sample_info(tags=(("chip", "another"),))
    assert dict(run_content(write_run(tmp_path, info=info)).tags)["chip"] == "imaginary_x1"


def test_summary_metrics_are_few_short_and_rounded(tmp_path: Path) -> None:
    points = [point for point in run_content(write_run(tmp_path)).points if "/" not in point.key]
    assert {point.key for point in points} == {
        "geomean_us",
        "pct_roof",
        "ok",
        "noisy",
        "failed",
        "unsupported",
        "roof_tflops",
        "roof_gbps",
    }
    assert all(point.value == float(f"{point.value:.4g}") for point in points)
    values = {point.key: point.value for point in points}
    assert (values["ok"], values["failed"], values["unsupported"]) == (48, 5, 1)


def test_the_table_begins_with_case_and_median_as_the_compare_view_wants(tmp_path: Path) -> None:
    artifacts = {one.path: one for one in run_content(write_run(tmp_path)).artifacts}
    table = json.loads(artifacts["results.json"].text)
    assert table["columns"] == list(COLUMNS)
    assert table["columns"][:2] == ["case", "median_us"]
    assert len({row[0] for row in table["data"]}) == 54
    assert artifacts["results.csv"].text.count("\n") == 55
    assert {"records.jsonl", "environment.json", "config/config.yaml"} <= set(artifacts)


def test_the_description_is_the_markdown_report_cut_at_a_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    (folder.path / "report.md").write_text("The verdict.\n\n" + "line\n" * 4000, encoding="utf-8")
    note = dict(run_content(folder).tags)["mlflow.note.content"]
    assert note.startswith("The verdict.\n")
    assert note.endswith("The rest is in the artifact report.md.")
    assert len(note) < MAX_NOTE + 60


def test_without_a_report_the_description_is_the_headline(tmp_path: Path) -> None:
    note = dict(run_content(write_run(tmp_path)).tags)["mlflow.note.content"]
    assert note.startswith("quick on imaginary_x1: 5 of 54 cases failed")


def test_a_run_that_did_not_end_is_not_finished(tmp_path: Path) -> None:
    content = run_content(write_run(tmp_path, info=sample_info(ended_at="")))
    assert not content.is_finished
    assert content.end_ms == milliseconds("2026-01-02T03:05:10+00:00")


def test_the_share_of_a_roof_that_may_still_rise_is_no_point(tmp_path: Path) -> None:
    growing = run_content(write_run(tmp_path / "a", info=sample_info(ended_at="")))
    ended = run_content(write_run(tmp_path / "b"))
    keys = [{point.key for point in content.points} for content in (growing, ended)]
    missing = keys[1] - keys[0]
    assert missing
    assert all("/pct_roof" in key for key in missing)


def test_a_run_without_records_has_a_layout(tmp_path: Path) -> None:
    content = run_content(write_run(tmp_path, records=()))
    assert {point.key: point.value for point in content.points} == {
        "ok": 0,
        "failed": 0,
        "unsupported": 0,
        "noisy": 0,
    }


def test_a_projection_has_the_number_of_chips_as_step(tmp_path: Path) -> None:
    projection = sample_projection()
    folder = write_run(tmp_path, projection=projection)
    content = projection_content(folder)
    steps = [p.step for p in content.points if p.key == "by_number_of_chips/tokens_per_s"]
    assert steps == [8, 64, 512, 4096, 16384, 65536, 100_000]
    assert ("step_parts/pipeline_bubble_s", 1.2) in {(p.key, p.value) for p in content.points}
    assert dict(content.tags)["source_runs"] == projection.run_ids[0]


def test_counts_in_the_columns_are_whole(tmp_path: Path) -> None:
    projection = sample_projection()
    at = dataclasses.replace(projection.headline, num_chips=16384)
    folder = write_run(tmp_path, projection=dataclasses.replace(projection, headline=at))
    values = {point.key: point.value for point in projection_content(folder).points}
    assert values["chips"] == 16384
    in_millions = at.tokens_per_second.value / 1e6
    assert values["million_tokens_per_s"] == pytest.approx(in_millions, rel=1e-3)


def test_a_projection_made_again_with_other_assumptions_is_another_run(tmp_path: Path) -> None:
    first = sample_projection()
    folder = write_run(tmp_path, projection=first)
    uid = projection_content(folder).uid
    second = dataclasses.replace(first, mfu=0.3)
    folder.write("projection.json", second)
    assert projection_content(folder).uid != uid


def test_saved_views_fit_into_an_experiment_tag_and_name_metrics_that_exist(
    tmp_path: Path,
) -> None:
    projection = sample_projection()
    folder = write_run(tmp_path, projection=projection)
    contents = (
        (run_content(folder), SUITE_VIEWS),
        (projection_content(folder), PROJECTION_VIEWS),
    )
    for content, views in contents:
        known = {f"metrics.`{point.key}`" for point in content.points}
        known |= {f"tags.`{key}`" for key, _ in content.tags}
        for view in views:
            assert len(view.value(0)) < 20_000
            assert set(view.columns) <= known
            assert view.is_held_by(view.value(123))
    assert not SUITE_VIEWS[0].is_held_by("no JSON")
