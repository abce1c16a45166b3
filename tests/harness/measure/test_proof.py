"""Timers, launches and flushes that are not what they claim must be found and named."""

import time
from dataclasses import replace

import pytest

from harness.codec import from_json, to_json
from harness.device.cpu import CpuDevice
from harness.device.fake import FakeDevice
from harness.device.request import FakeOptions
from harness.environment import num_usable_cores, processor_name
from harness.judgement import changes_since, judge, proof_warnings, with_later
from harness.measure.policy import Cache, Launch, MeasurePolicy
from harness.measure.proof import prove, smallest_step_s
from harness.proof import Proof
from tests.harness.measure.stand_in import CACHE_BYTES, REPLAY_S, StandIn, StandInTimer

POLICY = MeasurePolicy()


def proof_of(policy: MeasurePolicy = POLICY, **faults: object) -> Proof:
    device = StandIn(**faults)  # type: ignore[arg-type]
    proof = prove(device, policy, device.work())  # type: ignore[arg-type]
    assert not proof.failure
    return proof


def the_warning(proof: Proof, *words: str) -> str:
    """The one warning with all of these words."""
    (found,) = [text for text in proof_warnings(proof) if all(word in text for word in words)]
    return found


def test_a_good_timer_and_flush_are_proven_without_a_warning() -> None:
    proof = proof_of()
    assert proof_warnings(proof) == ()
    assert proof.cache is not None
    assert proof.cache.is_proven
    assert proof.cache.ratio is not None
    assert proof.cache.ratio.value == pytest.approx(2.0, rel=0.01)
    assert proof.cache.buffer_bytes == CACHE_BYTES // 2
    line = proof.timers[0].linearity
    assert line is not None
    assert line.unit_s == pytest.approx(2e-4, rel=0.01)


def test_the_overhead_of_a_timer_is_found_and_named() -> None:
    proof = proof_of(overhead_s=12e-6)
    assert proof.timers[0].overhead_s.value == pytest.approx(12e-6)
    warning = the_warning(proof, "overhead")
    assert "12.0 us" in warning
    assert "shorter than 240 us" in warning


def test_what_a_sample_holds_besides_its_work_is_the_intercept_of_the_line() -> None:
    line = proof_of(overhead_s=12e-6).timers[0].linearity
    assert line is not None
    assert line.intercept_s == pytest.approx(12e-6, abs=1e-6)


def test_steps_that_are_coarser_than_claimed_are_found_and_used() -> None:
    proof = proof_of(step_s=70e-6)
    assert proof.timers[0].observed_resolution_s == pytest.approx(70e-6)
    assert proof.resolution_s == pytest.approx(70e-6)
    assert "70.0 us, coarser than the 100 ns claimed" in the_warning(proof, "steps")


def test_a_timer_that_sees_no_work_at_all_is_named() -> None:
    proof = proof_of(dead_s=1.0)
    assert proof.timers[0].linearity is None
    assert "no time at all" in the_warning(proof, "known length")
    assert proof.scale is None
    assert "No time of this device can be trusted" in the_warning(proof, "stood still")


def test_a_timer_that_runs_fast_is_found_by_the_clock_of_the_host() -> None:
    proof = proof_of(scale=1.03)
    assert proof.scale is not None
    assert proof.scale.ratio.value == pytest.approx(1.03, rel=1e-3)
    assert "3.0 % fast" in the_warning(proof, "host's clock")


def test_a_timer_that_runs_slow_is_called_slow() -> None:
    assert "5.0 % slow" in the_warning(proof_of(scale=0.95), "host's clock")


def test_a_rate_that_drifts_is_found() -> None:
    proof = proof_of(drift_per_s=0.2)
    assert "changed by" in the_warning(proof, "rate")
    assert proof.scale is not None
    assert proof.scale.drift.low > 1.01


def test_a_timer_that_does_not_count_the_start_of_a_sample_is_off_the_line() -> None:
    # Half of the shortest piece of work is lost, and longer ones lose as much: the line is right,
    # and tells of it as a negative time besides the work.
    line = proof_of(dead_s=1e-4).timers[0].linearity
    assert line is not None
    assert line.intercept_s == pytest.approx(-1e-4, rel=0.1)


def test_a_device_that_slows_down_under_longer_work_is_off_the_line() -> None:
    device = StandIn()
    bursts = {"started_s": 0.0}

    def unit() -> None:
        # As a chip whose clocks fall within a sample: work is slower past its first half
        # millisecond, so eight times the work takes more than eight times as long.
        if device.clock_s - bursts["started_s"] > 2e-3:
            bursts["started_s"] = device.clock_s
        is_late = device.clock_s - bursts["started_s"] > 5e-4
        device.launches(3e-4 if is_late else 1e-4)()

    plain_start = device.timer.start

    def start() -> None:
        plain_start()
        bursts["started_s"] = device.clock_s

    device.timer.start = start  # type: ignore[method-assign]
    proof = prove(device, POLICY, replace(device.work(), unit=unit))  # type: ignore[arg-type]
    assert "do not grow as the work does" in the_warning(proof, "line")


def test_a_flush_that_does_not_flush_is_found() -> None:
    proof = proof_of(is_flushing=False)
    assert proof.cache is not None
    assert not proof.cache.is_proven
    assert len(proof.cache.tried_bytes) == 3
    assert "flush is not proven" in the_warning(proof, "cold times")


def test_a_flush_that_does_not_flush_does_not_matter_to_hot_samples() -> None:
    proof = proof_of(replace(POLICY, cache=Cache.HOT), is_flushing=False)
    assert proof_warnings(proof) == ()
    assert "not proven" in judge(proof)[-1].found


def test_a_cache_smaller_than_told_is_found_with_a_smaller_buffer() -> None:
    proof = proof_of(cache_bytes=CACHE_BYTES // 4)
    assert proof.cache is not None
    assert proof.cache.is_proven
    assert proof.cache.buffer_bytes == CACHE_BYTES // 8
    assert "16.0 MiB shows no difference" in judge(proof)[-1].found


def test_a_held_device_keeps_its_launches_out() -> None:
    launch = proof_of(launch_s=5e-6, can_hold=True).launch
    assert launch is not None
    assert launch.used == "held"
    assert launch.direct_s.value == pytest.approx(5e-6)
    assert launch.used_s.value == pytest.approx(0.0, abs=1e-9)


def test_a_graph_keeps_all_but_one_launch_out() -> None:
    policy = replace(POLICY, launch=Launch.GRAPH)
    launch = proof_of(policy, launch_s=5e-6, can_capture=True).launch
    assert launch is not None
    assert launch.used == "graph"
    assert launch.used_s.value == pytest.approx(1e-7)


def test_a_launch_that_is_not_to_be_had_is_told_with_what_was_done() -> None:
    proof = proof_of(replace(POLICY, launch=Launch.GRAPH), launch_s=5e-6, can_hold=True)
    assert proof.launch is not None
    assert proof.launch.used == "held"
    found = next(one.found for one in judge(proof) if one.what == "launch held")
    assert "graph is not to be had here" in found


def test_an_accelerator_whose_launch_cannot_be_kept_out_is_named() -> None:
    proof = proof_of(launch_s=5e-6)
    assert proof.launch is not None
    assert proof_warnings(proof) == (), "a processor is its own host"
    behind = replace(proof, launch=replace(proof.launch, is_behind_host=True))
    warning = the_warning(behind, "Every sample holds its launch")
    assert "an empty op takes 5.00 us" in warning
    assert "under 100 us" in warning


def test_a_hold_that_keeps_nothing_out_is_named() -> None:
    device = StandIn(launch_s=5e-6)
    device.hold = lambda seconds: True  # type: ignore[method-assign]
    proof = prove(device, POLICY, device.work())  # type: ignore[arg-type]
    assert "no faster by launch 'held'" in the_warning(proof, "empty op")


def test_a_hold_of_known_length_is_timed() -> None:
    proof = proof_of(launch_s=5e-6, can_hold=True)
    assert proof.hold is not None
    assert proof.hold.held_s.value == pytest.approx(1e-3)
    assert proof_warnings(proof) == ()
    assert proof_of(launch_s=5e-6).hold is None


def test_a_graph_on_a_device_that_is_not_held_has_no_hold_to_prove() -> None:
    policy = replace(POLICY, launch=Launch.GRAPH)
    proof = proof_of(policy, launch_s=5e-6, can_capture=True)
    assert proof.hold is None
    assert proof_warnings(proof) == ()
    assert proof_of(policy, launch_s=5e-6, can_capture=True, can_hold=True).hold is not None


def test_a_hold_that_is_far_too_short_is_named() -> None:
    proof = proof_of(launch_s=5e-6, can_hold=True, hold_factor=0.4)
    assert "busy for 400 us when it was to be held for 1.00 ms" in the_warning(proof, "hold")
    assert proof_warnings(proof_of(launch_s=5e-6, can_hold=True, hold_factor=0.6)) == ()


def test_all_work_is_replayed_where_samples_are_launched_as_graphs() -> None:
    policy = replace(POLICY, launch=Launch.GRAPH)
    line = proof_of(policy, launch_s=5e-6, can_capture=True).timers[0].linearity
    assert line is not None
    # Each unit holds a launch, which a replay does for a fiftieth of the time.
    assert line.unit_s == pytest.approx(2e-4 + REPLAY_S, rel=2e-3)


def test_work_that_cannot_be_captured_is_launched_without_a_graph() -> None:
    device = StandIn(launch_s=5e-6, can_capture=True)
    work = device.work()
    plain = device.capture
    device.capture = (  # type: ignore[method-assign]
        lambda run: plain(run) if run is work.nothing else None  # type: ignore[arg-type, return-value]
    )
    proof = prove(device, replace(POLICY, launch=Launch.GRAPH), work)  # type: ignore[arg-type]
    line = proof.timers[0].linearity
    assert line is not None
    assert line.unit_s == pytest.approx(2e-4 + 5e-6, rel=2e-3)


def test_a_device_that_cannot_do_the_work_is_not_proven_and_not_stopped() -> None:
    device = StandIn()

    def fails() -> None:
        raise RuntimeError("add_ is not implemented\nand more")

    proof = prove(device, POLICY, replace(device.work(), unit=fails))  # type: ignore[arg-type]
    assert proof.failure == "RuntimeError: add_ is not implemented"
    assert "not proven" in the_warning(proof, "timer")
    assert proof.resolution_s == 0.0


def test_the_clock_of_the_host_is_proven_beside_another_timer() -> None:
    device = StandIn()
    host = StandInTimer(device, overhead_s=30e-6)
    host.kind = "host_clock"  # type: ignore[misc]
    proof = prove(device, POLICY, replace(device.work(), host=host))  # type: ignore[arg-type]
    assert [timer.kind for timer in proof.timers] == ["stand_in", "host_clock"]
    assert "host_clock" in the_warning(proof, "overhead")
    assert proof.resolution_s == device.timer.resolution_s


def test_steps_show_only_where_readings_repeat() -> None:
    assert smallest_step_s([[0.0, 0.0, 1e-3], [2e-3, 2e-3, 4e-3]]) == pytest.approx(1e-3)
    assert smallest_step_s([[1.0e-3, 1.1e-3, 1.3e-3]]) is None
    assert smallest_step_s([[0.0, 0.0, 0.0]]) is None


def test_the_fake_chip_is_proven_at_once_and_its_clock_does_not_move() -> None:
    device = FakeDevice(FakeOptions(noise=0.01, drift_per_s=0.5, throttle_after_s=0.0))
    prove(device, POLICY)
    before = device.now_s()
    proof = prove(device, POLICY)
    assert proof.seconds < 0.05
    assert proof_warnings(proof) == ()
    assert proof.cache is None
    assert device.now_s() == before == 0.0


def test_the_processor_here_is_proven_in_time() -> None:
    device = CpuDevice(processor_name(), num_usable_cores())
    # Of this process alone, all threads together: other work on the host is not what is tested,
    # and the proof never sleeps.
    began_s = time.process_time()
    proof = prove(device, POLICY)
    assert time.process_time() - began_s < 1.5
    assert not proof.failure
    (timer,) = proof.timers
    assert timer.kind == "host_clock"
    assert 0 < timer.overhead_s.value < 1e-4
    assert timer.linearity is not None
    assert proof.scale is not None
    assert proof.scale.ratio.value == pytest.approx(1.0, abs=0.01)
    assert proof.cache is not None
    assert proof.launch is not None
    assert proof.launch.used == "direct"


def test_a_proof_is_read_back_as_it_was_written() -> None:
    proof = proof_of(is_flushing=False)
    assert from_json(Proof, to_json(proof)) == proof


def test_a_later_proof_that_agrees_changes_nothing() -> None:
    first = proof_of()
    assert changes_since(first, proof_of()) == ()
    assert with_later(first, proof_of()) == first


def test_what_a_later_proof_finds_otherwise_is_added_to_the_first_once() -> None:
    first, later = proof_of(), proof_of(overhead_s=12e-6, scale=1.03, is_flushing=False)
    both = with_later(with_later(first, later), later)
    assert both.timers == first.timers
    assert both.changes == (
        "The overhead of stand_in was 0 ns and later 12.4 us.",
        "The timer's ratio to the host's clock was 1.0000 and later 1.0300.",
        "The flush was proven, and later it was not.",
    )
    assert any("later 12.4 us" in warning for warning in proof_warnings(both))


def test_a_device_with_events_is_proven_with_the_clock_of_the_host_beside() -> None:
    device = CpuDevice(processor_name(), num_usable_cores())
    device.timer.kind = "device_event"
    proof = prove(device, POLICY)
    assert not proof.failure
    assert [timer.kind for timer in proof.timers] == ["device_event", "host_clock"]
