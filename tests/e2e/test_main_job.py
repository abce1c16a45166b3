"""The main job from the command line to MLflow and back, on the processor and on the fake chip."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from harness.cli.main import main
from harness.record import Status
from harness.run import RUNS
from harness.store.folder import (
    CASES,
    CONFIG,
    ENVIRONMENT,
    RECORDS,
    REPORT_HTML,
    RUN,
    RunFolder,
    run_folders,
)
from harness.units import TERA

SMALL = (
    "suite.phases=[{phase: training, tensor: 8, microbatch_size: 1, sequence_length: 32}]",
    "suite.roofs=[{op: gemm, axes: {M: 256, N: 256, K: 256}}, {op: copy, axes: {N: 1048576}}]",
    "model.vocab=1024",
    "measure.timeout_s=0.1",
    "measure.warmup_timeout_s=0.05",
)
"""The quick suite cut to what two cores do in seconds."""
LOGGED = (*SMALL, "projection=false")
"""Without the seconds of a projection."""
MEASURED = (*LOGGED, "tracking.enabled=false")
"""Without those of MLflow either."""


def newest(results: Path) -> RunFolder:
    return run_folders(results / RUNS)[-1]


def mlflow_runs(results: Path, experiment: str, uid: str = "") -> list[Run]:
    client = MlflowClient(f"sqlite:///{results / 'mlflow.db'}")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = list(client.search_runs([found.experiment_id]))
    return [run for run in runs if not uid or uid in json.dumps(run.data.tags)]


def chipscale(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "harness", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # What a shell puts in the background ignores Ctrl-C, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_the_main_job_on_the_processor(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exit_code = main(
        ["run", "device=cpu", "impls=[torch,triton]", f"results_dir={results}", *SMALL]
    )
    shown = capsys.readouterr().out
    assert exit_code == 0, shown
    folder = newest(results)
    for name in (RECORDS, ENVIRONMENT, CONFIG, CASES, REPORT_HTML):
        assert (folder.path / name).stat().st_size > 0
    records = folder.records()
    assert len(records) == folder.info.num_cases
    by_impl = {
        impl: {record.status for record in records if record.case.impl == impl}
        for impl in ("torch", "triton")
    }
    assert by_impl == {"torch": {Status.OK}, "triton": {Status.UNSUPPORTED}}
    for record in records:
        if record.status is Status.OK:
            assert record.correctness is not None
            assert record.correctness.is_right
            assert record.correctness.reference == "fp64"
            assert record.measurement is not None
            assert record.measurement.timer == "host_clock"
            assert min(record.measurement.samples_s) > 0
    projection = folder.projection
    assert projection is not None
    assert projection.headline.num_chips == 100_000
    total_s = sum(part.seconds for part in projection.parts)
    assert total_s == pytest.approx(projection.headline.step_time_s.value, rel=1e-6)
    assert "chipscale ui" in shown

    (run,) = mlflow_runs(results, "chipscale/quick", folder.info.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["failed"] == 0
    client = MlflowClient(f"sqlite:///{results / 'mlflow.db'}")
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"results.json", "report.html", "records.jsonl", "environment.json"} <= artifacts
    table = json.loads(
        Path(client.download_artifacts(run.info.run_id, "results.json")).read_text("utf-8")
    )
    assert table["columns"][:2] == ["case", "median_us"]
    assert len(table["data"]) == len(records)
    (projected,) = mlflow_runs(results, "chipscale/projection", folder.info.run_id)
    steps = client.get_metric_history(projected.info.run_id, "by_number_of_chips/tokens_per_s")
    assert max(point.step for point in steps) == 100_000


def test_the_main_job_on_the_fake_chip_reaches_its_made_up_rates(results: Path) -> None:
    assert main(["run", "device=fake", f"results_dir={results}", "device.fake.noise=0.001"]) == 0
    folder = newest(results)
    records = folder.records()
    assert {record.status for record in records} == {Status.OK}
    # A large square product on 100 TFLOP/s at the 80 % that the stand-in for triton is given.
    (roof,) = (
        record
        for record in records
        if record.case.impl == "triton"
        and "roof" in record.case.roles
        and record.case.problem.op == "gemm"
    )
    assert roof.cost is not None
    assert roof.measurement is not None
    rate = roof.cost.flops / sorted(roof.measurement.samples_s)[5]
    assert rate == pytest.approx(80 * TERA, rel=0.04)


def test_syncing_again_adds_nothing(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "device=fake", f"results_dir={results}", *LOGGED]) == 0
    uid = newest(results).info.run_id
    assert main(["sync", "--results-dir", str(results)]) == 0
    before = len(mlflow_runs(results, "chipscale/quick"))
    assert main(["sync", "--results-dir", str(results)]) == 0
    assert main(["sync", "--results-dir", str(results), str(newest(results).path)]) == 0
    assert len(mlflow_runs(results, "chipscale/quick")) == before
    assert len(mlflow_runs(results, "chipscale/quick", uid)) == 1
    capsys.readouterr()


def test_a_run_on_a_bare_host_comes_home(results: Path, tmp_path: Path) -> None:
    plan = tmp_path / "cases.json"
    out = tmp_path / "out"
    assert main(["run", "device=fake", f"results_dir={results}", f"plan={plan}", *SMALL]) == 0
    done = subprocess.run(
        [sys.executable, "-m", "harness.worker", str(plan), str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run_id = RunFolder(out).info.run_id
    assert main(["sync", "--results-dir", str(results), str(out)]) == 0
    assert RunFolder(results / RUNS / run_id).info.chip == "chipscale_fake_chip"
    assert len(mlflow_runs(results, "chipscale/quick", run_id)) == 1


def test_ctrl_c_keeps_what_was_measured_and_resume_goes_on(results: Path) -> None:
    command = ["run", "device=cpu", "impls=[torch]", f"results_dir={results}", *MEASURED]
    before = len(run_folders(results / RUNS))
    process = chipscale(*command)
    deadline_s = time.monotonic() + 120
    num_kept = 0
    while num_kept < 3 and time.monotonic() < deadline_s:
        time.sleep(0.05)
        if len(run_folders(results / RUNS)) > before:
            num_kept = len(newest(results).records())
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=60)
    folder = newest(results)
    assert process.returncode == 130, shown
    assert f"chipscale run resume={folder.info.run_id} results_dir={results}" in shown
    kept = folder.records()
    assert 3 <= len(kept) < folder.info.num_cases
    assert not folder.info.ended_at

    # The run alone is enough: it keeps the configuration that it was started with.
    assert main(["run", f"resume={folder.info.run_id}", f"results_dir={results}"]) == 0
    records = folder.records()
    assert records[: len(kept)] == kept
    assert len(records) == folder.info.num_cases
    assert folder.info.ended_at


def test_syncing_a_stopped_run_leaves_it_open(results: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    shutil.copytree(newest(results).path, away)
    info = replace(RunFolder(away).info, run_id="stopped", ended_at="", chip="")
    RunFolder(away).write(RUN, info)
    lines = (away / RECORDS).read_text(encoding="utf-8").splitlines(keepends=True)
    (away / RECORDS).write_text("".join(lines[:3]), encoding="utf-8")
    assert main(["sync", "--results-dir", str(results), str(away)]) == 0
    home = RunFolder(results / RUNS / "stopped")
    assert len(home.records()) == 3
    assert not home.info.ended_at
    assert home.info.chip
    # Other records under the same name do not replace those at home.
    (away / RECORDS).write_text("".join(lines[1:4]), encoding="utf-8")
    assert main(["sync", "--results-dir", str(results), str(away)]) == 2
    assert len(home.records()) == 3
    shutil.rmtree(home.path)


def test_a_refused_device_leaves_no_run_behind(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = run_folders(results / RUNS)
    assert main(["run", "device=npu", f"results_dir={results}", *SMALL]) == 2
    assert "'npu' was asked for" in capsys.readouterr().err
    assert run_folders(results / RUNS) == before


def test_a_suite_without_training_work_is_not_projected(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["suite=inference", "suite.ops=[rms_norm]", "tracking.enabled=false"]
    assert main(["run", "device=fake", f"results_dir={results}", *arguments]) == 0
    assert "No projection: the suite has no training work" in capsys.readouterr().out
    assert newest(results).projection is None


def test_resuming_with_other_cases_is_refused(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = newest(results).info.run_id
    assert main(["run", "suite=inference", f"results_dir={results}", f"resume={run_id}"]) == 2
    assert "has other cases" in capsys.readouterr().err


def test_a_failed_case_is_exit_code_4_and_everything_else_is_there(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = "device.fake.faults={swiglu: wrong, cross_entropy: crash}"
    arguments = ["run", "device=fake", "impls=[torch]", f"results_dir={results}", fault]
    assert main([*arguments, *LOGGED]) == 4
    shown = capsys.readouterr().out
    assert "incorrect" in shown
    assert "crashed" in shown
    (run,) = mlflow_runs(results, "chipscale/quick", newest(results).info.run_id)
    assert run.data.metrics["failed"] > 0


def test_nothing_measured_is_exit_code_5(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "device=cpu", "impls=[triton]", f"results_dir={results}", *MEASURED]
    assert main(arguments) == 5
    assert "Triton" in capsys.readouterr().err


def test_a_strict_projection_names_what_was_not_measured(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "device=fake", f"results_dir={results}", "strict=true", *SMALL]
    assert main(arguments) == 2
    assert "not measured" in capsys.readouterr().err


def test_two_fake_runs_are_the_same_and_a_slower_chip_is_slower(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = []
    for option in ("seed=1", "seed=2", "throttle_after_s=0"):
        arguments = ["run", "device=fake", f"device.fake.{option}", f"results_dir={results}"]
        assert main([*arguments, *MEASURED]) == 0
        ids.append(newest(results).info.run_id)
    capsys.readouterr()
    assert main(["compare", ids[0], ids[1], "--results-dir", str(results)]) == 0
    assert "is as fast as A" in capsys.readouterr().out
    assert main(["compare", ids[0], ids[2], "--results-dir", str(results)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert re.search(r"B \(.*?\) is 0\.6[67]\d? times as fast as A", shown)
    assert " faster" not in shown.partition("op groups:")[2].partition(".")[0]


def test_a_sweep_is_run_by_hydra(results: Path) -> None:
    before = len(run_folders(results / RUNS))
    process = chipscale(
        "run",
        "-m",
        "device=fake",
        "model=llama3_8b,qwen3_32b",
        f"results_dir={results}",
        "tracking.enabled=false",
        "projection=false",
        "suite.ops=[gemm]",
    )
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 0, shown
    models = [folder.info.model for folder in run_folders(results / RUNS)[before:]]
    assert models == ["llama3_8b", "qwen3_32b"]


def test_an_absent_mlflow_fails_a_run_only_when_it_is_required(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    started_s = time.monotonic()
    arguments = ["run", "device=fake", f"results_dir={results}", *LOGGED]
    assert main(arguments) == 0
    assert "chipscale sync" in capsys.readouterr().out
    assert main([*arguments, "tracking.required=true"]) == 1
    assert time.monotonic() - started_s < 2 * 30 + 30


def test_the_configuration_is_kept_with_the_run(results: Path) -> None:
    text = (newest(results).path / CONFIG).read_text(encoding="utf-8")
    assert "name: quick" in text
    assert os.fspath(results) in text


def test_a_search_finds_the_best_launch_and_runs_take_it_from_then_on(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = "suite.problems=[{op: gemm, axes: {M: 4096, N: 4096, K: 4096}}]"
    only = ("suite.phases=[]", "suite.roofs=[]", problem, "device=fake", "tracking.enabled=false")
    table = tmp_path / "tuning" / "chipscale_fake_chip.yaml"
    search = ["tune", "op=gemm", *only, f"results_dir={results}", f"out={table}"]
    assert main(search) == 0
    shown = capsys.readouterr().out
    assert "searches beat what is usual" in shown
    assert "heuristic" in table.read_text(encoding="utf-8")

    run = ["run", *only, f"results_dir={results}", "--config-dir", str(tmp_path)]
    assert main(run) == 0
    (triton,) = (one for one in newest(results).records() if one.case.impl == "triton")
    assert {choice.origin for choice in triton.launches} == {"tuned"}

    # What is tuned is now what is usual: searching again finds nothing better.
    assert main([*search, "--config-dir", str(tmp_path)]) == 0
    assert "; 0 of " in capsys.readouterr().out
