"""The command line shows what a timer is worth, and which times are too short for it."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from harness.cli.doctor_timers import timers_view
from harness.cli.main import main
from harness.device.fake import FakeDevice
from harness.device.request import FakeOptions
from harness.measure.policy import MeasurePolicy
from harness.measure.proof import prove
from harness.proof import Estimate
from harness.record import Record
from harness.store.folder import PROOF
from tests.harness.sample_run import ok_record, sample_info, sample_records, write_run


def short_record() -> Record:
    """A case that lasts 3 steps of its timer."""
    record = ok_record(sample_records()[0].case)
    assert record.measurement is not None
    samples_s = (3e-6,) * 20
    return replace(
        record,
        measurement=replace(record.measurement, samples_s=samples_s, timer_resolution_s=1e-6),
    )


def test_a_comparison_says_which_of_two_times_is_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    long = short_record()
    assert long.measurement is not None
    long = replace(long, measurement=replace(long.measurement, timer_resolution_s=1e-9))
    runs = tmp_path / "runs"
    write_run(runs, info=sample_info(run_id="first"), records=[short_record()])
    second = write_run(runs, info=sample_info(run_id="second"), records=[long])
    proof = prove(FakeDevice(FakeOptions()), MeasurePolicy())
    late = replace(proof.timers[0], overhead_s=Estimate(value=1e-3, low=1e-3, high=1e-3))
    second.write(PROOF, replace(proof, timers=(late,)))
    assert main(["compare", "first", "second", "--cases", "--results-dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "same, A short: 3 steps of the timer" in shown
    assert "A: 1 of 1 cases are short" in shown
    assert "B: The overhead of virtual_clock is 1.00 ms" in shown
    assert "B short" not in shown


def test_the_doctor_proves_the_timer_of_each_device() -> None:
    console = Console(width=160, record=True, quiet=True)
    with console.capture() as capture:
        console.quiet = False
        console.print(timers_view([FakeDevice(FakeOptions()), FakeDevice(FakeOptions(seed=1))]))
    shown = capture.get()
    assert shown.count("Timer, launch and cache of fake:0 chipscale fake chip, proven in") == 2
    for words in ("overhead", "resolution", "linearity", "host's clock", "drift", "launch direct"):
        assert words in shown


def test_the_doctor_shows_the_cache_of_the_processor(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "Timer, launch and cache of cpu:0" in shown
    assert "cold over hot" in shown
