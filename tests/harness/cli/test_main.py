"""Help, verbs and exit codes, in processes of their own as a user starts them."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli.main import VERBS, main


def run_cli(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_help_needs_no_torch_hydra_or_mlflow() -> None:
    code = (
        "import sys\n"
        "from harness.cli.main import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'torch', 'triton', 'hydra', 'mlflow', 'pandas', 'numpy', 'rich'}\n"
        "print(heavy & set(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "set()\n"
    for verb in VERBS:
        assert f"  {verb}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu"], "no verb 'rnu'. Did you mean 'run'?"),
        (["run", "--confg"], "--confg: no such option of `chipscale run`. Did you mean '--cfg'?"),
        (["run", "suite=quik"], "Did you mean 'quick'?"),
        (["ui", "--nope"], "--nope: no such option of `chipscale ui`. Did you mean '--port'?"),
        (
            ["ui", "--port", "abc"],
            "argument --port: invalid int value: 'abc'. `chipscale ui --help`",
        ),
        (["compare"], "the following arguments are required: RUN."),
        (["list", "models", "extra"], "extra: no such argument of `chipscale list`."),
        (["list", "runs", "--results-dir", "no"], "no runs there yet"),
        (["project", "runs=latest"], "runs: 'latest' is not a list, as runs=[a,b]."),
        (["project", "cluster.chips=4"], "`chipscale project --cfg job` shows all"),
        (["run", "device=cpu", "device.index=5"], "device.index: 5 was asked for"),
        (["list", "runz"], "list: nothing called 'runz'. Did you mean 'runs'?"),
        (["compare", "a", "b", "--results-dir", "no"], "no runs there yet"),
        (["report", "x", "--results-dir", "no"], "no runs there yet"),
        (["sync", "no_such_folder"], "so it is not a run folder"),
        (["run", "-m", "--cfg", "job", "model=llama3_8b,qwen3_32b"], "-m makes several"),
        (["project", "cluster=this_100k"], "so a run is needed. Set runs=[latest]"),
        (["project", "cluster=h1000_100k"], "Did you mean 'h100_100k'?"),
        (["tune"], "op: none is named. Add op=gemm, or op=all"),
        (["tune", "op=gemmm"], "op: no op named 'gemmm'. Did you mean 'gemm'?"),
        (["tune", "op=sampling"], "op: suite training has no problem of sampling for llama3_8b."),
        (["tune", "op=copy"], "op: copy has no launch configuration to search."),
        (["tune", "op=gemm", "run=nothing", "results_dir=no"], "no runs there yet"),
        (
            ["run", "suite.problems=[{op: scaled_gemm, dtype: bf16, axes: {M: 1, N: 1, K: 1}}]"],
            "suite.problems[0].dtype: 'bf16' is not allowed. Allowed are fp8, int8.",
        ),
        (
            ["run", "suite.problems=[{op: moe_route, variant: zipf, axes: {T: 1, E: 1, K: 1}}]"],
            "suite.problems[0].variant: 'zipf' is not allowed.",
        ),
        (["run", "suite=correctness", "suite.checks=3"], "suite.checks: '3' is not a list."),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert len(errors.splitlines()) == 1


def test_a_device_that_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    done = run_cli("run", "device=npu", f"results_dir={tmp_path}")
    assert done.returncode == 2
    assert "device.name: 'npu' was asked for" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_results_folder_that_cannot_be_made_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert main(["run", "device=fake", f"results_dir={tmp_path / 'file' / 'x'}"]) == 2
    errors = capsys.readouterr().err
    assert "Not a directory" in errors
    assert len(errors.splitlines()) == 1


def test_overrides_and_options_mix_in_any_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "suite=training", "--cfg", "job", "measure.seed=7"]) == 0
    shown = capsys.readouterr().out
    assert "name: training" in shown
    assert "seed: 7" in shown


@pytest.mark.parametrize("what", ["suites", "models", "chips", "clusters", "ops", "device"])
def test_everything_there_is_can_be_listed(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 2


def test_the_doctor_finds_the_processor_and_says_what_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "cpu:0" in shown
    assert "host_clock" in shown
    assert "torch on" in shown


def test_the_package_runs_as_a_module() -> None:
    done = run_cli("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("chipscale ")
