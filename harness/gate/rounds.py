"""Round: one fresh process of either side, one right after the other, on one device."""

from dataclasses import dataclass

from harness.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What both processes of a pair measured."""

    base: tuple[Record, ...]
    head: tuple[Record, ...]
    base_first: bool
    """The order alternates from pair to pair, so that a drift falls on both sides alike."""
