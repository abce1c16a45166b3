from dataclasses import replace

import pytest

from harness.device.base import POWER_CAP, DeviceState
from harness.gate.decide import screen
from harness.gate.pairs import pairs_by_case
from harness.gate.policy import GatePolicy
from harness.gate.rounds import Round
from harness.gate.validity import Finding, coarse_timer, fault_of, finding_of
from harness.gate_result import State
from harness.record import Status, Window
from tests.harness.gate.rounds_of import COPY, failed, record, slower, with_head


def found(rounds: list[Round]) -> Finding | None:
    return finding_of(pairs_by_case(rounds)[COPY])


def states(*each: DeviceState) -> tuple[Window, ...]:
    return tuple(Window(num_samples=1, seconds=1e-3, state=one) for one in each)


def clocked(hz: float, **state: object) -> DeviceState:
    return DeviceState(clock_hz=hz, **state)  # type: ignore[arg-type]


THROTTLED = DeviceState(throttle_reasons=("thermal",))


def test_sound_rounds_have_no_finding() -> None:
    assert found(slower(0.1)) is None


def test_one_side_alone_is_judged_by_its_own_faults() -> None:
    assert fault_of([record(1e-3), record(1.1e-3)]) == ""
    assert fault_of([failed(Status.UNSUPPORTED)]) == ""
    assert fault_of([record(1e-3), failed(Status.CRASHED)]) == "Process 2: crashed, no luck."
    throttled = record(1e-3, windows=states(THROTTLED, THROTTLED, THROTTLED))
    assert fault_of([throttled]).startswith("Process 1: the chip was throttled during 100 %")


def test_mostly_throttled_samples_are_invalid_and_may_pass() -> None:
    head = record(1e-3, windows=states(THROTTLED, THROTTLED, DeviceState()))
    finding = found(with_head(slower(0), 1, head))
    assert finding is not None
    assert finding.state is State.INVALID
    assert finding.reason == (
        "Round 2, head: the chip was throttled during 67 % of its samples (thermal)."
    )
    assert finding.is_passing
    assert screen(with_head(slower(0), 1, head), GatePolicy()) == (COPY,)


def test_a_few_throttled_samples_are_left_out_of_the_median_and_no_matter() -> None:
    head = record(1e-3, windows=states(DeviceState(), DeviceState(), THROTTLED))
    assert found(with_head(slower(0), 1, head)) is None


def test_another_program_on_the_device_is_invalid() -> None:
    head = record(1e-3, state_after=DeviceState(foreign_processes=("python (4711)",)))
    finding = found(with_head(slower(0), 0, head))
    assert finding is not None
    assert finding.reason == "Round 1, head: other programs held the device: python (4711)."
    assert finding.is_passing


def with_clocks(base_hz: float, head_hz: float, **measurement: object) -> list[Round]:
    return [
        Round(
            base=(record(1e-3, windows=states(*[clocked(base_hz)] * 3), **measurement),),
            head=(record(1e-3, windows=states(*[clocked(head_hz)] * 3), **measurement),),
            base_first=True,
        )
        for _ in range(5)
    ]


def test_clocks_that_differ_by_more_than_2_percent_are_invalid() -> None:
    finding = found(with_clocks(1.98e9, 1.90e9))
    assert finding is not None
    assert finding.is_passing
    assert finding.reason.startswith(
        "The chip ran at 1.980 GHz for the base and 1.900 GHz for the head (-4.0 %)"
    )
    assert found(with_clocks(1.98e9, 1.95e9)) is None


def test_the_clock_of_a_processor_is_not_held_against_it() -> None:
    assert found(with_clocks(3.0e9, 2.0e9, timer="host_clock")) is None


def test_a_clock_that_the_power_cap_sets_is_the_works_own() -> None:
    capped = states(*[clocked(1.7e9, throttle_reasons=(POWER_CAP,))] * 3)
    rounds = [
        replace(one, head=(record(1e-3, windows=capped),)) for one in with_clocks(1.98e9, 1.98e9)
    ]
    assert found(rounds) is None


def test_another_protocol_is_invalid_and_the_part_that_differs_is_named() -> None:
    head = replace(
        record(1e-3),
        protocol_hash="other",
        protocol_parts=(("op", "copy"), ("sizes", "N=2048"), ("timer", "virtual_clock")),
    )
    finding = found(with_head(slower(0), 0, head))
    assert finding is not None
    assert finding.reason == (
        "Base and head do not measure equal work by equal rules: sizes: N=1024 and N=2048."
    )
    assert not finding.is_passing


def test_a_side_that_does_not_tell_its_protocol_is_invalid() -> None:
    head = replace(record(1e-3), protocol_hash="", protocol_parts=())
    finding = found(with_head(slower(0), 0, head))
    assert finding is not None
    assert finding.reason.endswith("one side does not tell its own.")


def test_a_new_case_that_fails_is_invalid() -> None:
    rounds = [replace(one, base=()) for one in slower(0)]
    finding = found(with_head(rounds, 0, None))
    assert finding is not None
    assert (finding.state, finding.reason) == (
        State.INVALID,
        "It is new, and the head: the process left no record of it.",
    )


@pytest.mark.parametrize(("median_s", "is_fine"), [(3.9e-6, False), (4.0e-6, True)])
def test_a_case_under_eight_steps_of_its_timer_is_not_judged(
    median_s: float, is_fine: bool
) -> None:
    finding = coarse_timer(median_s, 0.5e-6)
    assert (finding is None) is is_fine
    if finding is not None:
        assert finding.reason == (
            "It lasts 3.90 us, and a step of its timer is 500 ns: below 8 steps nothing is "
            "judged. Enlarge the case."
        )
