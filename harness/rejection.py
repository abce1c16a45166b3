"""Too fast to be true: why a result is faster than its chip can be, in a sentence.

A result is refused when the slow end of its interval still beats the fast end of a roof by more
than a margin. Its record stays as it is.
"""

from harness.cases import ROOF_ROLE
from harness.record import Measurement, Record
from harness.roofline import Roof, Roofline, is_memory_bound
from harness.stats import Summary
from harness.units import with_prefix
from kernels.op import Cost

MARGIN = 0.10
"""How much faster than a measured roof a result may be: clocks move by a few per cent between runs,
and a kernel that is better than any in the search gains some more. Assumed."""
SHEET_MARGIN = 0.15
"""How much faster than its data sheet a chip may be: it names the boost clock, and chips go beyond
it. An H100's is 1830 MHz of at most 1980 (8 %); that no chip goes twice as far is assumed."""
_HOST_CLOCK = "host_clock"
"""The timer of a processor, which is shared with whatever else runs on it. Two cores moved 49 GB/s
when they were quiet and 6 GB/s beside other programs (load average 9), so that a roof found there
bounds nothing that is measured later."""


def reason_to_reject(record: Record, summary: Summary, roofs: Roofline) -> str:
    """Why a timed result cannot be true, or an empty text.

    Args:
        record: an OK record, with cost and measurement.
        summary: of its samples.
        roofs: what was measured, of which only what was searched for counts, and the data sheet.
    """
    return above_sheet(record, summary, roofs.sheet) or _above_measured(record, summary, roofs)


def above_sheet(record: Record, summary: Summary, sheet: Roofline | None) -> str:
    """Why a result is faster than its chip's data sheet allows, or an empty text."""
    if sheet is None:
        return ""
    dtype = record.case.problem.dtype
    peaks = {dtype: sheet.peak(dtype), "memory": sheet.bytes_per_s}
    for what, unit, rate in _slow_rates(record, summary):
        peak = peaks.get(what)
        if peak is not None and rate > (1 + SHEET_MARGIN) * peak:
            return (
                f"{with_prefix(rate, unit)} at the slow end of the interval is "
                f"{rate / peak - 1:.0%} above the {what} peak of {sheet.title}, "
                f"{with_prefix(peak, unit)}; {SHEET_MARGIN:.0%} is let pass. "
                f"{_suspects(what)}, or the data sheet is of another chip."
            )
    return ""


def _above_measured(record: Record, summary: Summary, roofs: Roofline) -> str:
    assert record.measurement is not None
    if record.measurement.timer == _HOST_CLOCK:
        return ""
    for what, unit, rate in _slow_rates(record, summary):
        roof = roofs.roof(what)
        if roof is None or not roof.is_searched or _is_candidate(record, roof):
            continue
        if rate > (1 + MARGIN) * roof.high:
            return (
                f"{with_prefix(rate, unit)} at the slow end of the interval is "
                f"{rate / roof.high - 1:.0%} above the measured {what} roof, "
                f"{with_prefix(roof.value, unit)} (up to {with_prefix(roof.high, unit)}, best of "
                f"{roof.num_tried} problems in {roof.run_id}); {MARGIN:.0%} is let pass. "
                f"{_suspects(what)}, or the roof is too low."
            )
    return ""


def _is_candidate(record: Record, roof: Roof) -> bool:
    """The roof comes from a search that this record is a part of."""
    return record.run_id == roof.run_id and ROOF_ROLE in record.case.roles


def _suspects(what: str) -> str:
    if what == "memory":
        return "Either the cache was not flushed, the op's cost is wrong"
    return "Either not all of the work was done, the op's cost is wrong"


def _slow_rates(record: Record, summary: Summary) -> tuple[tuple[str, str, float], ...]:
    """Name, unit and the slowest likely value of the rates that a roof can be held against."""
    assert record.measurement is not None
    if record.cost is None or summary.high <= 0:
        return ()
    # A timer may be off by a step at both ends together.
    slow_s = summary.high + record.measurement.timer_resolution_s
    rates = []
    if not is_memory_bound(record.cost):
        rates.append((record.case.problem.dtype, "FLOP/s", record.cost.flops / slow_s))
    num_bytes = through_memory_bytes(record.cost, record.measurement)
    if num_bytes > 0:
        rates.append(("memory", "B/s", num_bytes / slow_s))
    return tuple(rates)


def through_memory_bytes(cost: Cost, measurement: Measurement) -> int:
    """The least bytes that pass between memory and chip while a sample is taken.

    Where the cache was flushed, all that is read does, and of what is written that part which no
    cache can hold back: a flush writes more than the last-level cache, so `flush_bytes` is no less
    than that. Where it was not flushed, nothing has to.
    """
    if not measurement.flush_bytes:
        return 0
    return cost.bytes_read + max(0, cost.bytes_written - measurement.flush_bytes)
