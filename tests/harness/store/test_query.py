"""Runs by what they are."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import RecordError
from harness.run import RUNS, find_run, found_run
from tests.harness.sample_run import sample_environment, sample_info, sample_records, write_run

RECORDS = sample_records()[:1]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs with a record, and a newest one without."""
    root = tmp_path_factory.mktemp("results")
    runs = (
        ("1-a", "h100_sxm", "training", "main", (("purpose", "nightly"),)),
        ("2-b", "h200_sxm", "training", "main", ()),
        ("3-c", "h200_sxm", "inference", "new-kernels", ()),
        ("4-d", "h200_sxm", "training", "new-kernels", (("purpose", "nightly"),)),
    )
    for run_id, chip, suite, branch, tags in runs:
        info = sample_info(run_id=run_id, chip=chip, suite=suite, tags=tags)
        folder = write_run(root / RUNS, info=info, records=RECORDS)
        folder.write("environment.json", replace(sample_environment(), branch=branch))
    write_run(root / RUNS, info=sample_info(run_id="5-e", chip="h200_sxm"), records=())
    return root


@pytest.mark.parametrize(
    ("name", "run_id"),
    [
        ("latest", "4-d"),
        ("oldest", "1-a"),
        ("chip=h200 suite=training latest", "4-d"),
        ("chip=h200,suite=training,oldest", "2-b"),
        ("chip=h200_sxm", "4-d"),
        ("suite=inference", "3-c"),
        ("branch=main", "2-b"),
        ("purpose=nightly oldest", "1-a"),
        ("commit=0123456 host=node-7", "4-d"),
        ("model=llama3 device=fake", "4-d"),
        ("  chip=h100 ,  latest ", "1-a"),
        ("2-b", "2-b"),
        ("3", "3-c"),
    ],
)
def test_a_run_is_found_by_name_or_by_what_it_is(results: Path, name: str, run_id: str) -> None:
    assert find_run(name, results).info.run_id == run_id


def test_of_several_the_newest_is_taken_and_that_is_said(results: Path) -> None:
    assert found_run("chip=h200", results).remark == "chip=h200: 3 runs match; the newest, 4-d."
    assert found_run("chip=h200 oldest", results).remark.endswith("the oldest, 2-b.")
    assert found_run("suite=inference", results).remark == ""
    assert found_run("latest", results).remark == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "chip=h20x",
            "chip=h20x: no run has chip=h20x. Did you mean 'h200_sxm'? "
            "There is chip h200_sxm (3), h100_sxm (1).",
        ),
        (
            "suite=training branch=dev",
            "suite=training branch=dev: no run has branch=dev. "
            "There is branch main (2), new-kernels (1).",
        ),
        (
            "chp=h200",
            "chp=h200: no run has a 'chp'. Did you mean 'chip'? Keys are chip, suite, model, "
            "device, host, branch, commit, purpose.",
        ),
        ("chip=h200 lates", "'lates' is no part of a query. Did you mean 'latest'?"),
        ("chip=", "'chip=' is no part of a query."),
        ("latest oldest", "latest and oldest are both asked for. Keep one."),
    ],
)
def test_what_no_run_is_is_refused_with_what_there_is(
    results: Path, name: str, message: str
) -> None:
    with pytest.raises(RecordError) as refused:
        find_run(name, results)
    assert message in str(refused.value)


def test_a_run_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    write_run(tmp_path / RUNS, info=sample_info(run_id="1", chip="x"), records=RECORDS)
    broken = write_run(tmp_path / RUNS, info=sample_info(run_id="2"), records=RECORDS)
    (broken.path / "run.json").write_text("{", encoding="utf-8")
    assert find_run("chip=x", tmp_path).info.run_id == "1"


def test_without_any_record_a_query_says_so(tmp_path: Path) -> None:
    write_run(tmp_path / RUNS, records=())
    with pytest.raises(RecordError, match="none of the 1 runs has a record yet"):
        find_run("latest", tmp_path)
