"""Waterfall: the difference of a step between two chips, as bars that add up to it.

Each piece of work counts as often as the step has it, by the fastest implementation of each chip.
Work that one chip alone has a time for is estimated on the other from the roofs of both, as if the
other were as efficient; the whole of that difference is a bar of its own, since it is no
measurement.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from harness.compare.attribution import (
    OpOnChip,
    Rates,
    attainable_s,
    attribute,
    fallback_factor,
    rates_of,
)
from harness.compare.groups import median_of, ratio_of
from harness.comparison import Bar, BarOp, Cause, Waterfall
from harness.projection import Interval, Projection
from harness.results import ResultRow, best_rows
from harness.roofline import Roofline
from harness.units import duration
from harness.workload.step import Phase, WorkItem
from harness.workload.whole_step import PhaseWork
from kernels.op import Cost, Mode

NEGLIGIBLE = 1e-12
"""Of the longer step: bars and parts below it are rounding and are left out."""
MAX_OPS_OF_A_BAR = 5
"""More are in the groups."""
COMPUTE_PARTS = ("compute", "optimizer")
"""Parts of a projected step that a chip's own measured work stands for."""
COMMUNICATION_WORDS = ("communication", "exchange")


Timed: TypeAlias = Mapping[tuple[str, str], ResultRow]
"""Every row with a time, by problem and implementation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one run knows of its chip."""

    label: str
    rows: tuple[ResultRow, ...]
    """Held against its roofs; rejected ones have no time."""
    roofs: Roofline
    projection: Projection | None = None

    @property
    def best(self) -> dict[str, ResultRow]:
        """The fastest implementation of each problem that has a time above zero."""
        return {row.problem_id: row for row in best_rows(self.rows) if row.median_s}

    @property
    def timed(self) -> Timed:
        """Every time, by problem and implementation."""
        return {(row.problem_id, row.impl): row for row in self.rows if row.median_s}


@dataclass(frozen=True, slots=True)
class _Piece:
    """A piece of work on both chips."""

    item: WorkItem
    cost: Cost
    first: OpOnChip
    second: OpOnChip
    estimated: str = ""
    """Label of the run whose time is an estimate."""

    @property
    def name(self) -> str:
        """Its role in the model with its mode, and the problem."""
        mode = self.item.problem.mode
        what = self.item.role if mode is Mode.FORWARD else f"{self.item.role} {mode}"
        return f"{what}: {self.item.problem.id}"


def waterfall(work: PhaseWork, first: Side, second: Side) -> Waterfall | None:
    """The difference of the step, taken apart; None where no piece has a time on both chips."""
    pieces, left_out = _pieces(work.items, first, second)
    measured = [piece for piece in pieces if not piece.estimated]
    if not measured:
        return None
    parts: dict[Cause, list[BarOp]] = {cause: [] for cause in Cause}
    for piece in pieces:
        for cause, seconds in _causes(piece).items():
            parts[cause].append(BarOp(name=piece.name, seconds=seconds * piece.item.count))
    totals = [
        sum(piece.item.count * op.seconds for piece, op in _on(pieces, place)) for place in (0, 1)
    ]
    around, notes = _around(work.phase, (first, second), (totals[0], totals[1]))
    for cause, found in around.items():
        parts[cause] += [BarOp(name=one.name, seconds=one.second_s - one.first_s) for one in found]
    added = [one for found in around.values() for one in found]
    least_s = NEGLIGIBLE * max(totals)
    bars = [_bar(cause, found, least_s) for cause, found in parts.items() if found]
    return Waterfall(
        phase=work.phase,
        title=work.title,
        first_s=totals[0] + sum(one.first_s for one in added),
        second_s=totals[1] + sum(one.second_s for one in added),
        speedup=ratio_of(_measured_s(measured, first), _measured_s(measured, second)),
        bars=tuple(bar for bar in bars if abs(bar.seconds) > least_s or bar.ops),
        num_ops=len(pieces),
        first_estimated_s=_estimated_s(pieces, 0, first.label),
        second_estimated_s=_estimated_s(pieces, 1, second.label),
        left_out=tuple(left_out),
        first_joules=_joules(measured, first, second),
        second_joules=_joules(measured, second, first),
        notes=(*notes, *_roof_notes(first, second)),
    )


def _on(pieces: Sequence[_Piece], place: int) -> list[tuple[_Piece, OpOnChip]]:
    return [(piece, (piece.first, piece.second)[place]) for piece in pieces]


def _estimated_s(pieces: Sequence[_Piece], place: int, label: str) -> float:
    return sum(
        piece.item.count * op.seconds
        for piece, op in _on(pieces, place)
        if piece.estimated == label
    )


def _pieces(items: Sequence[WorkItem], first: Side, second: Side) -> tuple[list[_Piece], list[str]]:
    """The work that both have a time of, measured or estimated, and the rest in words."""
    pieces: list[_Piece] = []
    left_out: list[str] = []
    sides = (first, second)
    best, timed = [side.best for side in sides], [side.timed for side in sides]
    for item in items:
        name = item.problem.id
        rows = [found.get(name) for found in best]
        known = next((row for row in rows if row is not None), None)
        if known is None:
            left_out.append(f"{item.role} ({name}): no time on either chip")
            continue
        if known.flops is None or known.num_bytes is None:
            left_out.append(f"{item.role} ({name}): its records do not tell its work")
            continue
        cost = Cost(flops=known.flops, bytes_read=known.num_bytes, bytes_written=0)
        rates = _both(rates_of(side.roofs, item.problem.dtype) for side in sides)
        if rows[0] is not None and rows[1] is not None:
            ops = [
                OpOnChip(
                    seconds=median_of(row).value,
                    rates=rates[place],
                    fallback=_fallback(
                        _Chosen(row, rows[1 - place], timed[place], timed[1 - place]),
                        cost,
                        rates[1 - place],
                    ),
                )
                for place, row in enumerate(rows)
                if row is not None
            ]
            pieces.append(_Piece(item, cost, ops[0], ops[1]))
            continue
        lacking = 0 if rows[0] is None else 1
        seconds = median_of(known).value
        guess = _guess(cost, seconds, rates[1 - lacking], rates[lacking])
        if guess is None:
            left_out.append(
                f"{item.role} ({name}): {sides[lacking].label} has no time, and there is no roof "
                "to estimate one from"
            )
            continue
        on_chip = [OpOnChip(seconds=seconds, rates=one) for one in rates]
        on_chip[lacking] = OpOnChip(seconds=guess, rates=rates[lacking])
        pieces.append(_Piece(item, cost, on_chip[0], on_chip[1], sides[lacking].label))
    return pieces, left_out


def _guess(cost: Cost, seconds: float, known: Rates, lacking: Rates) -> float | None:
    """The time on a chip that is as efficient as the one it is known of; None without roofs."""
    there = attainable_s(cost, known.flops_per_s, known.bytes_per_s)
    here = attainable_s(cost, lacking.flops_per_s, lacking.bytes_per_s)
    return None if there is None or here is None else seconds * here / there


def _both(rates: Iterable[Rates]) -> list[Rates]:
    """The rates of both; a launch that one chip alone knows explains nothing of a difference."""
    found = list(rates)
    if any(one.launch_s is None for one in found):
        return [replace(one, launch_s=None) for one in found]
    return found


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The fastest row of a problem on one chip and on the other, among all that each has."""

    own: ResultRow
    other: ResultRow | None
    ours: Timed
    theirs: Timed


def _fallback(chosen: _Chosen, cost: Cost, other_rates: Rates) -> float:
    """What a chip loses where it lacks the implementation that is fastest on the other one.

    The other chip tells: its time of the implementation that runs here over that of its fastest. 1
    where both run the same, where the other's fastest has a time here too and is merely not the
    fastest, and where the other has no time of what runs here.
    """
    own, other = chosen.own, chosen.other
    if other is None or own.impl == other.impl or (own.problem_id, other.impl) in chosen.ours:
        return 1.0
    same = chosen.theirs.get((own.problem_id, own.impl))
    if same is None or same.median_s is None or other.median_s is None:
        return 1.0
    return fallback_factor(cost, same.median_s, other.median_s, other_rates)


def _causes(piece: _Piece) -> dict[Cause, float]:
    if piece.estimated:
        return {Cause.UNTIMED: piece.second.seconds - piece.first.seconds}
    return attribute(piece.cost, piece.first, piece.second)


def _bar(cause: Cause, ops: Sequence[BarOp], least_s: float) -> Bar:
    merged: dict[str, float] = {}
    for op in ops:
        merged[op.name] = merged.get(op.name, 0.0) + op.seconds
    largest = sorted(merged.items(), key=lambda entry: -abs(entry[1]))[:MAX_OPS_OF_A_BAR]
    return Bar(
        cause=cause,
        seconds=sum(op.seconds for op in ops),
        ops=tuple(
            BarOp(name=name, seconds=seconds) for name, seconds in largest if abs(seconds) > least_s
        ),
    )


def _measured_s(pieces: Sequence[_Piece], side: Side) -> Interval:
    """The sum of the measured work; errors of one problem are equal wherever it stands."""
    best = side.best
    counts: dict[str, int] = {}
    for piece in pieces:
        name = piece.item.problem.id
        counts[name] = counts.get(name, 0) + piece.item.count
    medians = [(count, median_of(best[name])) for name, count in counts.items()]
    value = sum(count * one.value for count, one in medians)
    below = float(np.hypot.reduce([count * (one.value - one.low) for count, one in medians]))
    above = float(np.hypot.reduce([count * (one.high - one.value) for count, one in medians]))
    # A lower end of zero or less has no ratio; the sum of the lower ends is never so far down.
    low = max(value - below, sum(count * one.low for count, one in medians))
    return Interval(value=value, low=low, high=value + above)


def _joules(pieces: Sequence[_Piece], side: Side, other: Side) -> float | None:
    """Of the measured work; None unless both chips measured the energy of all of it."""
    ours, theirs = side.best, other.best
    total = 0.0
    for piece in pieces:
        energy = ours[piece.item.problem.id].energy
        if energy is None or theirs[piece.item.problem.id].energy is None:
            return None
        total += piece.item.count * energy.joules_per_run
    return total


@dataclass(frozen=True, slots=True)
class _Added:
    """A part of the projected steps beside compute, for the work that was measured."""

    name: str
    first_s: float
    second_s: float


def _around(
    phase: Phase, sides: tuple[Side, Side], totals: tuple[float, float]
) -> tuple[dict[Cause, list[_Added]], tuple[str, ...]]:
    """What the projected steps add to the compute, and what to say of that.

    A plan's compute and communication are both in proportion to its tokens, so that each second of
    measured work brings as much communication as a second of the plan's compute does.
    """
    if phase is not Phase.TRAINING:
        return {}, ("One chip's work alone: no communication is in it.",)
    lacking = [side.label for side in sides if side.projection is None]
    if lacking:
        return {}, (
            f"No communication is in it: there is no projection of {' and '.join(lacking)}.",
        )
    first, second = (side.projection for side in sides)
    assert first is not None
    assert second is not None
    if (first.model, first.headline.num_chips) != (second.model, second.headline.num_chips):
        return {}, (
            f"No communication is in it: {sides[0].label} is projected as {first.model} on "
            f"{first.headline.num_chips:,} chips, {sides[1].label} as {second.model} on "
            f"{second.headline.num_chips:,}.",
        )
    shares = [_shares(first), _shares(second)]
    found: dict[Cause, list[_Added]] = {Cause.COMMUNICATION: [], Cause.PLAN: []}
    for name in dict.fromkeys((*shares[0], *shares[1])):
        is_sent = any(word in name for word in COMMUNICATION_WORDS)
        found[Cause.COMMUNICATION if is_sent else Cause.PLAN].append(
            _Added(name, totals[0] * shares[0].get(name, 0.0), totals[1] * shares[1].get(name, 0.0))
        )
    clusters = " and ".join(dict.fromkeys((first.cluster, second.cluster)))
    sent = found[Cause.COMMUNICATION]
    note = (
        f"Communication, bubble and jitter are those of the projections on {clusters}, for each "
        f"second of compute: {sides[0].label} {duration(sum(one.first_s for one in sent))} and "
        f"{sides[1].label} {duration(sum(one.second_s for one in sent))} of communication."
    )
    return found, (note,)


def _shares(projection: Projection) -> dict[str, float]:
    """Seconds of each part beside compute, per second of compute in a projected step."""
    compute = sum(part.seconds for part in projection.parts if part.name in COMPUTE_PARTS)
    return {
        part.name: part.seconds / compute
        for part in projection.parts
        if part.name not in COMPUTE_PARTS
    }


def _roof_notes(first: Side, second: Side) -> tuple[str, ...]:
    """What the bars cannot tell for want of a roof."""
    without = [side.label for side in (first, second) if rates_of(side.roofs, "").launch_s is None]
    if not without:
        return ()
    return (
        f"No launch was measured on {' and '.join(without)}, so launch is part of the efficiency: "
        "`chipscale run suite=roofs` measures it.",
    )
