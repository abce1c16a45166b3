"""Measured roofs: the best rates among the roof cases, free of the bias of taking a maximum.

The best of many measured rates is on average better than the truth, since it is also the luckiest.
So the samples of each case are halved. The best case by the first halves is looked up in the second
ones, where luck is no longer on its side, and the other way round; the roof is the mean of the two.
Where several cases are equally good this is their rate without bias; where one of them is best, the
roof is its rate, less what is lost whenever another is picked in its place.

Source: Varma and Simon 2006, Bias in error estimation when using cross-validation for model
selection, BMC Bioinformatics 7:91; Chernozhukov et al. 2018, Double/debiased machine learning, The
Econometrics Journal 21 (for the crossing of halves).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from harness.cases import ROOF_ROLE
from harness.record import Measurement, Record, Status
from harness.rejection import above_sheet
from harness.roofline import Roof, Roofline, is_memory_bound
from harness.stats import Floats, Summary, median_interval, summarize

MEMORY = "memory"
CACHE = "cache"
LAUNCH = "launch"
LAUNCH_OP = "empty"
TRANSFERS = {"host_to_device": "host to device", "device_to_host": "device to host"}
"""Ops that move data over the link to the host, and the names of their roofs."""
DIRECTIONS = ("read", "write", "copy", "triad")
"""Ops that have a memory roof of their own beside the best of all: `memory read`."""
HOT = "hot"

MIN_HALF = 3
"""With fewer samples held out their spread is not seen, and the range of all samples is taken."""
SELECTION_CORRELATION = 0.1
"""Of the two held-out medians. Both are of one case where the halves pick the same one, and then
lucky together: between K equal cases of normal noise it is 0.32 for K = 2 and 0.21 for K = 16, and
0 where one case is clearly best. With 0.1 the interval holds the truth in 94 to 97 % of 1500
simulated searches, for 2 to 16 cases that are equal or not, with 20 to 400 samples each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The best of several rates."""

    value: float
    low: float
    """Of the 95 % interval."""
    high: float
    naive: float
    """The largest median."""
    picked: tuple[int, ...]
    """Which was best by the first halves, then by the second ones where that is another."""


def best_rate(candidates: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Estimate:
    """The best of the candidates' rates.

    Args:
        candidates: of each the rates of its samples in two halves, each in the order they were
            taken; larger is better.
    """
    assert candidates, "there is no best of none"
    halves = [(_logs(first), _logs(second)) for first, second in candidates]
    whole = [np.concatenate(pair) for pair in halves]
    medians = [float(np.median(series)) for series in whole]
    naive = max(medians)
    # A case with one sample has nothing to be held out.
    halved = [index for index, pair in enumerate(halves) if all(series.size for series in pair)]
    if len(halved) < 2:
        best = medians.index(naive)
        is_thin = any(series.size < MIN_HALF for series in halves[best])
        low, high = _range(whole[best]) if is_thin else median_interval(whole[best])
        return _estimate(naive, low, high, naive, (best,))
    by_first, by_second = (
        max(halved, key=lambda index: float(np.median(halves[index][half]))) for half in (0, 1)
    )
    held_out = (halves[by_first][1], halves[by_second][0])
    middles = [float(np.median(series)) for series in held_out]
    middle = sum(middles) / 2
    if min(series.size for series in held_out) < MIN_HALF:
        low, high = _range(np.concatenate((whole[by_first], whole[by_second])))
    else:
        # The mean of two medians is as uncertain as the median of all that was held out.
        pooled = np.concatenate(
            [series - own for series, own in zip(held_out, middles, strict=True)]
        )
        widened = math.sqrt(1 + SELECTION_CORRELATION)
        low, high = (middle + widened * end for end in median_interval(pooled))
    return _estimate(middle, low, high, naive, tuple(dict.fromkeys((by_first, by_second))))


def _range(series: Floats) -> tuple[float, float]:
    return float(series.min()), float(series.max())


def _logs(rates: Sequence[float]) -> Floats:
    return np.log(np.asarray(rates, dtype=np.float64))


def _estimate(
    value: float, low: float, high: float, naive: float, picked: tuple[int, ...]
) -> Estimate:
    """From logarithms."""
    value, low, high, naive = (math.exp(log) for log in (value, low, high, naive))
    return Estimate(value=value, low=low, high=high, naive=naive, picked=picked)


def halves_of(measurement: Measurement) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The steady samples in two halves, by every other window.

    Neighbouring samples are alike in clocks and temperature, so a window is not split, unless there
    is but one.
    """
    groups: list[tuple[float, ...]] = []
    first = 0
    for window in measurement.windows:
        after = first + window.num_samples
        if not window.state.is_throttled and window.num_samples:
            groups.append(measurement.samples_s[first:after])
        first = after
    if len(groups) < 2:
        groups = [(sample,) for sample in measurement.steady_samples_s]
    even, odd = groups[::2], groups[1::2]
    return sum(even, ()), sum(odd, ())


def kinds_of(record: Record) -> tuple[str, ...]:
    """The roofs that a record is a candidate for."""
    problem, cost = record.case.problem, record.cost
    if problem.op == LAUNCH_OP:
        return (LAUNCH,)
    if problem.op in TRANSFERS:
        return (TRANSFERS[problem.op],)
    if cost is None or not cost.num_bytes:
        return ()
    if not is_memory_bound(cost):
        return () if record.case.cache == HOT else (problem.dtype,)
    if record.case.cache == HOT:
        return (CACHE,)
    return (MEMORY, f"{MEMORY} {problem.op}") if problem.op in DIRECTIONS else (MEMORY,)


def _work(record: Record, what: str) -> tuple[float, str]:
    """What a sample does, and the unit of that over its time; a launch is one."""
    if what == LAUNCH:
        return 1.0, "s"
    assert record.cost is not None
    if what == record.case.problem.dtype:
        return record.cost.flops, "FLOP/s"
    return record.cost.num_bytes, "B/s"


def measured_roofs(records: Sequence[Record], sheet: Roofline | None = None) -> Roofline:
    """The best rates among the OK records whose case has the role of a roof.

    One that memory binds on any chip, as a copy or an update in place, measures bandwidth; any
    other is a matrix product. What is faster than the data sheet allows is no roof.
    """
    candidates: dict[str, list[Record]] = {}
    for record in {record.case.id: record for record in records}.values():
        if record.status is not Status.OK or ROOF_ROLE not in record.case.roles:
            continue
        assert record.measurement is not None
        summary = _summary(record.measurement.steady_samples_s)
        if summary.minimum <= 0 or above_sheet(record, summary, sheet):
            continue
        for what in kinds_of(record):
            candidates.setdefault(what, []).append(record)
    return roofline_of([_roof(what, found) for what, found in candidates.items()], sheet)


@lru_cache(maxsize=1024)
def _summary(samples_s: tuple[float, ...]) -> Summary:
    return summarize(samples_s)


def _roof(what: str, records: Sequence[Record]) -> Roof:
    works = [_work(record, what) for record in records]
    unit = works[0][1]
    rates = []
    for record, (work, _) in zip(records, works, strict=True):
        assert record.measurement is not None
        halves = halves_of(record.measurement)
        rates.append(tuple(tuple(work / sample_s for sample_s in half) for half in halves))
    found = best_rate([(first, second) for first, second in rates])
    best = [records[index] for index in found.picked]
    value, low, high, naive = found.value, found.low, found.high, found.naive
    if unit == "s":
        value, low, high, naive = 1 / value, 1 / high, 1 / low, 1 / naive
    problem = best[0].case.problem
    return Roof(
        what=what,
        unit=unit,
        value=value,
        low=low,
        high=high,
        naive=naive,
        case_ids=tuple(record.case.id for record in best),
        shape=f"{problem.op} {problem.shape} {best[0].case.impl}",
        num_tried=len({record.case.problem for record in records}),
        run_id=best[0].run_id,
    )


def roofline_of(roofs: Sequence[Roof], sheet: Roofline | None = None) -> Roofline:
    """The roofs, with the rates that times are held against."""
    memory = next((roof.value for roof in roofs if roof.what == MEMORY), None)
    matrix = {roof.what: roof.value for roof in roofs if roof.unit == "FLOP/s"}
    return Roofline(
        flops_per_s=tuple(sorted(matrix.items())),
        bytes_per_s=memory,
        roofs=tuple(sorted(roofs, key=_place)),
        sheet=sheet,
    )


def _place(roof: Roof) -> tuple[int, str]:
    """Matrix rates first, then memory, cache, launch and the links."""
    order = (MEMORY, CACHE, LAUNCH, *TRANSFERS.values())
    places = [index for index, name in enumerate(order, start=1) if roof.what.startswith(name)]
    return (places[0] if places else 0, roof.what)


def completed(own: Roofline, other: Roofline) -> Roofline:
    """The roofs of a run, with those of another in place of what it did not search for."""
    names = dict.fromkeys(roof.what for roof in (*own.roofs, *other.roofs))
    chosen = []
    for what in names:
        ours, theirs = own.roof(what), other.roof(what)
        is_ours = ours is not None and (ours.is_searched or theirs is None)
        chosen.append(ours if is_ours else theirs)
    return roofline_of([roof for roof in chosen if roof is not None], own.sheet)
