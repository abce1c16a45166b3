"""A whole gate with sides that measure nothing: what is refused, what is advice, what is kept."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.arms import calibrating, measuring
from harness.arms.calibrating import calibration
from harness.arms.changes import environment_changes, refuse_another_chip
from harness.arms.measuring import GateOrder, OpenGate, Ready, measure_gate
from harness.arms.source import StoredRun, Tree
from harness.arms.tree import ArmTree
from harness.arms.turns import GateWatcher
from harness.errors import ConfigError, NothingMeasured
from harness.fingerprint import fingerprint
from harness.gate.policy import GatePolicy
from harness.gate_result import State
from harness.record import Record, Status
from tests.harness.arms.test_turns import CASES, IDS, PlannedSide, broken
from tests.harness.fake_runs import fake_job
from tests.harness.sample_run import ok_record, sample_environment, write_run


def order_in(folder: Path, **changes: object) -> GateOrder:
    tree = Tree(label="working tree", path=folder)
    values: dict[str, object] = {
        "gate_id": "20260102-gate",
        "folder": folder,
        "base": tree,
        "head": tree,
        "tree": folder,
        "job": fake_job(),
        "arm_overrides": (),
        "config_dirs": (),
        "only": (),
        "policy": GatePolicy(rounds=2),
        "floors_file": folder / "floors.json",
        "exemptions_file": folder / "exemptions.json",
        "is_advisory": False,
        "is_strict_stored": False,
        "chip_name": lambda environment: "imaginary_x1",
        "reproduce": lambda case_id: f"chipscale gate --case '{case_id}'",
        "command": "chipscale gate base=main",
        "started_at": "2026-01-02T03:04:05+00:00",
    }
    return GateOrder(**(values | changes))  # type: ignore[arg-type]


def arm(name: str, folder: Path, digest: str) -> ArmTree:
    return ArmTree(name=name, label=name, root=folder, digest=digest)


def opened(order: GateOrder, base: ArmTree | StoredRun | None = None) -> OpenGate:
    return OpenGate(
        order=order,
        base=base or arm("base", order.folder, "one"),
        head=arm("head", order.folder, "two"),
        lock_folder=order.folder,
    )


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch) -> Callable[[PlannedSide, PlannedSide], None]:
    """Puts sides in the place of those that start processes."""

    def put(base: PlannedSide, head: PlannedSide) -> None:
        environment = sample_environment()
        ready = Ready(
            base=base,
            head=head,
            case_ids=IDS,
            environment=environment,
            fingerprint=fingerprint(environment),
        )
        for module in (measuring, calibrating):
            monkeypatch.setattr(module, "prepared", lambda gate, note: ready)
            # The sample's device is none of this host's.
            monkeypatch.setattr("harness.arms.hold.lock_device", lambda *arguments: None)

    return put


Put = Callable[[PlannedSide, PlannedSide], None]


def slower(case_id: str) -> Record:
    record = ok_record(CASES[case_id])
    assert record.measurement is not None
    samples = tuple(2 * sample for sample in record.measurement.samples_s)
    return replace(record, measurement=replace(record.measurement, samples_s=samples))


def test_what_is_slower_is_measured_in_fresh_rounds_alone_and_regresses(
    sides: Put, tmp_path: Path
) -> None:
    diary: list[str] = []
    planned = {str(turn): [slower(IDS[1])] for turn in range(1, 5)}
    base, head = PlannedSide("base", diary), PlannedSide("head", diary, planned)
    sides(base, head)
    result = measure_gate(opened(order_in(tmp_path)), GateWatcher())
    assert [case.case_id for case in result.of(State.REGRESSED)] == [IDS[1]]
    assert result.num_failing == 1
    assert (result.num_rounds, result.num_confirm_rounds) == (2, 2)
    assert head.taken[2:] == [("3", [IDS[1]]), ("4", [IDS[1]])]
    assert result.cases[0].reproduce == f"chipscale gate --case '{IDS[1]}'"


def test_nothing_flagged_is_nothing_measured_again(sides: Put, tmp_path: Path) -> None:
    diary: list[str] = []
    sides(PlannedSide("base", diary), PlannedSide("head", diary))
    result = measure_gate(opened(order_in(tmp_path)), GateWatcher())
    assert len(diary) == 4
    assert result.num_confirm_rounds == 0


def test_a_side_without_any_time_is_nothing_measured(sides: Put, tmp_path: Path) -> None:
    every = [broken(one) for one in IDS]
    head = PlannedSide("head", [], {"1": every, "1-again": every})
    sides(PlannedSide("base", []), head)
    with pytest.raises(NothingMeasured, match=r"The head has no time of any case.*It broke"):
        measure_gate(opened(order_in(tmp_path)), GateWatcher())


def test_a_case_that_is_wrong_on_the_head_is_invalid_with_its_reason(
    sides: Put, tmp_path: Path
) -> None:
    wrong = [broken(IDS[0], Status.INCORRECT)]
    head = PlannedSide("head", [], {"1": wrong, "1-again": wrong})
    sides(PlannedSide("base", []), head)
    result = measure_gate(opened(order_in(tmp_path)), GateWatcher())
    (case,) = result.of(State.INVALID)
    assert case.case_id == IDS[0]
    assert "Round 1, head: incorrect, It broke" in case.reason


@pytest.mark.parametrize(("is_strict", "is_advisory"), [(False, True), (True, False)])
def test_a_stored_base_is_advice_unless_that_was_asked_for(
    is_strict: bool, is_advisory: bool, sides: Put, tmp_path: Path
) -> None:
    stored = StoredRun(label="stored", folder=write_run(tmp_path / "runs"))
    sides(PlannedSide("base", []), PlannedSide("head", []))
    order = order_in(tmp_path, base=stored, is_strict_stored=is_strict)
    result = measure_gate(opened(order, stored), GateWatcher())
    assert result.is_advisory is is_advisory
    assert not result.is_interleaved
    assert {case.tolerance for case in result.cases} == {0.05}
    assert result.base.run_ids == (stored.folder.info.run_id,)


def test_the_same_code_on_both_sides_is_told(sides: Put, tmp_path: Path) -> None:
    sides(PlannedSide("base", []), PlannedSide("head", []))
    order = order_in(tmp_path)
    gate = replace(opened(order), head=arm("head", tmp_path, "one"))
    assert measuring.SAME_CODE in measure_gate(gate, GateWatcher()).warnings


def test_a_calibration_gives_floors_after_every_suite(sides: Put, tmp_path: Path) -> None:
    diary: list[str] = []
    sides(PlannedSide("base", diary), PlannedSide("head", diary))
    begun: list[int] = []
    floors = list(calibration(opened(order_in(tmp_path)), 3, GateWatcher(), begun.append))
    assert begun == [1, 2, 3]
    assert len(floors) == 3
    assert len(diary) == 3 * 2 * 2
    assert {one.case_id for one in floors[0].cases} == set(IDS)
    assert {one.fingerprint for one in floors} == {fingerprint(sample_environment())}


def test_a_calibration_without_a_time_says_so(sides: Put, tmp_path: Path) -> None:
    every = [broken(one) for one in IDS]
    sides(PlannedSide("base", [], {"1": every, "1-again": every}), PlannedSide("head", []))
    with pytest.raises(NothingMeasured, match="in all 2 rounds"):
        list(calibration(opened(order_in(tmp_path)), 1, GateWatcher(), lambda suite: None))


def test_another_driver_is_told_and_another_chip_refused() -> None:
    before = sample_environment()
    device = before.device
    newer = replace(before, device=replace(device, driver="999.1"), commit="another")
    assert environment_changes(before, newer) == (
        f"The driver changed from {device.driver} to 999.1.",
    )
    assert environment_changes(before, replace(before, commit="another")) == ()
    other = replace(before, device=replace(device, name="Another Chip"))
    with pytest.raises(ConfigError, match=r"here is Another Chip.*chipscale compare"):
        refuse_another_chip(before, other, "stored")


def test_a_fingerprint_is_of_what_moves_a_time() -> None:
    here = sample_environment()
    device = replace(here.device, driver="575.57.08", memory_bytes=80 * 2**30)
    one = fingerprint(replace(here, device=device))
    alike = replace(device, driver="575.57.99", memory_bytes=80 * 2**30 - 2**20)
    assert fingerprint(replace(here, device=alike, host="another", commit="another")) == one
    for other in (replace(device, driver="580.1"), replace(device, memory_bytes=141 * 2**30)):
        assert fingerprint(replace(here, device=other)) != one
