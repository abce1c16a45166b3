"""Energy per run, and burst against sustained speed, as tables for every kind of report."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.record import Energy, Sustained
from harness.results import ResultRow
from harness.units import GIGA, duration, energy, significant

NOT_SETTLED = "not settled"
HOST_BOUND = "host bound"
FINE_S = 1.0
"""Counters move about every 0.1 s, so that over less than this a third digit means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerTable:
    """A table as words."""

    note: str
    heads: tuple[str, ...]
    numbers: tuple[str, ...]
    """Those of the heads whose columns are numbers."""
    lines: tuple[tuple[str, ...], ...]


def power_tables(rows: Sequence[ResultRow]) -> tuple[tuple[str, PowerTable], ...]:
    """Title and table of each of the two that any case has numbers for."""
    tables = (
        ("Energy", _energy(rows)),
        ("Sustained speed", _sustained(rows)),
    )
    return tuple((title, table) for title, table in tables if table.lines)


def _energy(rows: Sequence[ResultRow]) -> PowerTable:
    lines = []
    for row in rows:
        if row.energy is None:
            continue
        joules, digits = row.energy.joules_per_run, _digits(row.energy)
        per_flop = energy(joules / row.flops, digits) if row.flops else ""
        per_byte = energy(joules / row.num_bytes, digits) if row.num_bytes else ""
        power = f"{significant(row.energy.mean_power_w, digits)} W"
        remark = HOST_BOUND if row.energy.is_host_bound else ""
        lines.append((*_name(row), energy(joules, digits), per_flop, per_byte, power, remark))
    numbers = ("per run", "per FLOP", "per byte", "mean power")
    return PowerTable(
        note="By the device's own counter, over runs without a pause and without a flush between. "
        f"What is {HOST_BOUND} was launched no faster than it ran, and holds what the idle device "
        "drew.",
        heads=("case", "implementation", *numbers, "remark"),
        numbers=numbers,
        lines=tuple(lines),
    )


def _digits(found: Energy) -> int:
    """As many as the counter allows."""
    return 3 if found.seconds >= FINE_S else 2


def _sustained(rows: Sequence[ResultRow]) -> PowerTable:
    lines = []
    for row in rows:
        found = row.sustained
        if found is None:
            continue
        settled_s = found.settled_after_s
        lines.append(
            (
                *_name(row),
                duration(found.burst_s),
                duration(found.sustained_s),
                f"{significant(100 * found.burst_s / found.sustained_s)} %",
                NOT_SETTLED if settled_s is None else duration(settled_s),
                _clocks(found),
            )
        )
    numbers = ("burst", "sustained", "of burst", "settled after", "clock")
    return PowerTable(
        note="Per run, without a pause: in the first second after a rest, and once clocks and "
        "temperature had settled.",
        heads=("case", "implementation", *numbers),
        numbers=numbers,
        lines=tuple(lines),
    )


def _name(row: ResultRow) -> tuple[str, str]:
    return f"{row.title} {row.dtype} {row.shape}", row.impl


def _clocks(found: Sustained) -> str:
    """`1.98 to 1.62 GHz`, from the first window to the last; empty where clocks are not told."""
    first_hz, last_hz = (found.windows[place].state.clock_hz for place in (0, -1))
    if first_hz is None or last_hz is None:
        return ""
    return f"{significant(first_hz / GIGA)} to {significant(last_hz / GIGA)} GHz"
