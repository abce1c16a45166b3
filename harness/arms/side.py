"""A side of the gate: gives its records of a round, from a fresh process or from a stored run."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.arms.plan import Plan, part_of
from harness.arms.process import measure_once
from harness.arms.tree import ArmTree, digest_of
from harness.errors import ConfigError
from harness.record import Record, Status
from harness.store.folder import RUN, RunFolder

OnCase = Callable[[str], None]


class Side(Protocol):
    """What takes turns."""

    @property
    def name(self) -> str:
        """`base` or `head`."""
        ...

    @property
    def is_measured(self) -> bool:
        """Its turns measure; else another try gives what the first gave."""
        ...

    @property
    def case_ids(self) -> tuple[str, ...]:
        """What it has, in its own order."""
        ...

    def kept(self, turn: str, wanted: Collection[str]) -> tuple[Record, ...] | None:
        """The records of a turn that was taken already, as before a resume; None where not."""
        ...

    def discard(self, turn: str) -> None:
        """Put aside what a turn that was not ended left."""
        ...

    def take(self, turn: str, wanted: Collection[str], on_case: OnCase) -> tuple[Record, ...]:
        """Measure those of the wanted cases that it has."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSide:
    """A fresh process for every turn."""

    arm: ArmTree
    plan: Plan
    folder: Path
    """The gate's; the turn `3` is measured into `base-3`."""
    lock_folder: Path
    on_notice: Callable[[str], None]

    @property
    def name(self) -> str:
        """`base` or `head`."""
        return self.arm.name

    @property
    def is_measured(self) -> bool:
        """It is."""
        return True

    @property
    def case_ids(self) -> tuple[str, ...]:
        """What its plan has."""
        return self.plan.case_ids

    def kept(self, turn: str, wanted: Collection[str]) -> tuple[Record, ...] | None:
        """The records of a turn that went through all its cases."""
        path = self._path(turn)
        if not wanted:
            return ()
        if not (path / RUN).exists():
            return None
        records = RunFolder(path).records()
        due = {case_id for case_id in self.case_ids if case_id in wanted}
        return records if due <= {record.case.id for record in records} else None

    def discard(self, turn: str) -> None:
        """Rename its folder, so that what was measured is still there to be looked at."""
        path = self._path(turn)
        if path.exists():
            number = 1
            while (aside := path.with_name(f"{path.name}.stopped-{number}")).exists():
                number += 1
            path.rename(aside)

    def take(self, turn: str, wanted: Collection[str], on_case: OnCase) -> tuple[Record, ...]:
        """Measure in a fresh process; a case that it came to no record of has one that says so."""
        if not wanted:
            return ()
        self._refuse_changed()
        path = self._path(turn)
        is_all = set(self.case_ids) <= set(wanted)
        plan = self.plan if is_all else part_of(self.plan, wanted, self._cases_path(turn))
        if plan is None:
            return ()
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        measured = measure_once(
            self.arm, plan, path, logs / f"{path.name}.log", self.lock_folder, on_case
        )
        if measured.failure:
            self.on_notice(f"{path.name}: {measured.failure}; {logs / path.name}.log has more.")
        had = {record.case.id for record in measured.records}
        missing = tuple(
            Record(
                run_id=path.name,
                case=case,
                status=Status.CRASHED,
                reason=measured.failure or "Its process ended without a record of it.",
            )
            for case in plan.cases
            if case.id not in had
        )
        return measured.records + missing

    def _refuse_changed(self) -> None:
        """Raises ConfigError when somebody edited the code since the gate began."""
        if digest_of(self.arm.root) != self.arm.digest.partition("+")[0]:
            raise ConfigError(
                f"{self.name}: the code in {self.arm.root} changed while it was measured, so its "
                "rounds are not of one thing. Repeat the gate; `head=HEAD` measures a commit, "
                "whatever is edited meanwhile."
            )

    def _path(self, turn: str) -> Path:
        return self.folder / f"{self.name}-{turn}"

    def _cases_path(self, turn: str) -> Path:
        cases = self.folder / "cases"
        cases.mkdir(exist_ok=True)
        return cases / f"{self.name}-{turn}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSide:
    """The same records in every turn: a run that was measured earlier."""

    name: str
    records: tuple[Record, ...]
    _by_id: dict[str, Record] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_id", {one.case.id: one for one in self.records})

    @property
    def is_measured(self) -> bool:
        """It was, once."""
        return False

    @property
    def case_ids(self) -> tuple[str, ...]:
        """Of all its records."""
        return tuple(self._by_id)

    def kept(self, turn: str, wanted: Collection[str]) -> tuple[Record, ...] | None:
        """It is always there."""
        del turn
        return self._of(wanted)

    def discard(self, turn: str) -> None:
        """Nothing of it is the gate's to put aside."""

    def take(self, turn: str, wanted: Collection[str], on_case: OnCase) -> tuple[Record, ...]:
        """Nothing is measured."""
        del turn, on_case
        return self._of(wanted)

    def _of(self, wanted: Collection[str]) -> tuple[Record, ...]:
        return tuple(record for case_id, record in self._by_id.items() if case_id in wanted)
