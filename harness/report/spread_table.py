"""How far apart devices of one kind are, for the terminal and as rows for the other reports."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.spread import MIN_DEVICES, CaseSpread, Spread
from harness.units import significant

MAX_CASES = 10
"""Of the terminal's table; spread.json has every case."""
DEVICE_HEADS = ("device", "time over the middle", "95 % interval", "z", "slowest in")
CASE_HEADS = ("case", "slowest", "fastest", "spread", "95 % interval")


def _percent(share: float) -> str:
    return f"{significant(100 * share, 2)} %"


def _ratio(value: float) -> str:
    return f"{value:.4f}"


def verdict(spread: Spread) -> str:
    """One sentence: which device is slow, or that none is."""
    apart = (
        f"Device {spread.slowest} takes {_percent(spread.spread)} "
        f"({_percent(spread.low)} to {_percent(spread.high)}) longer than device {spread.fastest}."
    )
    if spread.slow:
        named = ", ".join(
            f"device {one.label} ({_percent(one.ratio - 1)} over the middle, z {one.z_score:.1f})"
            for one in spread.slow
        )
        return f"{apart} Slow: {named}."
    if spread.critical_z is None:
        return f"{apart} Which one is slow cannot be told of fewer than {MIN_DEVICES} devices."
    return f"{apart} None stands out as slow."


def device_rows(spread: Spread) -> tuple[tuple[str, ...], ...]:
    """A row for each device, in the order of DEVICE_HEADS."""
    return tuple(
        (
            f"{one.label}{' (slow)' if one.is_slow else ''}",
            _ratio(one.ratio),
            f"{_ratio(one.low)} to {_ratio(one.high)}",
            "" if one.z_score is None else f"{one.z_score:.1f}",
            f"{one.num_slowest} of {len(spread.cases)}",
        )
        for one in spread.devices
    )


def widest_cases(spread: Spread) -> tuple[CaseSpread, ...]:
    """The cases whose devices are farthest apart for sure, widest first."""
    return tuple(sorted(spread.cases, key=lambda case: -case.low)[:MAX_CASES])


def case_rows(spread: Spread) -> tuple[tuple[str, ...], ...]:
    """A row for each of the widest cases, in the order of CASE_HEADS."""
    return tuple(
        (
            case.case_id,
            case.slowest,
            case.fastest,
            _percent(case.spread),
            f"{_percent(case.low)} to {_percent(case.high)}",
        )
        for case in widest_cases(spread)
    )


def _table(heads: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place == 0 else "right", overflow="fold")
    for row in rows:
        style = "yellow" if row[0].endswith("(slow)") else ""
        table.add_row(*map(Text, row), style=style)
    return table


def spread_view(spread: Spread) -> RenderableType:
    """The devices, the cases that are farthest apart, and the verdict."""
    return Group(
        Text(f"Devices at once, over {len(spread.cases)} cases:", style="bold"),
        _table(DEVICE_HEADS, device_rows(spread)),
        Text(""),
        _table(CASE_HEADS, case_rows(spread)),
        Text(""),
        Text(verdict(spread), style="bold"),
    )
