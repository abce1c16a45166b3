"""ResultRow: the numbers that are said of a record, computed from its samples each time.

A share of the roof is the attainable time of `roofline` over the median time.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from harness.device.base import POWER_CAP
from harness.environment import named
from harness.projection import Projection
from harness.record import Energy, Measurement, Record, Status, Sustained
from harness.rejection import reason_to_reject
from harness.roofline import Bound, Roof, Roofline
from harness.roofs import HOT, MEMORY, TRANSFERS, measured_roofs
from harness.stats import Summary, geometric_mean, summarize
from harness.units import duration, significant, with_prefix

Roofs = Roofline
"""The best rates a chip reached, by a search or by a few cases: see `harness/roofs.py`."""

REJECTED = "rejected"
"""In place of the status of a record that is too fast to be true: see `harness/rejection.py`."""


NOISY_HALF_WIDTH = 0.10
"""Half an interval wider than this share of its median is called noisy. It is ten times what a case
stops at by default, and more than any difference between two chips that is worth a verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """One record in numbers; None where there is none to give."""

    case_id: str
    problem_id: str
    title: str
    """The op, the mode and the variant, for people."""
    group: str
    """The problem without its sizes: `gemm.bf16.forward`; `...@hot` with a cache of its own."""
    op: str
    impl: str
    dtype: str
    mode: str
    """The mode, and the variant where the op has any."""
    axes: tuple[tuple[str, int], ...]
    shape: str
    roles: tuple[str, ...]
    status: Status
    reason: str
    """Why there is no time; empty where there is one."""
    is_rejected: bool
    """The record has a time, and it is not to be believed; the reason says why."""
    flops: int | None
    num_bytes: int | None
    median_s: float | None
    low_s: float | None
    """Lower end of the 95 % interval of the median."""
    high_s: float | None
    num_samples: int
    num_outliers: int
    is_throttled: bool
    """The chip ran slower than it can all the time that samples were taken."""
    num_throttled: int
    """Samples that were taken while it did, labelled and left out of the median."""
    is_power_capped: bool
    """The chip drew all the power it may, and lowered its clocks for that."""
    energy: Energy | None
    sustained: Sustained | None
    launch: str
    """How the host's time to launch was kept out of the samples; empty without a time."""
    num_timer_steps: float | None
    """The median in steps of its timer."""
    is_short: bool
    """The samples are too short for their timer: see SHORT_RESOLUTIONS."""
    bound: Bound | None
    roof_share: float | None
    """Achieved over attainable; above 1 when the roof was measured too low. None without a roof."""
    foreign_processes: tuple[str, ...] = ()
    """Other programs that held the device while the case was measured."""
    protocol_hash: str = ""
    """Equal for equal work under equal rules."""

    @property
    def is_ok(self) -> bool:
        """It has a time."""
        return self.status is Status.OK and not self.is_rejected

    @property
    def status_word(self) -> str:
        """The status, or that the row was rejected."""
        return REJECTED if self.is_rejected else str(self.status)

    @property
    def is_noisy(self) -> bool:
        """It has a time, but its interval is too wide to build on."""
        if self.median_s is None or self.low_s is None or self.high_s is None:
            return False
        return self.high_s - self.low_s > 2 * NOISY_HALF_WIDTH * self.median_s

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to know of its time before building on it, in a few words each."""
        marks = {
            "throttled": self.is_throttled,
            "power capped": self.is_power_capped,
            "noisy": self.is_noisy,
            short_text(self.num_timer_steps or 0.0): self.is_short,
        }
        return tuple(words for words, is_so in marks.items() if is_so)

    @property
    def is_above_roof(self) -> bool:
        """Even its slow end beat the roof it is held against, so that is not the chip's best."""
        if self.roof_share is None or self.median_s is None or self.high_s is None:
            return False
        return self.roof_share * self.median_s > self.high_s

    @property
    def flops_per_s(self) -> float | None:
        """FLOPs over the median; None for a problem that has none, as a copy."""
        return self.flops / self.median_s if self.flops and self.median_s else None

    @property
    def bytes_per_s(self) -> float | None:
        """Least traffic over the median."""
        return self.num_bytes / self.median_s if self.num_bytes and self.median_s else None

    @property
    def intensity(self) -> float | None:
        """FLOPs per byte of least traffic."""
        if self.flops is None or not self.num_bytes:
            return None
        return self.flops / self.num_bytes

    @property
    def rate(self) -> str:
        """The rate that matters, for people: FLOP/s where the matrix roof binds, else bytes/s."""
        is_likely_matrix = self.flops and self.flops >= (self.num_bytes or 0)
        is_matrix = self.bound is Bound.MATRIX or (self.bound is None and is_likely_matrix)
        if is_matrix and self.flops_per_s is not None:
            return with_prefix(self.flops_per_s, "FLOP/s")
        return "" if self.bytes_per_s is None else with_prefix(self.bytes_per_s, "B/s")


def short_text(num_timer_steps: float) -> str:
    """`short: 3 steps of the timer`."""
    if num_timer_steps < 1:
        return "short: under 1 step of the timer"
    # Not rounded up: what is short never reads as long enough.
    shown = f"{num_timer_steps:.2g}" if num_timer_steps < 10 else str(int(num_timer_steps))
    return f"short: {shown} step{'' if shown == '1' else 's'} of the timer"


@lru_cache(maxsize=8192)
def summary_of(samples_s: tuple[float, ...]) -> Summary:
    """Of the steady samples; kept, since the terminal, the report and MLflow all ask for it."""
    return summarize(samples_s)


def rejection(record: Record, roofs: Roofs) -> str:
    """Why the time of a record is not to be believed, as one too fast, or an empty text."""
    if record.status is not Status.OK or record.measurement is None:
        return ""
    if not all(map(math.isfinite, record.measurement.samples_s)):
        return "Some of its samples are not numbers, so it has no time."
    return reason_to_reject(record, summary_of(record.measurement.steady_samples_s), roofs)


def accepted(records: Sequence[Record], roofs: Roofs) -> tuple[Record, ...]:
    """The records without those that are too fast to be true, for whoever builds on their times."""
    return tuple(record for record in records if not rejection(record, roofs))


def _has_roof(record: Record) -> bool:
    """A roof of memory or of matrix products can be held against it.

    A link to the host is another road, a hot cache a shorter one, and an empty launch goes nowhere.
    """
    problem, cost = record.case.problem, record.cost
    if cost is None or not (cost.flops or cost.num_bytes):
        return False
    return problem.op not in TRANSFERS and record.case.cache != HOT


def result_row(record: Record, roofs: Roofs) -> ResultRow:
    """The row of one record, held against those roofs."""
    problem, measurement, cost = record.case.problem, record.measurement, record.cost
    unbelievable = rejection(record, roofs)
    is_ok = record.status is Status.OK and measurement is not None and not unbelievable
    summary = None
    if is_ok and measurement is not None:
        summary = summary_of(measurement.steady_samples_s)
    has_roof = _has_roof(record)
    bound = roofs.bound(cost, problem.dtype) if cost is not None and has_roof else None
    share = None
    if cost is not None and has_roof and summary is not None and summary.median > 0:
        share = roofs.efficiency(cost, problem.dtype, summary.median)
    cache = f"@{record.case.cache}" if record.case.cache else ""
    return ResultRow(
        case_id=record.case.id,
        problem_id=f"{problem.id}{cache}",
        title=f"{problem.title} {record.case.cache}".rstrip(),
        group=record.case.group,
        op=problem.op,
        impl=record.case.impl,
        dtype=problem.dtype,
        mode=f"{problem.mode} {problem.variant}".rstrip(),
        axes=problem.axes,
        shape=problem.shape,
        roles=record.case.roles,
        status=record.status,
        reason=unbelievable or record.reason,
        is_rejected=bool(unbelievable),
        flops=cost.flops if cost else None,
        num_bytes=cost.num_bytes if cost else None,
        median_s=summary.median if summary else None,
        low_s=summary.low if summary else None,
        high_s=summary.high if summary else None,
        num_samples=summary.num_samples if summary else 0,
        num_outliers=summary.num_outliers if summary else 0,
        is_throttled=measurement is not None and measurement.is_throttled,
        num_throttled=measurement.num_throttled if measurement is not None else 0,
        is_power_capped=_is_power_capped(measurement),
        energy=measurement.energy if measurement is not None else None,
        sustained=measurement.sustained if measurement is not None else None,
        launch=measurement.launch if measurement is not None else "",
        num_timer_steps=measurement.num_timer_steps if measurement is not None else None,
        is_short=measurement is not None and measurement.is_short,
        bound=bound,
        roof_share=share,
        foreign_processes=() if measurement is None else measurement.foreign_processes,
        protocol_hash=record.protocol_hash,
    )


def _is_power_capped(measurement: Measurement | None) -> bool:
    if measurement is None:
        return False
    states = [window.state for window in measurement.windows] or [measurement.state_after]
    return any(POWER_CAP in state.throttle_reasons for state in states)


def result_rows(records: Sequence[Record], roofs: Roofs | None = None) -> tuple[ResultRow, ...]:
    """One row per case, in the order of the records; the roofs are theirs if none are given.

    Where a case was run again, as after a resume, its last record counts.
    """
    roofs = measured_roofs(records) if roofs is None else roofs
    last = {record.case.id: record for record in records}
    return tuple(result_row(record, roofs) for record in last.values())


def best_rows(rows: Sequence[ResultRow]) -> tuple[ResultRow, ...]:
    """The fastest implementation of each problem that has a time, in first-seen order."""
    best: dict[str, ResultRow] = {}
    for row in rows:
        if row.median_s is None:
            continue
        held = best.get(row.problem_id)
        if held is None or held.median_s is None or row.median_s < held.median_s:
            best[row.problem_id] = row
    return tuple(best.values())


def geomean_s(rows: Sequence[ResultRow]) -> float | None:
    """Geometric mean over the problems of the fastest implementation's median."""
    medians = [row.median_s for row in best_rows(rows) if row.median_s]
    return geometric_mean(medians) if medians else None


def geomean_roof_share(rows: Sequence[ResultRow]) -> float | None:
    """Geometric mean over the problems of the fastest implementation's share of its roof."""
    shares = [row.roof_share for row in best_rows(rows) if row.roof_share]
    return geometric_mean(shares) if shares else None


def num_failed(rows: Sequence[ResultRow]) -> int:
    """Cases that should have had a time and have none; unsupported ones do not count."""
    return sum(not row.is_ok and row.status is not Status.UNSUPPORTED for row in rows)


def status_counts(rows: Sequence[ResultRow]) -> str:
    """`41 ok, 3 unsupported, 1 timeout`, in the order statuses are declared, rejected ones last."""
    counts = Counter(row.status_word for row in rows)
    words = [
        f"{counts[status]} {status.replace('_', ' ')}"
        for status in (*Status, REJECTED)
        if counts[status]
    ]
    return ", ".join(words) or "no cases"


def disturbed_text(rows: Sequence[ResultRow]) -> str:
    """Which other programs held the device while how many cases were measured; empty for none."""
    programs = tuple(dict.fromkeys(name for row in rows for name in row.foreign_processes))
    if not programs:
        return ""
    disturbed = sum(bool(row.foreign_processes) for row in rows)
    return (
        f"Not alone: {named(programs)} held the device while {disturbed} of {len(rows)} cases were "
        "measured. Stop them and measure again before building on these times."
    )


def roofs_text(roofs: Roofs) -> str:
    """`bf16 712 TFLOP/s +/- 0.4 %, memory 3.98 TB/s (of run ...)`, or that there are none."""
    words = [
        f"{dtype} {with_prefix(rate, 'FLOP/s')}{_spread(roofs, dtype)}"
        for dtype, rate in roofs.flops_per_s
    ]
    if roofs.bytes_per_s is not None:
        words.append(f"memory {with_prefix(roofs.bytes_per_s, 'B/s')}{_spread(roofs, 'memory')}")
    return ", ".join(words) or "none, since the suite has no roof cases with a time"


def sheet_share(roof: Roof, sheet: Roofline | None) -> float | None:
    """A measured roof over the data sheet's rate, or None where the sheet gives none."""
    if sheet is None:
        return None
    is_memory = roof.what == MEMORY or roof.what.startswith(f"{MEMORY} ")
    peak = sheet.bytes_per_s if is_memory else sheet.peak(roof.what)
    return roof.value / peak if peak else None


def _spread(roofs: Roofs, what: str) -> str:
    roof = roofs.roof(what)
    if roof is None:
        return ""
    return f" +/- {significant(100 * (roof.high - roof.low) / 2 / roof.value, 2)} %"


def headline(suite: str, chip: str, rows: Sequence[ResultRow]) -> str:
    """The run in one plain sentence, failures first when there are any."""
    failed = num_failed(rows)
    num_ok = sum(row.is_ok for row in rows)
    if not num_ok:
        return f"{suite} on {chip}: nothing could be measured ({status_counts(rows)})."
    share, mean = geomean_roof_share(rows), geomean_s(rows)
    words = [f"{suite} on {chip}:"]
    if failed:
        words.append(f"{failed} of {len(rows)} cases failed;")
    words.append(f"{num_ok} of {len(rows)} cases measured")
    if share is not None:
        words.append(f"at {significant(100 * share)} % of the measured roof")
    if mean is not None:
        words.append(f"({duration(mean)} per problem, geometric mean of the fastest)")
    return " ".join(words) + "."


WORTH_TELLING_IDLE = 0.01
"""Idle chips up to this share of the cluster are left out of the headline."""


def projection_headline(projection: Projection) -> str:
    """The projection in one plain sentence."""
    point = projection.headline
    mfu = ""
    if projection.mfu is not None:
        mfu = f" at {significant(100 * projection.mfu)} % MFU"
        if projection.linear_dtype:
            mfu += f" of the {projection.dtype} peak with layers in {projection.linear_dtype}"
    # A few idle chips are rounding; a plan that leaves many idle must not pass for the cluster.
    is_partial = point.num_chips_used < (1 - WORTH_TELLING_IDLE) * point.num_chips
    used = f"{point.num_chips_used:,} of " if is_partial else ""
    return (
        f"{projection.model} on {used}{point.num_chips:,} x {projection.chip}: "
        f"{with_prefix(point.tokens_per_second.value, 'tokens/s')}{mfu}, "
        f"one step in {duration(point.step_time_s.value)}."
    )
