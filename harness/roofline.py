"""Roofline: the least time a chip's rates allow for a cost.

A data-sheet roofline and a measured one are two objects and never mixed: the first says what the
maker promises, the second what a program reached on this very chip.

Source: Williams, Waterman and Patterson, Roofline: An Insightful Visual Performance Model for
Multicore Architectures, CACM 52(4), 2009.
"""

from dataclasses import dataclass
from enum import StrEnum

from harness.device.chip import ChipSpec
from kernels.op import Cost

ALWAYS_MEMORY_BOUND = 1.0
"""FLOPs per byte below which a problem is bound by memory whatever its type's matrix rate.

The lowest knee among the data sheets in `configs/chip/` is 5.9 FLOP/byte (fp32 of the Rubin), so
an optimizer in fp32 has a roof even where only the bf16 matrix rate was measured.
"""


class Bound(StrEnum):
    """Which rate sets the least time."""

    MATRIX = "matrix"
    MEMORY = "memory"


def is_memory_bound(cost: Cost) -> bool:
    """Whether memory binds it on any chip, whatever its matrix rate."""
    return cost.flops < ALWAYS_MEMORY_BOUND * cost.num_bytes


MIN_SEARCHED = 6
"""So many problems tried make a search, against which a result can be refused. The suites of models
try up to two for a rate, which is enough to show a share of, and too few to call a best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roof:
    """The best that was measured of one kind, with its 95 % interval."""

    what: str
    """A data type for its matrix rate, or a name of `harness/roofs.py`: `memory`, `cache` ..."""
    unit: str
    """`FLOP/s`, `B/s`, or `s` for a time, of which the least is the best."""
    value: float
    low: float
    high: float
    naive: float
    """What the best case says of itself: on average better than the truth, as any maximum is."""
    case_ids: tuple[str, ...]
    """The case that was found best; two where the halves of the samples disagree."""
    shape: str
    """Op, sizes and implementation of the first, for people."""
    num_tried: int
    """The problems among which the best was looked for."""
    run_id: str

    @property
    def is_searched(self) -> bool:
        """Enough was tried to call it the chip's best."""
        return self.num_tried >= MIN_SEARCHED


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """Two rates of one chip; what is unknown is absent, never guessed."""

    title: str = "measured"
    """Whose rates: `H100-SXM data sheet`, `measured`."""
    flops_per_s: tuple[tuple[str, float], ...] = ()
    """The matrix rate by data type."""
    bytes_per_s: float | None = None
    """Memory traffic, reads and writes together."""
    roofs: tuple[Roof, ...] = ()
    """Where measured rates come from, with intervals; those of cache, launch and links as well."""
    sheet: "Roofline | None" = None
    """What measured rates are shown beside."""

    def roof(self, what: str) -> Roof | None:
        """The measured one of that name, or None."""
        return next((roof for roof in self.roofs if roof.what == what), None)

    @property
    def best_flops_per_s(self) -> float | None:
        """The highest matrix rate of any type."""
        return max((rate for _, rate in self.flops_per_s), default=None)

    def peak(self, dtype: str) -> float | None:
        """The matrix rate of that type, or None."""
        return dict(self.flops_per_s).get(dtype)

    def knee(self, dtype: str) -> float | None:
        """FLOPs per byte at which both rates take equal time, or None."""
        peak = self.peak(dtype)
        return None if peak is None or self.bytes_per_s is None else peak / self.bytes_per_s

    def bound(self, cost: Cost, dtype: str) -> Bound | None:
        """The rate that sets the least time, or None when that rate is unknown."""
        if is_memory_bound(cost):
            return Bound.MEMORY if self.bytes_per_s is not None else None
        knee = self.knee(dtype)
        if knee is None:
            return None
        return Bound.MATRIX if cost.flops > knee * cost.num_bytes else Bound.MEMORY

    def attainable_time_s(self, cost: Cost, dtype: str) -> float | None:
        """The least time for that cost, or None when a rate that could bind is unknown."""
        bound = self.bound(cost, dtype)
        if bound is None or self.bytes_per_s is None:
            return None
        if bound is Bound.MEMORY:
            return cost.num_bytes / self.bytes_per_s
        peak = self.peak(dtype)
        assert peak is not None, "a matrix bound has a matrix rate"
        return cost.flops / peak

    def efficiency(self, cost: Cost, dtype: str, seconds: float) -> float | None:
        """Attainable over actual time; above 1 when the roof is lower than the chip's best."""
        attainable_s = self.attainable_time_s(cost, dtype)
        return None if attainable_s is None else attainable_s / seconds


def data_sheet_roofline(chip: ChipSpec) -> Roofline:
    """The roofline that the maker's data sheet promises."""
    return Roofline(
        title=f"{chip.title} data sheet",
        flops_per_s=chip.peak_flops_per_s,
        bytes_per_s=chip.memory_bandwidth_bytes_per_s,
    )
