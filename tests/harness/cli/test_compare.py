"""What `chipscale compare` prints and keeps, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.codec import from_json
from harness.comparison import ChipComparison
from harness.record import Record, Status
from harness.run import RUNS
from tests.harness.compare.chips import Chip, chip_run
from tests.harness.sample_run import sample_info, sample_records, write_run


def with_parts(record: Record, **parts: str) -> Record:
    hashed = "".join(parts.values())
    return replace(record, protocol_hash=hashed, protocol_parts=tuple(parts.items()))


def under(results: Path) -> list[str]:
    return ["--results-dir", str(results), "--no-track"]


def test_forced_every_line_says_what_was_not_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    timed = [record for record in sample_records() if record.status is Status.OK][:3]
    ours = tuple(with_parts(record, inputs="normal") for record in timed)
    theirs = (ours[0], *(with_parts(record, inputs="zeros") for record in timed[1:]))
    first = write_run(tmp_path / "a", records=ours)
    second = write_run(tmp_path / "b", info=sample_info(run_id="other"), records=theirs)
    assert main(["compare", str(first.path), str(second.path), "--force", *under(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "not equal work" in shown
    assert shown.count("inputs: normal and zeros") == 2
    assert "FORCED: 2 cases were measured by different protocols" in shown


def test_a_line_says_which_run_had_fewer_sets_of_inputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    ours = tuple(record for record in sample_records() if record.status is Status.OK)[:2]
    measurement = ours[0].measurement
    assert measurement is not None
    num_sets = measurement.num_input_sets
    short = replace(ours[0], measurement=replace(measurement, num_input_sets=num_sets + 1))
    first = write_run(tmp_path / "a", records=ours)
    second = write_run(tmp_path / "b", info=sample_info(run_id="other"), records=(short, ours[1]))
    assert main(["compare", str(first.path), str(second.path), "--cases", *under(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown.count(f"same, sets of inputs: A {num_sets}, B {num_sets + 1}") == 1
    assert "1 cases had fewer sets of inputs in one of the two" in shown


ALPHA, BETA = Chip(), Chip(name="beta", flops_per_s=200e12)
SUITE = ("suite=quick", "suite.ops=[gemm,adamw]")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two chips, and one of alpha by another protocol."""
    root = tmp_path_factory.mktemp("results")
    for chip in (ALPHA, BETA, Chip(name="zeros", inputs="zeros")):
        chip_run(root / RUNS, chip, *SUITE)
    return root


def compare(results: Path, *words: str) -> int:
    return main(["compare", *words, *under(results)])


def test_queries_name_the_runs_and_the_comparison_is_kept(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(results, "chip=alpha", "chip=beta suite=quick latest") == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("B (beta) is ")
    assert "Report: " in shown.err
    (folder,) = (results / "comparisons").glob("alpha-vs-beta-*")
    names = {path.name for path in folder.iterdir()}
    assert names == {"comparison.json", "comparison.csv", "report.html", "report.md"}


def test_comparing_again_keeps_the_time_and_writes_no_second_folder(results: Path) -> None:
    def kept() -> dict[str, str]:
        return {
            str(path): path.read_text(encoding="utf-8")
            for path in (results / "comparisons").rglob("comparison.json")
        }

    assert compare(results, "chip=alpha", "chip=beta") == 0
    before = kept()
    assert compare(results, "chip=alpha", "chip=beta") == 0
    assert kept() == before


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("markdown", "**B (beta) is "),
        ("csv", "row,run,reference,"),
        ("json", '{"schema_version":1,'),
        ("html", "<!doctype html>"),
        ("table", "B (beta) is "),
    ],
)
def test_each_format_can_be_printed_alone(
    results: Path, name: str, begins: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(results, "chip=alpha", "chip=beta", "--format", name) == 0
    assert capsys.readouterr().out.startswith(begins)


def test_a_file_is_written_in_the_format_of_its_name_and_a_folder_has_all(
    results: Path, tmp_path: Path
) -> None:
    assert compare(results, "chip=alpha", "chip=beta", "--out", str(tmp_path / "it.md")) == 0
    assert (tmp_path / "it.md").read_text(encoding="utf-8").startswith("**B (beta)")
    assert compare(results, "chip=alpha", "chip=beta", "--out", str(tmp_path / "all")) == 0
    assert {path.suffix for path in (tmp_path / "all").iterdir()} == {
        *(".json", ".csv", ".html", ".md", ".txt")
    }


def test_the_python_of_a_notebook_reads_the_json(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(results, "chip=alpha", "chip=beta", "--format", "json") == 0
    found = from_json(ChipComparison, capsys.readouterr().out)
    assert found.pairs[0].overall.speedup.value > 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chip=alpha"], "one run is named, and two are needed"),
        (["chip=alpha", "oldest"], "is named twice"),
        (["chip=alpha", "chip=delta"], "There is chip alpha (1), beta (1), zeros (1)."),
        (["chip=alpha", "chip=zeros"], "inputs: normal and zeros (58 cases). --force compares"),
        (["alpha", "nowhere"], "nowhere: no run of that name"),
        (["alpha", "beta", "--tolerance", "3"], "--tolerance: 3.0 is not between 0 and 1"),
        (["alpha", "beta", "--out", "/no/such/it.md"], "/no/such is not a folder"),
        (["alpha", "beta", "--out", "it.xlsx"], "--out: .xlsx says nothing of a format"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(
    results: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(results, *words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_a_damaged_record_is_told_and_the_others_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (chip_run(tmp_path / RUNS, chip, *SUITE, num_cases=6) for chip in (ALPHA, BETA))
    lines = (second.path / "records.jsonl").read_text(encoding="utf-8").splitlines()
    lines[2] = lines[2][:50]
    (second.path / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert main(["compare", str(first.path), str(second.path), *under(tmp_path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "B: Damaged records: line 3" in shown
    assert "B (beta) has no time for 1 case" in shown


def test_results_that_cannot_be_written_to_cost_the_report_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for chip in (ALPHA, BETA):
        chip_run(tmp_path / RUNS, chip, *SUITE, num_cases=6)
    (tmp_path / "comparisons").write_text("in the way", encoding="utf-8")
    assert compare(tmp_path, "alpha", "beta") == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("B (beta)")
    assert "warning: the comparison is not kept" in shown.err
    assert (tmp_path / "comparisons").read_text(encoding="utf-8") == "in the way"
