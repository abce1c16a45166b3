"""What a test gets from `chip_benchmark`, and what pytest-benchmark shows of it."""

import json
import statistics

from harness.store.pytest_benchmark import read_benchmark_file
from tests.harness.pytest_plugin.conftest import Project


def test_the_file_has_the_samples_of_the_record(project: Project) -> None:
    project.run("--benchmark-json=base.json").assert_outcomes(passed=2)
    path = project.path / "base.json"
    written = json.loads(path.read_text())["benchmarks"]
    file = read_benchmark_file(path)
    assert len(file.records) == 2
    for benchmark, record in zip(written, file.records, strict=True):
        given = json.loads((project.path / f"{record.case.impl}.samples").read_text())
        assert benchmark["stats"]["data"] == given
        assert record.measurement is not None
        assert list(record.measurement.samples_s) == given
        assert benchmark["stats"]["median"] == statistics.median(given)


def test_the_file_says_what_was_measured_where_and_how(project: Project) -> None:
    data = json.loads(project.baseline().read_text())
    info = data["benchmarks"][0]["extra_info"]
    assert info["case_id"] == "gemm.bf16.forward[M=2048,N=2048,K=2048]/torch"
    assert (info["timer"], info["cache"], info["throttled"]) == ("virtual_clock", "cold", False)
    assert info["energy_j"] > 0
    assert len(info["protocol_hash"]) == 12
    assert data["machine_info"]["chip"]["name"] == "chipscale fake chip"
    assert data["machine_info"]["chip"]["fingerprint"].startswith("chipscale_fake_chip-")
    assert data["commit_info"]["chipscale"]
    assert data["benchmarks"][0]["group"] == "gemm.bf16.forward[M=2048,N=2048,K=2048]"


def test_a_group_that_the_test_has_stays(project: Project) -> None:
    project.write(
        "test_cases.py",
        "import pytest\nfrom kernels.op import problem\n"
        "@pytest.mark.benchmark(group='mine')\n"
        "def test_copy(chip_benchmark):\n"
        "    chip_benchmark(problem('copy', 'bf16', N=1024), impl='torch')\n",
    )
    result = project.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*benchmark 'mine': 1 tests*"])


def test_a_wrong_result_fails_the_test_and_has_no_time(project: Project) -> None:
    result = project.run("--chip-set=device.fake.faults={gemm/torch: wrong}", "--junit-xml=j.xml")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["gemm.bf16.forward*/torch: incorrect. Output 1 of 1: *"])
    assert 'failures="1"' in (project.path / "j.xml").read_text()
    result.stdout.no_fnmatch_line("test_gemm?torch? *(1.*")


def test_what_an_implementation_cannot_do_is_skipped_with_its_reason(project: Project) -> None:
    project.write(
        "test_cases.py",
        "from kernels.op import problem\n"
        "def test_copy(chip_benchmark):\n"
        "    chip_benchmark(problem('host_to_device', 'fp32', N=1024), impl='triton')\n",
    )
    result = project.run("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*The fake chip's copy engine is torch's alone.*"])


def test_a_second_call_in_a_test_is_an_error_that_says_what_to_do(project: Project) -> None:
    project.write(
        "test_cases.py",
        "from kernels.op import problem\n"
        "def test_copy(chip_benchmark):\n"
        "    chip_benchmark(problem('copy', 'fp32', N=1024), impl='torch')\n"
        "    chip_benchmark(problem('copy', 'fp32', N=2048), impl='torch')\n",
    )
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["chip_benchmark was called twice in this test,*parametrize*"])


def test_disabled_benchmarks_are_checked_and_not_timed(project: Project) -> None:
    result = project.run("--benchmark-disable", "--benchmark-json=none.json")
    result.assert_outcomes(passed=2)
    assert json.loads((project.path / "torch.samples").read_text()) == []
    assert not (project.path / "none.json").exists()
    wrong = project.run("--benchmark-disable", "--chip-set=device.fake.faults={gemm: wrong}")
    wrong.assert_outcomes(failed=2)


def test_a_worker_of_a_parallel_run_times_nothing(project: Project, monkeypatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw1")
    project.run().assert_outcomes(passed=2)
    assert json.loads((project.path / "torch.samples").read_text()) == []


def test_without_pytest_benchmark_the_fixture_says_what_to_install(project: Project) -> None:
    result = project.run("-p", "no:benchmark")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*pip install 'chipscale?pytest?'*"])


def test_a_device_that_is_not_here_fails_in_one_line(project: Project) -> None:
    result = project.run(device="cuda")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["device.name: 'cuda' was asked for, but *"])
    result.stdout.no_fnmatch_line("*Traceback*")


FUNCTIONS = """
import torch

calls = []

def test_right(chip_benchmark):
    x = torch.ones(64, device=chip_benchmark.device)
    got = chip_benchmark(torch.exp, args=(x,), setup=lambda: calls.append(1), expected=torch.exp(x))
    assert got.median_s > 0 and len(got.samples_s) >= 3
    assert torch.equal(got.result, torch.exp(x))
    assert len(calls) > len(got.samples_s)

def test_wrong(chip_benchmark):
    runs = []
    def work():
        runs.append(1)
        return len(runs) and 3
    try:
        chip_benchmark(work, expected=4)
    finally:
        assert len(runs) == 1

def test_wrong_later(chip_benchmark):
    runs = []
    chip_benchmark(lambda: runs.append(1) or len(runs), check=lambda count: count < 3)

def test_raises(chip_benchmark):
    chip_benchmark(lambda: 1 / 0)
"""


def test_functions_are_checked_before_and_after_they_are_timed(project: Project) -> None:
    project.write("test_cases.py", FUNCTIONS)
    result = project.run("--chip-set=measure.timeout_s=0.05", device="cpu")
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(
        [
            "*wrong result, so it is not timed. 3 is not the expected 4.",
            "*wrong result, so it is not timed. It was right when it was checked, and the last*",
            "*ZeroDivisionError: division by zero",
        ],
    )


def test_the_fake_chip_skips_functions(project: Project) -> None:
    project.write("test_cases.py", "def test_it(chip_benchmark):\n    chip_benchmark(list)\n")
    project.run().assert_outcomes(skipped=1)
