"""`chipscale run devices=all` from the command line to MLflow, on several fake chips."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from harness.cli.main import main
from harness.run import RUNS
from harness.store.folder import REPORT_HTML, REPORT_MARKDOWN, run_folders

SMALL = ("device=fake", "suite.ops=[rms_norm,gemm]", "suite.roofs=[]", "impls=[torch]")
TWO = ("devices=all", "device.fake.count=2", "device.fake.spread=0.03", "device.fake.seed=1")


def test_all_devices_are_measured_compared_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["run", *SMALL, *TWO, f"results_dir={tmp_path}", "tracking.timeout_s=120"]) == 0
    shown = capsys.readouterr().out
    assert "on each of 2 devices" in shown
    assert "device 1: [" in shown
    assert "Devices at once, over" in shown
    folders = run_folders(tmp_path / RUNS)
    assert len(folders) == 2
    assert len({dict(folder.info.tags)["sweep"] for folder in folders}) == 1
    for folder in folders:
        assert folder.spread is not None
        assert "Devices at once" in (folder.path / REPORT_HTML).read_text(encoding="utf-8")
        markdown = (folder.path / REPORT_MARKDOWN).read_text(encoding="utf-8")
        assert "## Devices at once" in markdown
        assert "## Where the time went" in markdown
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("chipscale/quick")
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id]))
    ratios = {run.data.tags["device_index"]: run.data.metrics["over_middle_device"] for run in runs}
    spread = folders[0].spread
    assert spread is not None
    assert ratios == {one.label: pytest.approx(one.ratio, rel=1e-4) for one in spread.devices}
    assert all(0 < run.data.metrics["pct_measuring"] <= 100 for run in runs)

    assert main(["list", "runs", "--results-dir", str(tmp_path)]) == 0
    assert "sweep" in capsys.readouterr().out


def test_ctrl_c_stops_all_devices_and_each_can_go_on(tmp_path: Path) -> None:
    # Hung cases keep every worker busy until the signal comes.
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "harness", "run", *SMALL, "tracking.enabled=false"),
            *("devices=[0,1]", "device.fake.count=2", f"results_dir={tmp_path}"),
            *("projection=false", "device.fake.faults={gemm: hang}"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        if sum(folder.has_records for folder in run_folders(tmp_path / RUNS)) == 2:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 130, shown
    for folder in run_folders(tmp_path / RUNS):
        assert f"chipscale run resume={folder.info.run_id} results_dir={tmp_path}" in shown
        assert 0 < len(folder.records()) < folder.info.num_cases
        config = (folder.path / "config.yaml").read_text(encoding="utf-8")
        assert "devices: null" in config
        assert f"index: {dict(folder.info.tags)['device_index']}" in config
        assert json.loads((folder.path / "run.json").read_text("utf-8"))["ended_at"] == ""


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["device=cpu", "devices=[0,1]"], "the processor is one device"),
        (["device=fake", "devices=[0,3]"], "devices: 3 was asked for, but there are 1 here"),
        (["device=fake", "devices=2"], "devices: 2 is not a list"),
        (["device=fake", "devices=[0,0]"], "names a device twice"),
        (["device=fake", "devices=all", "resume=x"], "together with resume"),
        (["device=fake", "devices=all", "plan=x.json"], "together with plan"),
        (["device=fake", "compile_processes=many"], "compile_processes: 'many' is neither auto"),
        (["device=fake", "device.fake.count=0"], "device.fake.count: 0 is less than 1"),
    ],
)
def test_a_mistake_in_devices_is_told_in_a_line(
    overrides: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *overrides, f"results_dir={tmp_path}"]) == 2
    assert words in capsys.readouterr().err
    assert not run_folders(tmp_path / RUNS)
