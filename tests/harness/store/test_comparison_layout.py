"""What MLflow is told of a comparison."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness.compare import TOLERANCE, compare_runs
from harness.comparison import ChipComparison
from harness.errors import RecordError
from harness.report import comparison_markdown
from harness.store.folder import COMPARISON, REPORT_MARKDOWN, RunFolder
from harness.store.mlflow.comparison_layout import COMPARISON_COLUMNS, comparison_content
from harness.store.mlflow.kinds import kinds_of
from tests.harness.compare.chips import Chip, chip_input

CHIPS = (Chip(), Chip(name="beta", bytes_per_s=2e12), Chip(name="gamma", flops_per_s=150e12))


@pytest.fixture(scope="module")
def compared() -> ChipComparison:
    runs = [chip_input(chip, "suite=quick", "suite.ops=[gemm,adamw]") for chip in CHIPS]
    return compare_runs(
        runs,
        comparison_id="alpha-vs-beta-vs-gamma-1",
        tolerance=TOLERANCE,
        created_at="2026-01-02T03:04:05+00:00",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, compared: ChipComparison) -> RunFolder:
    made = RunFolder(tmp_path_factory.mktemp("comparison"))
    made.write(COMPARISON, compared)
    text = comparison_markdown.render(compared)
    (made.path / REPORT_MARKDOWN).write_text(text, encoding="utf-8")
    return made


def test_the_description_begins_with_the_verdict(folder: RunFolder) -> None:
    note = dict(comparison_content(folder).tags)["mlflow.note.content"]
    assert note.startswith("**B (beta) is 1.")
    assert len(note) < 8000


def test_the_metrics_are_the_mean_each_group_and_each_bar(
    folder: RunFolder, compared: ChipComparison
) -> None:
    points = {point.key: point.value for point in comparison_content(folder).points}
    assert points["speedup"] == pytest.approx(compared.pairs[0].overall.speedup.value, rel=1e-3)
    assert points["C/speedup"] == pytest.approx(compared.pairs[1].overall.speedup.value, rel=1e-3)
    assert points["speedup_training/adamw.bf16.forward"] == pytest.approx(2.0, rel=0.01)
    bars = [value for key, value in points.items() if key.startswith("training_step/")]
    waterfall = compared.pairs[0].waterfalls[0]
    assert sum(bars) == pytest.approx(waterfall.difference_s, rel=1e-2)


def test_a_step_that_is_shorter_on_the_other_chip_is_above_1_like_the_other_columns(
    folder: RunFolder, compared: ChipComparison
) -> None:
    points = {point.key: point.value for point in comparison_content(folder).points}
    waterfall = compared.pairs[0].waterfalls[0]
    expected = waterfall.first_s / waterfall.second_s
    assert points["training_step_speedup"] == pytest.approx(expected, rel=1e-3)


def test_the_columns_of_the_views_are_logged(folder: RunFolder) -> None:
    content = comparison_content(folder)
    names = {f"metrics.`{point.key}`" for point in content.points}
    names |= {f"tags.`{key}`" for key, _ in content.tags}
    assert set(COMPARISON_COLUMNS) - names == {"metrics.`decode_step_speedup`"}
    assert content.experiment == "chipscale/comparison"


def test_the_same_runs_compared_again_are_the_same_run_of_mlflow(folder: RunFolder) -> None:
    first = comparison_content(folder)
    assert first.uid == "comparison/alpha-vs-beta-vs-gamma-1"
    assert comparison_content(folder) == first


def test_a_sync_knows_the_folder_as_a_comparison(folder: RunFolder) -> None:
    (kind,) = kinds_of(folder)
    assert (kind.name, kind.home) == ("comparison", "comparisons")
    assert kind.layout(folder, {}) == comparison_content(folder)


def test_a_vendor_is_a_tag_where_it_is_known(folder: RunFolder) -> None:
    assert dict(comparison_content(folder, {"beta": "Beta Inc"}).tags)["vendor"] == "Beta Inc"
    assert "vendor" not in dict(comparison_content(folder).tags)


def test_a_comparison_that_cannot_be_read_is_refused(
    tmp_path: Path, compared: ChipComparison
) -> None:
    with pytest.raises(RecordError, match="it is no comparison"):
        comparison_content(RunFolder(tmp_path))
    RunFolder(tmp_path).write(COMPARISON, replace(compared, schema_version=99))
    with pytest.raises(RecordError, match="schema version 99 is newer"):
        comparison_content(RunFolder(tmp_path))
