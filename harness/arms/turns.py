"""Base and head by turns: A B, B A, A B ... with what failed in a pair tried once more."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from harness.arms.side import Side
from harness.gate.rounds import Round
from harness.record import FAILURES, Record, Status

RETRY = "-again"


class GateWatcher:
    """Is told what happens; does nothing unless overridden."""

    def on_notice(self, sentence: str) -> None:
        """Something is out of the ordinary, and the gate goes on."""

    def on_turn(self, side: str, round_number: int, num_cases: int) -> None:
        """A process of that side begins, with so many cases."""

    def on_case(self, case_id: str) -> None:
        """A case of it is over."""


class Notices:
    """Told to the watcher at once, and kept for the result."""

    def __init__(self, watcher: GateWatcher) -> None:
        self._watcher = watcher
        self._kept: dict[str, None] = {}

    def __call__(self, sentence: str) -> None:
        """Something is out of the ordinary."""
        self.keep(sentence)
        self._watcher.on_notice(sentence)

    def keep(self, sentence: str) -> None:
        """For the result alone."""
        self._kept[sentence] = None

    @property
    def sentences(self) -> tuple[str, ...]:
        """Each once, in order."""
        return tuple(self._kept)


@dataclass(slots=True, kw_only=True)
class Turns:
    """Measures rounds, and remembers what is not worth another try."""

    base: Side
    head: Side
    watcher: GateWatcher
    _given_up: dict[str, dict[str, Record]] = field(default_factory=dict)
    """By side and case, the record that no later round of that side replaces: the case failed
    twice in one round, or cannot run here. The other side is measured on, for it may be fine."""
    _retried: set[str] = field(default_factory=set)
    """Cases whose second try in a round was in vain; another round does not try again."""

    def rounds(self, numbers: Sequence[int], case_ids: Collection[str]) -> Iterator[Round]:
        """The rounds of those numbers, the odd ones with the base first.

        They end early when a side has nothing left that it can measure.
        """
        for number in numbers:
            if any(self._is_over(side, case_ids) for side in (self.base, self.head)):
                return
            yield self._round(number, case_ids)

    def afresh(self) -> "Turns":
        """The same sides for rounds that confirm: what was given up has one more try there.

        It may have failed for a reason of the moment, as memory that another program held.
        """
        return Turns(
            base=self.base, head=self.head, watcher=self.watcher, _retried=set(self._retried)
        )

    def _is_over(self, side: Side, case_ids: Collection[str]) -> bool:
        given_up = self._given_up.get(side.name, {})
        due = [case_id for case_id in side.case_ids if case_id in case_ids]
        return bool(due) and all(case_id in given_up for case_id in due)

    def _round(self, number: int, wanted: Collection[str]) -> Round:
        base_first = number % 2 == 1
        base, head = self._pair(number, str(number), wanted, base_first)
        failed = self._failed(self.base, base) | self._failed(self.head, head)
        failed -= self._retried
        if failed:
            is_one = len(failed) == 1
            self.watcher.on_notice(
                f"Round {number}: {_named(failed)} could not be measured; "
                f"{'it is' if is_one else 'they are'} tried once more."
            )
            again = self._pair(number, f"{number}{RETRY}", failed, base_first)
            base, head = _replaced(base, again[0]), _replaced(head, again[1])
            failing = self._failed(self.base, base) | self._failed(self.head, head)
            self._retried |= failing & failed
        for side, records in ((self.base, base), (self.head, head)):
            given_up = self._given_up.setdefault(side.name, {})
            given_up.update(
                (record.case.id, record) for record in records if record.status is not Status.OK
            )
        return Round(base=base, head=head, base_first=base_first)

    def _pair(
        self, number: int, turn: str, wanted: Collection[str], base_first: bool
    ) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
        """Both sides of a turn, one right after the other.

        A pair of which one half was measured before a stop is measured anew: the halves have to be
        of one moment.
        """
        due = {side.name: self._due(side, wanted) for side in (self.base, self.head)}
        found: dict[str, tuple[Record, ...]] = {}
        kept = [side.kept(turn, due[side.name]) for side in (self.base, self.head)]
        order = (self.base, self.head) if base_first else (self.head, self.base)
        if kept[0] is None or kept[1] is None:
            for side in order:
                side.discard(turn)
            for side in order:
                self.watcher.on_turn(side.name, number, len(due[side.name]))
                found[side.name] = side.take(turn, due[side.name], self.watcher.on_case)
        else:
            found = {self.base.name: kept[0], self.head.name: kept[1]}
        base, head = (
            found[side.name] + self._given_up_of(side, wanted) for side in (self.base, self.head)
        )
        return base, head

    def _due(self, side: Side, wanted: Collection[str]) -> list[str]:
        given_up = self._given_up.get(side.name, {})
        return [
            case_id for case_id in side.case_ids if case_id in wanted and case_id not in given_up
        ]

    @staticmethod
    def _failed(side: Side, records: Sequence[Record]) -> set[str]:
        """What another try might measure: it failed, or the chip was throttled all the while."""
        if not side.is_measured:
            return set()
        return {
            record.case.id
            for record in records
            if record.status in FAILURES
            or (record.measurement is not None and record.measurement.is_throttled)
        }

    def _given_up_of(self, side: Side, wanted: Collection[str]) -> tuple[Record, ...]:
        given_up = self._given_up.get(side.name, {})
        return tuple(record for case_id, record in given_up.items() if case_id in wanted)


def _replaced(records: Sequence[Record], later: Sequence[Record]) -> tuple[Record, ...]:
    """The records, with those of a later try in the place of the first."""
    again = {record.case.id: record for record in later}
    return tuple(again.get(record.case.id, record) for record in records)


def _named(case_ids: Collection[str]) -> str:
    more = len(case_ids) - 1
    return min(case_ids) + (f" and {more} more" if more else "")
