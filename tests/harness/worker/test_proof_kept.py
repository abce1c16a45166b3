"""A run keeps the proof of its first process, and its records know what was seen of the timer."""

from dataclasses import replace
from pathlib import Path

from harness.device.fake import FakeDevice
from harness.device.request import FakeOptions
from harness.judgement import proof_warnings
from harness.measure.policy import MeasurePolicy
from harness.measure.proof import prove
from harness.proof import Estimate
from harness.store.folder import PROOF, RunFolder
from harness.worker.child import CaseRunner
from harness.worker.supervisor import supervise
from tests.harness.fake_runs import CASES, KeepingWatcher, fake_job


def test_the_proof_of_timer_and_cache_is_kept_with_the_run(tmp_path: Path) -> None:
    supervise(replace(fake_job(), cases=CASES[:1]), tmp_path, KeepingWatcher())
    proof = RunFolder(tmp_path).proof
    assert proof is not None
    assert proof.device == "chipscale fake chip"
    assert proof.timers[0].kind == "virtual_clock"
    assert proof_warnings(proof) == ()


def test_a_resumed_run_says_what_its_proof_finds_otherwise(tmp_path: Path) -> None:
    job = fake_job()
    folder = RunFolder(tmp_path)
    first = prove(FakeDevice(FakeOptions()), MeasurePolicy())
    slow = replace(first.timers[0], overhead_s=Estimate(value=1e-3, low=1e-3, high=1e-3))
    supervise(job, tmp_path, KeepingWatcher(), within_s=0.3)
    assert 0 < len(folder.records()) < len(job.cases)
    folder.write(PROOF, replace(first, timers=(slow,)))
    supervise(job, tmp_path, KeepingWatcher())
    proof = folder.proof
    assert proof is not None
    assert proof.timers == (slow,)
    assert proof.changes == ("The overhead of virtual_clock was 1.00 ms and later 0 ns.",)


def test_records_carry_the_coarser_of_claimed_and_observed_resolution() -> None:
    device = FakeDevice(FakeOptions())
    job = replace(fake_job(), cases=CASES[:1])

    def resolution_of(observed_s: float) -> float:
        runner = CaseRunner(job, device, lambda event: None, lambda case: None, observed_s)
        (record,) = runner.run([0])
        assert record.measurement is not None
        return record.measurement.timer_resolution_s

    assert resolution_of(1e-3) == 1e-3
    assert resolution_of(1e-12) == device.timer.resolution_s
