"""What `measure=...` does to a whole run, on the fake chip."""

import shutil
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.record import Status
from harness.run import RUNS
from harness.store.folder import REPORT_HTML, REPORT_MARKDOWN, RunFolder, run_folders

ONE_OP = (
    "device=fake",
    "tracking.enabled=false",
    "projection=false",
    "suite.phases=[]",
    "suite.roofs=[{op: gemm, axes: {M: 4096, N: 4096, K: 4096}}]",
)


def run(results: Path, *arguments: str) -> RunFolder:
    assert main(["run", f"results_dir={results}", *ONE_OP, *arguments]) == 0
    return run_folders(results / RUNS)[-1]


def test_a_sustained_run_shows_what_heat_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Samples and energy take some 2 s of virtual time and the rest 5 s; then it runs on.
    folder = run(
        tmp_path,
        *("measure=sustained", "impls=[torch]", "device.fake.throttle_after_s=12"),
        "device.fake.throttle_factor=1.25",
    )
    (record,) = folder.records()
    assert record.measurement is not None
    sustained = record.measurement.sustained
    assert sustained is not None
    assert sustained.settled_after_s is not None
    assert sustained.sustained_s / sustained.burst_s == pytest.approx(1.25, rel=0.02)
    shown = capsys.readouterr().out
    for text in (
        shown,
        (folder.path / REPORT_HTML).read_text(encoding="utf-8"),
        (folder.path / REPORT_MARKDOWN).read_text(encoding="utf-8"),
    ):
        assert "Sustained speed" in text
        assert "Energy" in text


def test_a_throttled_chip_is_reported_with_its_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path, "impls=[torch]", "device.fake.throttle_after_s=0")
    (record,) = folder.records()
    assert record.status is Status.OK
    assert record.measurement is not None
    assert record.measurement.is_throttled
    assert "throttled" in capsys.readouterr().out


def test_implementations_share_the_chips_drift(tmp_path: Path) -> None:
    folder = run(
        tmp_path,
        *("device.fake.drift_per_s=0.2", "device.fake.noise=0.001"),
        *("measure.relative_half_width=1e-9", "measure.max_samples=200", "measure.timeout_s=100"),
    )
    times_s = {
        record.case.impl: sorted(record.measurement.samples_s)[100]
        for record in folder.records()
        if record.measurement is not None
    }
    # The fake chip's own order of implementations is 0.70, 0.75 and 0.80 of its roof.
    assert times_s["torch"] / times_s["triton"] == pytest.approx(0.80 / 0.70, rel=0.03)


def test_a_copy_of_a_run_is_not_gone_on_with_in_the_originals_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path, "impls=[torch]")
    copied = folder.path.with_name("copied")
    shutil.copytree(folder.path, copied)
    assert main(["run", "resume=copied", f"results_dir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert f"{copied} is a copy of run {folder.path.name}" in error
    assert main(["run", "resume=", f"results_dir={tmp_path}"]) == 2
    assert "no run is named" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("measure.launch=blocked", "measure.launch"),
        ("measure.inputs=random", "inputs: 'random' is not allowed"),
        ("measure.num_input_sets=0", "measure.num_input_sets: 0 is less than 1."),
        ("measure.energy_s=-1", "measure.energy_s: -1.0 is less than 0."),
        ("measure.relative_half_width=nan", "is not greater than 0."),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(
    setting: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", f"results_dir={tmp_path}", *ONE_OP, setting]) == 2
    assert complaint in capsys.readouterr().err
