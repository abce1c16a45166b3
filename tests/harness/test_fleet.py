"""Several devices at once: a run each, one tag, and what fails costs its own device alone."""

import dataclasses
import threading
import time
from pathlib import Path

import pytest

from harness.device.request import DeviceRequest, FakeOptions, Fault
from harness.environment import Environment
from harness.errors import ConfigError
from harness.fleet import DEVICE_TAG, SWEEP_TAG, device_indices, keep_spread, measure_fleet
from harness.record import Record
from harness.run import RUNS, measure_run
from harness.store.folder import SPREAD, RunFolder
from harness.worker.job import Job
from tests.harness.fake_runs import CASES, KeepingWatcher, fake_job


def chip(environment: Environment) -> str:
    return environment.device.name


def fleet(options: FakeOptions, indices: tuple[int, ...]) -> list[Job]:
    jobs = []
    for index in indices:
        job = fake_job(run_id=f"run-d{index}")
        tags = ((SWEEP_TAG, "one"), (DEVICE_TAG, str(index)))
        jobs.append(
            dataclasses.replace(
                job,
                run=dataclasses.replace(job.run, tags=tags),
                device=DeviceRequest(name="fake", index=index, fake=options),
            )
        )
    return jobs


def test_every_device_has_a_run_of_its_own_and_they_are_compared(tmp_path: Path) -> None:
    jobs = fleet(FakeOptions(seed=1, count=2, spread=0.05), (0, 1))
    watchers = [KeepingWatcher() for _ in jobs]
    outcomes = measure_fleet(jobs, tmp_path, watchers, chip)
    folders = [outcome.folder for outcome in outcomes]
    for index, (folder, watcher) in enumerate(zip(folders, watchers, strict=True)):
        assert folder is not None
        assert [record.case for record in folder.records()] == list(CASES)
        assert folder.environment.device.index == index
        assert folder.info.ended_at
        assert len(watcher.records) == len(CASES)
    spread = keep_spread("one", tmp_path)
    assert spread is not None
    assert [one.label for one in spread.devices] == ["0", "1"]
    assert spread.spread > 0.005
    for folder in folders:
        assert folder is not None
        assert folder.spread == spread
    assert keep_spread("another", tmp_path) is None


def test_a_device_that_is_not_there_does_not_lose_the_others(tmp_path: Path) -> None:
    jobs = fleet(FakeOptions(count=1), (0, 7))
    first, second = measure_fleet(jobs, tmp_path, [KeepingWatcher(), KeepingWatcher()], chip)
    assert first.folder is not None
    assert len(first.folder.records()) == len(CASES)
    assert second.folder is None
    assert "device.index: 7 was asked for" in str(second.error)
    # One device alone has no spread, and the one that never began leaves no folder.
    assert keep_spread("one", tmp_path) is None
    assert not (tmp_path / RUNS / "run-d7").exists()


class StoppingWatcher(KeepingWatcher):
    """Sets the stop as soon as the first case is over."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__()
        self._stop = stop

    def on_record(self, record: Record) -> None:
        super().on_record(record)
        self._stop.set()


def test_a_stop_ends_a_run_whose_worker_hangs(tmp_path: Path) -> None:
    stop = threading.Event()
    job = dataclasses.replace(
        fake_job(faults={"rms_norm": Fault.HANG}, case_timeout_s=600.0), cases=CASES
    )
    began_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        measure_run(job, tmp_path, StoppingWatcher(stop), chip, stop)
    assert time.monotonic() - began_s < 60
    assert RunFolder(tmp_path / RUNS / job.run.run_id).has_records
    assert not RunFolder(tmp_path / RUNS / job.run.run_id).info.ended_at


def test_all_means_every_fake_chip_that_there_is() -> None:
    request = DeviceRequest(name="fake", fake=FakeOptions(count=3))
    assert device_indices("all", request) == (0, 1, 2)
    assert device_indices((2, 0), request) == (2, 0)


def test_the_processor_is_one_device() -> None:
    assert device_indices("all", DeviceRequest(name="cpu")) == (0,)
    with pytest.raises(ConfigError, match=r"devices: \[0, 1\].*the processor is one device"):
        device_indices((0, 1), DeviceRequest(name="cpu"))


def test_a_device_beyond_the_last_one_is_refused_before_anything_runs() -> None:
    request = DeviceRequest(name="fake", fake=FakeOptions(count=2))
    with pytest.raises(ConfigError, match="devices: 2 was asked for, but there are 2 here"):
        device_indices((0, 2), request)


def test_a_run_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    broken = tmp_path / RUNS / "broken"
    broken.mkdir(parents=True)
    (broken / "run.json").write_text("{", encoding="utf-8")
    assert keep_spread("one", tmp_path) is None
    assert not (broken / SPREAD).exists()
