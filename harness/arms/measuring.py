"""A whole gate: arms opened, cases made, the device held, rounds taken, the rule asked."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from harness.arms.changes import environment_changes, refuse_another_chip
from harness.arms.hold import held, probe
from harness.arms.plan import Plan, make_plan
from harness.arms.selection import selected
from harness.arms.side import ProcessSide, Side, StoredSide
from harness.arms.source import Revision, Source, StoredHistory, StoredRun, Tree, Wheel
from harness.arms.tree import ArmTree, digest_of, opened
from harness.arms.turns import GateWatcher, Notices, Turns
from harness.codec import to_json
from harness.environment import Environment
from harness.errors import NothingMeasured
from harness.fingerprint import fingerprint
from harness.gate.decide import judge, screen
from harness.gate.exemptions import read_exemptions
from harness.gate.expected import expected_false_alarms
from harness.gate.floors import choose, read_floors
from harness.gate.policy import GatePolicy
from harness.gate.rounds import Round
from harness.gate_result import Arm, GateResult
from harness.record import Record, Status
from harness.run import close_run
from harness.store.disk import write_atomically
from harness.store.folder import ENVIRONMENT, RUN, RunFolder
from harness.worker.job import Job

STORED_TOLERANCE = 0.05
"""Of a stored run as base, at least: base and head of two sessions differ by 1.5 to 4 % though
nothing changed; with 5 % and the suite's median taken out, 0 to 17 % of suites raised a false alarm
on a shared machine, against 48 % without."""
SAME_CODE = "Base and head are the same code, so this is an A/A: all differences are the machine's."


@dataclass(frozen=True, slots=True, kw_only=True)
class GateOrder:
    """What is to be gated, and how."""

    gate_id: str
    folder: Path
    """Where everything is kept; it is there."""
    base: Source
    head: Revision | Wheel | Tree
    tree: Path
    """The running code."""
    job: Job
    """What the running code makes of the overrides: suite, device, rules and cases."""
    arm_overrides: tuple[str, ...]
    config_dirs: tuple[Path, ...]
    only: tuple[str, ...]
    """Cases, or patterns with `*`; empty for all."""
    policy: GatePolicy
    floors_file: Path
    exemptions_file: Path
    is_advisory: bool
    is_strict_stored: bool
    chip_name: Callable[[Environment], str]
    reproduce: Callable[[str], str]
    """A case -> the command that gates it alone."""
    command: str
    started_at: str

    @property
    def is_interleaved(self) -> bool:
        """Both sides take turns in this job."""
        return not isinstance(self.base, StoredRun | StoredHistory)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenGate:
    """A gate with its arms in place."""

    order: GateOrder
    base: ArmTree | StoredRun | StoredHistory
    head: ArmTree
    lock_folder: Path

    @property
    def is_same_code(self) -> bool:
        """Nothing differs between the arms."""
        return isinstance(self.base, ArmTree) and self.base.digest == self.head.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Both sides and the machine, before the first round."""

    base: Side
    head: Side
    case_ids: tuple[str, ...]
    """The base's and then what the head has beside them."""
    environment: Environment
    fingerprint: str


@contextlib.contextmanager
def opened_gate(order: GateOrder) -> Iterator[OpenGate]:
    """Both arms, their code in place until the end.

    Raises:
        ConfigError: when one cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        locks = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chipscale-gate-")))
        base: ArmTree | StoredRun | StoredHistory
        if isinstance(order.base, StoredRun | StoredHistory):
            base = order.base
        else:
            base = stack.enter_context(opened("base", order.base, order.tree, locks))
        head = stack.enter_context(opened("head", order.head, order.tree, locks))
        yield OpenGate(order=order, base=base, head=head, lock_folder=locks)


def measure_gate(gate: OpenGate, watcher: GateWatcher) -> GateResult:
    """Take all rounds that are due, and judge.

    Rounds that the folder has already are not taken again.

    Raises:
        NothingMeasured: when no case has a time on either side, or none is on both.
        ConfigError: when an arm refuses, or the base is of another chip.
        DeviceBusyError: when the device is not to be had.
        StorageError: when the disk takes no more; what was measured is kept.
        KeyboardInterrupt: by Ctrl-C; what was measured is kept.
    """
    order = gate.order
    assert not isinstance(gate.base, StoredHistory), "that has a measure of its own"
    known_floors = read_floors(order.floors_file)
    exemptions = read_exemptions(order.exemptions_file).exemptions
    notices = Notices(watcher)
    ready = prepared(gate, notices)
    floors, warning = choose(known_floors, ready.fingerprint, order.policy.rounds)
    if gate.is_same_code:
        notices.keep(SAME_CODE)
    policy = order.policy if order.is_interleaved else _for_stored(order.policy)
    turns = Turns(base=ready.base, head=ready.head, watcher=watcher)
    with held(ready.environment, order.job.device.index, order.gate_id, notices):
        first = tuple(turns.rounds(range(1, policy.rounds + 1), ready.case_ids))
        refuse_nothing(first, order)
        flagged = screen(first, policy, floors)
        numbers = range(policy.rounds + 1, 2 * policy.rounds + 1)
        fresh = tuple(turns.afresh().rounds(numbers, flagged)) if flagged else ()
    cases, shift = judge(
        first,
        fresh,
        policy,
        floors,
        exemptions,
        today=datetime.now(UTC).date(),
        is_interleaved=order.is_interleaved,
    )
    folders = {name: round_folders(order, name) for name in ("base", "head")}
    if isinstance(gate.base, StoredRun):
        folders["base"] = [gate.base.folder]
    return GateResult(
        gate_id=order.gate_id,
        suite=order.job.run.suite,
        model=order.job.run.model,
        chip=order.chip_name(ready.environment),
        fingerprint=ready.fingerprint,
        base=arm_of(gate.base, folders["base"]),
        head=arm_of(gate.head, folders["head"]),
        cases=tuple(replace(case, reproduce=order.reproduce(case.case_id)) for case in cases),
        num_rounds=len(first),
        num_confirm_rounds=len(fresh),
        is_interleaved=order.is_interleaved,
        is_advisory=order.is_advisory or (not order.is_interleaved and not order.is_strict_stored),
        common_shift=shift,
        expected_false_alarms=expected_false_alarms(
            cases, floors, policy, is_interleaved=order.is_interleaved
        ),
        warnings=(
            *notices.sentences,
            *([warning] if warning else []),
            *round_warnings(folders, first + fresh),
        ),
        environment_changes=_changes(folders),
        started_at=order.started_at,
        ended_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=order.command,
    )


def prepared(gate: OpenGate, note: Callable[[str], None]) -> Ready:
    """Both sides with their cases, and the machine as a process of its own sees it.

    What a stored run does not have is not measured: there is nothing to hold it against.

    Raises:
        NothingMeasured: when they have no case in common.
        ConfigError: when an arm refuses, or the base is of another chip.
    """
    order = gate.order
    base, head = _side(gate, gate.base, note), _side(gate, gate.head, note)
    is_history = isinstance(gate.base, StoredHistory)
    if not is_history and not set(base.case_ids) & set(head.case_ids):
        raise NothingMeasured(
            f"Base and head have no case in common, so there is no baseline: the base has "
            f"{_example(base.case_ids)}, the head {_example(head.case_ids)}."
        )
    known = base.case_ids
    if isinstance(gate.base, StoredRun):
        num_new = len(set(head.case_ids) - set(known))
        if num_new:
            note(f"{num_new} cases of the head are not in {gate.base.label} and are left out.")
    else:
        known = tuple(dict.fromkeys((*known, *head.case_ids)))
    case_ids = selected(known, order.only)
    environment = probe(replace(order.job, cases=()), order.folder)
    if isinstance(gate.base, StoredRun):
        refuse_another_chip(gate.base.folder.environment, environment, gate.base.label)
    return Ready(
        base=base,
        head=head,
        case_ids=case_ids,
        environment=environment,
        fingerprint=fingerprint(environment),
    )


def _side(
    gate: OpenGate, arm: ArmTree | StoredRun | StoredHistory, note: Callable[[str], None]
) -> Side:
    if isinstance(arm, StoredRun):
        return StoredSide(name="base", records=arm.folder.records())
    if isinstance(arm, StoredHistory):
        return StoredSide(name="base", records=())
    order = gate.order
    path = order.folder / f"{arm.name}.json"
    if arm.overlay is None and arm.digest == digest_of(order.tree):
        # The running code has made its cases already.
        write_atomically(path, to_json(order.job) + "\n")
        plan = Plan(path=path, cases=order.job.cases)
    else:
        plan = make_plan(arm, order.arm_overrides, order.config_dirs, path, gate.lock_folder)
    return ProcessSide(
        arm=arm,
        plan=plan,
        folder=order.folder,
        lock_folder=gate.lock_folder,
        on_notice=note,
    )


def _for_stored(policy: GatePolicy) -> GatePolicy:
    return replace(
        policy,
        tolerance=max(policy.tolerance, STORED_TOLERANCE),
        short_tolerance=max(policy.short_tolerance, STORED_TOLERANCE),
    )


def refuse_nothing(
    rounds: Sequence[Round], order: GateOrder, names: Sequence[str] = ("base", "head")
) -> None:
    """Raises NothingMeasured where one of those sides has no time to be judged."""
    for name in names:
        records = [record for one in rounds for record in getattr(one, name)]
        if not any(record.status is Status.OK for record in records):
            raise NothingMeasured(
                f"The {name} has no time of any case{_first_reason(records)}. {order.folder} has "
                "what its processes said."
            )


def _example(case_ids: Sequence[str]) -> str:
    return f"{case_ids[0]} ..." if case_ids else "none"


def _first_reason(records: Sequence[Record]) -> str:
    return next(
        (f"; the first says: {one.status}, {one.reason.rstrip('.')}" for one in records), ""
    )


def round_folders(order: GateOrder, name: str) -> list[RunFolder]:
    """The run folders of that side's rounds, in their order, each with the name of its chip."""
    numbers = range(1, 2 * order.policy.rounds + 1)
    paths = [order.folder / f"{name}-{number}" for number in numbers]
    folders = [RunFolder(path) for path in paths if (path / RUN).exists()]
    for folder in folders:
        if (folder.path / ENVIRONMENT).exists():
            close_run(folder, order.chip_name)
    return folders


def arm_of(arm: ArmTree | StoredRun, folders: Sequence[RunFolder]) -> Arm:
    """The side as the result tells it, from the run folders that it was measured into."""
    environment = _environment(folders)
    versions: tuple[tuple[str, str], ...] = ()
    if environment is not None:
        of_device = (
            ("driver", environment.device.driver),
            ("runtime", environment.device.runtime),
        )
        versions = tuple((name, text) for name, text in (*environment.versions, *of_device) if text)
    if isinstance(arm, ArmTree):
        commit, branch = arm.commit, arm.branch
    else:
        assert environment is not None, "a stored run that was opened has an environment"
        dirty = "-dirty" if environment.has_local_changes else ""
        commit = environment.commit + dirty if environment.commit else ""
        branch = environment.branch
    return Arm(
        label=arm.label,
        commit=commit,
        branch=branch,
        run_ids=tuple(folder.info.run_id for folder in folders),
        versions=versions,
    )


def _environment(folders: Sequence[RunFolder]) -> Environment | None:
    found = (one.environment for one in folders if (one.path / ENVIRONMENT).exists())
    return next(found, None)


def _changes(folders: dict[str, list[RunFolder]]) -> tuple[str, ...]:
    base, head = _environment(folders["base"]), _environment(folders["head"])
    return () if base is None or head is None else environment_changes(base, head)


def round_warnings(folders: dict[str, list[RunFolder]], rounds: Sequence[Round]) -> tuple[str, ...]:
    """What a reader should know of the rounds, a sentence each."""
    busy = [
        folder.path.name
        for side in folders.values()
        for folder in side
        if (folder.path / ENVIRONMENT).exists() and folder.environment.warnings
    ]
    found = []
    if busy:
        found.append(
            f"Other programs were busy before {len(busy)} of "
            f"{sum(map(len, folders.values()))} processes, as before {busy[0]}; a quiet machine "
            "tells smaller changes apart."
        )
    left_out = {
        record.case.id
        for one in rounds
        for record in (*one.base, *one.head)
        if record.status is Status.UNSUPPORTED
    }
    if left_out:
        found.append(
            f"{len(left_out)} cases cannot run here on one side or both, as {min(left_out)}."
        )
    return tuple(found)
