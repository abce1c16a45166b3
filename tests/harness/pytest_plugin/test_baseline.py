"""What --chip-baseline fails, and what it only tells."""

import json
from pathlib import Path

import pytest

from harness.arms.benchmark_file import run_of_file
from harness.codec import to_json
from harness.store.folder import ENVIRONMENT, RECORDS, RUN, RunFolder
from harness.store.pytest_benchmark import read_benchmark_file
from tests.harness.pytest_plugin.conftest import Project
from tests.harness.sample_run import RUN_ID, sample_info


def test_a_confirmed_slow_down_fails_its_test(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.baseline()
    monkeypatch.setenv("SLOWER", "1.2")
    result = project.run("--chip-baseline=base.json", "--chip-rounds=1", "--junit-xml=j.xml")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*+19.? %: slower than in base.json by more than 5 % (--chip-tol*Again: pytest *",
            "Against base.json*: 1 regressed, 1 unchanged.",
        ]
    )
    assert 'errors="0" failures="1"' in (project.path / "j.xml").read_text()


def test_what_is_slow_in_one_process_alone_does_not_fail(project: Project) -> None:
    project.baseline()
    project.write("slow_once", "")
    result = project.run("--chip-baseline=base.json", "--chip-rounds=1", "-k", "torch")
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.fnmatch_lines(["Against base.json*: 1 unchanged."])


def test_a_tolerance_of_its_own_lets_a_test_be_slower(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.baseline()
    monkeypatch.setenv("SLOWER", "1.2")
    path = project.path / "test_cases.py"
    project.write(
        "test_cases.py",
        path.read_text().replace(
            "@pytest.mark.param", "@pytest.mark.chip_tolerance(0.3)\n@pytest.mark.param"
        ),
    )
    project.run("--chip-baseline=base.json").assert_outcomes(passed=2)


@pytest.mark.parametrize("mark", ["chip_tolerance", "chip_tolerance('a')", "chip_tolerance(-1)"])
def test_a_tolerance_that_is_none_is_told(project: Project, mark: str) -> None:
    project.baseline()
    text = (project.path / "test_cases.py").read_text()
    project.write(
        "test_cases.py", text.replace("@pytest.mark.p", f"@pytest.mark.{mark}\n@pytest.mark.p")
    )
    result = project.run("--chip-baseline=base.json", "-k", "torch")
    result.assert_outcomes(failed=1, deselected=1)
    result.stdout.fnmatch_lines(["chip_tolerance(*: it takes one number above 0*"])


def test_a_faster_result_asks_for_a_new_baseline(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.baseline()
    monkeypatch.setenv("SLOWER", "0.8")
    result = project.run("--chip-baseline=base.json")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["IMPROVED *torch*: *-1?.? %: faster *Make a new baseline*"])


def test_another_chip_is_told_and_never_fails(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project.baseline()
    data = json.loads(path.read_text())
    data["chipscale"]["environment"]["device"]["name"] = "NVIDIA H200"
    path.write_text(json.dumps(data))
    monkeypatch.setenv("SLOWER", "2")
    result = project.run("--chip-baseline=base.json")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["INVALID *not judged: *another chip*NVIDIA H200 and chipscale fake chip*"]
    )


def test_other_rules_of_measuring_are_told_and_never_fail(project: Project) -> None:
    project.baseline()
    result = project.run("--chip-baseline=base.json", "--chip-set=measure.cache=hot")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["INVALID *not judged: it was measured by other rules*"])


def test_new_and_missing_tests_are_told(project: Project) -> None:
    project.baseline()
    text = (project.path / "test_cases.py").read_text()
    project.write("test_cases.py", text.replace('"triton"', '"compile"'))
    result = project.run("--chip-baseline=base.json")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "Against base.json*: 1 missing, 1 new, 1 unchanged.",
            "MISSING test_cases.py::test_gemm?triton?: *",
            "NEW test_cases.py::test_gemm?compile?: *",
        ]
    )


def test_a_test_that_was_deselected_is_not_missing(project: Project) -> None:
    project.baseline()
    result = project.run("--chip-baseline=base.json", "-k", "torch")
    result.stdout.no_fnmatch_line("*MISSING*")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("{", "not JSON"),
        ("{}", "it has no list `benchmarks`"),
        ('{"benchmarks": [{"fullname": "a", "stats": {}}]}', "neither a median nor samples"),
        ('{"benchmarks": [], "chipscale": {"schema_version": 99}}', "Update chipscale"),
    ],
)
def test_a_baseline_that_cannot_be_read_ends_the_session_at_once(
    project: Project, text: str | None, words: str
) -> None:
    if text is not None:
        project.write("bad.json", text)
    result = project.run("--chip-baseline=bad.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --chip-baseline: *{words}*"])


def test_a_run_is_a_baseline_by_its_cases(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = read_benchmark_file(project.baseline())
    folder = RunFolder(project.path / "results" / "runs" / RUN_ID)
    folder.path.mkdir(parents=True)
    folder.write(RUN, sample_info())
    assert file.environment is not None
    folder.write(ENVIRONMENT, file.environment)
    (folder.path / RECORDS).write_text("".join(to_json(one) + "\n" for one in file.records))
    monkeypatch.setenv("SLOWER", "0.8")
    result = project.run(f"--chip-baseline={RUN_ID}")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines([f"Against {RUN_ID}*: 1 improved, 1 unchanged."])


def test_host_times_of_pytest_benchmark_are_not_held_against_times_of_the_chip(
    project: Project,
) -> None:
    path = project.baseline()
    data = json.loads(path.read_text())
    del data["chipscale"]
    for benchmark in data["benchmarks"]:
        del benchmark["chipscale"]
    path.write_text(json.dumps(data))
    result = project.run("--chip-baseline=base.json")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["INVALID *not judged: *timed it on the host with warm caches*"])


def test_a_file_of_another_chip_is_named_where_pytest_benchmark_compares(project: Project) -> None:
    path = project.baseline()
    path.write_text(path.read_text().replace('"name": "chipscale fake chip"', '"name": "H200"'))
    result = project.run(f"--benchmark-compare={path}")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["--benchmark-compare: one of the files is of another chip, H200."])


def test_an_unknown_run_ends_the_session_at_once(project: Project) -> None:
    result = project.run("--chip-baseline=nothing")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --chip-baseline: *no runs there yet*"])


@pytest.mark.parametrize("option", ["--benchmark-disable", "--dist=load"])
def test_a_baseline_where_nothing_is_timed_is_refused(project: Project, option: str) -> None:
    project.write("base.json", '{"benchmarks": []}')
    result = project.run("--chip-baseline=base.json", option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --chip-baseline: nothing is timed *"])


def test_a_file_of_a_session_is_a_base_of_the_gate(project: Project, tmp_path: Path) -> None:
    folder = run_of_file(project.baseline(), tmp_path)
    assert len(folder.records()) == 2
    assert folder.info.device == "fake"
