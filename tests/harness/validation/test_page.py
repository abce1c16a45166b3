"""What is written of a validation beside its table: the page, the CSV and the charts."""

import csv
import dataclasses
from pathlib import Path
from statistics import median

import pytest

from harness.cli.main import main
from harness.cli.validate import shipped
from harness.config.calibration import shipped_calibration
from harness.extrapolate.calibration import ALL_KINDS, ALL_SOFTWARE
from harness.extrapolate.constants import NAMES
from harness.units import significant
from harness.validation import agreement_plot
from harness.validation.html_page import html_page
from harness.validation.outcome import Outcome, validate
from harness.validation.page import NUM_WORST, page
from harness.validation.reached import ALL, ALL_HELD_OUT, reached_csv
from harness.validation.reasons import reasons
from tests.harness.report.test_html import Page
from tests.harness.validation.test_validate import published, table

ROWS = (
    *("llama3-t4-001", "llama3-t4-002", "vtrain-multi-002", "vtrain-multi-003"),
    *("mbridge-228", "mbridge-191", "megatron-sc21-t1-001", "torchtitan-001", "torchtitan-002"),
)
"""Steps of dense models and of experts, two rows of one configuration, and one of memory."""
HELD_OUT = frozenset({"llama3"})


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    path = tmp_path_factory.mktemp("rows") / "runs.csv"
    rows = [published(row_id) for row_id in ROWS]
    unknown = rows[0] | {"id": "other-1", "chip": "Abacus <9>"}
    return validate(table(path, *rows, unknown), shipped_calibration())


@pytest.fixture(scope="module")
def text(outcome: Outcome) -> str:
    return page(outcome, dataclasses.replace(shipped(), held_out=HELD_OUT))


def cells(text: str, title: str) -> list[list[str]]:
    """The lines of the first table below a heading, without its head."""
    part = text.split(f"## {title}")[1].split("\n## ")[0]
    rows = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[2:]]


def test_the_page_counts_rows_used_and_dropped_with_their_reason(text: str) -> None:
    assert "9 of 10 rows are predicted (90.0%), 8 of them as steps; 1 are not" in text
    assert cells(text, "Rows that are not predicted") == [
        ["1", "chip Abacus <9> has no data sheet in configs/chip"]
    ]


def test_sources_held_out_are_marked_and_have_a_total(text: str) -> None:
    names = [row[0] for row in cells(text, "By source")]
    assert "llama3 (held out)" in names
    assert names[-2:] == ["all", "all held out"]
    assert "all held out" in [row[0] for row in cells(text, "All together")]
    assert "no part of the fit: llama3." in text


def test_without_sources_held_out_the_page_says_so(outcome: Outcome) -> None:
    found = page(outcome, dataclasses.replace(shipped(), held_out=frozenset()))
    assert "No source is held out" in found
    assert "(held out)" not in found


def test_errors_are_told_by_software_and_kind(text: str) -> None:
    kinds = {tuple(row[:2]) for row in cells(text, "By generation of software")}
    assert ("llama", "dense") in kinds
    assert ("megatron_bridge_2026_06", "experts") in kinds


def test_the_worst_rows_come_first_and_say_what_may_explain_them(text: str) -> None:
    rows = cells(text, "The worst")
    errors = [abs(float(row[3].strip("%"))) for row in rows]
    assert len(rows) <= NUM_WORST
    assert errors == sorted(errors, reverse=True)
    assert all(row[5] for row in rows)


def test_every_constant_has_its_prior_its_source_and_its_values(text: str) -> None:
    assert [row[0] for row in cells(text, "The calibration")][: len(NAMES)] == [
        f"`{name}`" for name in NAMES
    ]
    (name, of), one = next(iter(sorted(shipped_calibration().values.items())))
    assert f"| `{name}` | {of or 'all'} | {significant(one.value)} |" in text


def test_what_is_not_checked_names_the_largest_run_and_chips_without_runs(text: str) -> None:
    part = text.split("## What is not checked")[1]
    assert "16,384 (llama3-t4-002" in part
    assert "mi300x" in part
    assert "h100_sxm," not in part


def test_errors_of_runs_left_out_are_those_of_the_calibration(text: str) -> None:
    left = shipped().left_out[ALL_SOFTWARE, ALL_KINDS]
    assert f"| {ALL_KINDS} | {left.num_runs} | {left.median:.1%} |" in text


def test_a_row_that_another_of_its_configuration_contradicts_says_so(outcome: Outcome) -> None:
    by_id = {one.id: one for one in outcome.steps}
    slow, fast = by_id["mbridge-228"], by_id["mbridge-191"]
    found = " ".join(reasons(slow, outcome.steps, {}))
    assert "mbridge-191, of the same model" in found
    assert "times as fast" in found
    assert "times as fast" not in " ".join(reasons(fast, outcome.steps, {}))


def test_a_row_of_software_with_few_runs_says_how_many(outcome: Outcome) -> None:
    one = next(one for one in outcome.steps if one.run.software == "llama")
    assert "3 runs calibrate llama (dense)" in reasons(one, outcome.steps, {("llama", "dense"): 3})
    assert "no runs calibrate llama (dense)" in reasons(one, outcome.steps, {})
    known = reasons(one, outcome.steps, {("llama", "dense"): 30})
    assert not any("calibrate" in reason for reason in known)


def test_the_csv_has_steps_by_source_then_totals_then_other_figures(outcome: Outcome) -> None:
    rows = list(csv.DictReader(reached_csv(outcome, HELD_OUT).splitlines()))
    names = [row["source"] for row in rows]
    assert names[-3:] == [ALL, ALL_HELD_OUT, "torchtitan peak_memory_gib"]
    marked = {row["source"] for row in rows if row["held_out"] == "yes"}
    assert marked == {"llama3", ALL_HELD_OUT}
    total = rows[names.index(ALL)]
    errors = [abs(one.error) for one in outcome.steps]
    assert float(total["mean"]) == pytest.approx(sum(errors) / len(errors), abs=1e-4)
    assert int(total["rows"]) == len(errors)


def test_the_chart_has_a_mark_with_its_interval_for_each_run(outcome: Outcome) -> None:
    line, *marks = agreement_plot.agreement(outcome.steps).data
    assert list(line.x) == list(line.y)
    by_id = {one.id: one for one in outcome.steps}
    seen = set()
    for group in marks:
        ends = zip(
            group.customdata,
            group.x,
            group.y,
            group.error_y.array,
            group.error_y.arrayminus,
            strict=True,
        )
        for told, published_s, predicted_s, above, below in ends:
            one = by_id[told[0]]
            seen.add(one.id)
            assert (published_s, predicted_s) == (one.run.step_time_s, one.step.seconds)
            assert predicted_s + above == pytest.approx(one.high_s)
            assert predicted_s - below == pytest.approx(one.low_s)
    assert seen == by_id.keys()


def test_sources_are_told_apart_by_colour_or_mark(outcome: Outcome) -> None:
    _, *marks = agreement_plot.agreement(outcome.steps).data
    looks = [(group.marker.color, group.marker.symbol) for group in marks]
    assert len(set(looks)) == len(looks)


def test_the_errors_by_source_have_the_best_at_the_top_and_mark_what_is_held_out(
    outcome: Outcome,
) -> None:
    boxes = agreement_plot.errors(outcome.steps, HELD_OUT).data
    middles = [median(abs(x) for x in box.x) for box in boxes]
    assert middles == sorted(middles, reverse=True)
    assert [box.name for box in boxes if "held out" in box.name] == ["llama3 (held out), 2"]


def test_the_html_is_well_formed_loads_nothing_and_has_every_row(outcome: Outcome) -> None:
    html = html_page(outcome, HELD_OUT)
    found = Page(html)
    assert found.open == []
    assert all(link.startswith(("#", "data:")) for link in found.links)
    targets = [link[1:] for link in found.links if link.startswith("#")]
    assert targets == ["agreement", "errors", "rows", "dropped"]
    assert set(targets) <= set(found.ids)
    words = set(" ".join(found.words).split())
    assert set(ROWS) <= words
    assert "<9>" not in html


def test_a_file_of_charts_is_written_beside_any_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, html = table(tmp_path / "runs.csv", published()), tmp_path / "charts.html"
    assert main(["validate", f"data={rows}", "format=csv", f"html={html}"]) == 0
    assert "plot-agreement" in html.read_text(encoding="utf-8")
    assert capsys.readouterr().out.startswith("source,rows,median")


def test_charts_of_a_table_with_nothing_to_predict_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = table(tmp_path / "runs.csv", published() | {"chip": "Abacus"})
    html = tmp_path / "charts.html"
    for kind in ("page", "csv", "markdown"):
        assert main(["validate", f"data={rows}", f"format={kind}", f"html={html}"]) == 5
    text = html.read_text(encoding="utf-8")
    assert "0 of 1 published rows" in text
    assert "plot-agreement" not in text
    assert "No row could be used." in capsys.readouterr().out


def test_charts_in_a_folder_that_is_not_there_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = table(tmp_path / "runs.csv", published())
    assert main(["validate", f"data={rows}", f"html={tmp_path / 'no' / 'charts.html'}"]) == 2
    assert "is not a folder" in capsys.readouterr().err
