"""What a proof means: how far the samples can be trusted, in sentences with what to do."""

from dataclasses import dataclass, replace

from harness.proof import (
    CacheProof,
    Estimate,
    HoldProof,
    LaunchProof,
    Proof,
    ScaleProof,
    TimerProof,
)
from harness.record import SHORT_RESOLUTIONS
from harness.units import capacity, duration, significant


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One thing that was proven, or not."""

    what: str
    found: str
    """Numbers in words."""
    warning: str = ""
    """A sentence; empty when all is well."""
    advice: str = ""
    """What to do about it."""


SCALE_TOLERANCE = 0.01
"""As much as a median's interval is wide when sampling stops by default: a timer that is wrong by
more is the larger error."""
SHORTEST_HOLD = 0.5
"""Of the length asked for. A hold is twice the host's usual time to queue a run, so that one of
half its length ends when the host is usually done, and sometimes before."""
LINEARITY_TOLERANCE = 0.05
"""As much as the flag for short samples lets pass."""


def judge(proof: Proof) -> tuple[Judgement, ...]:
    """What the numbers mean, each with a warning and its remedy where one is due."""
    if proof.failure:
        return (
            Judgement(
                what="timer",
                found="not proven",
                warning=f"The timer was not proven: {proof.failure}.",
                advice="Its times may still be right; `chipscale doctor` shows what is missing.",
            ),
        )
    judgements: list[Judgement] = []
    for timer in proof.timers:
        judgements += (_overhead(timer), _resolution(timer), _linearity(timer))
    judgements += _scale(proof.scale)
    judgements += (_launch(proof.launch),) if proof.launch is not None else ()
    judgements += (_hold(proof.hold),) if proof.hold is not None else ()
    judgements += (_cache(proof.cache),) if proof.cache is not None else ()
    judgements += (
        Judgement(
            what="later in this run",
            found=change,
            warning=change,
            advice="Measure again on a quiet host if cases of both are compared.",
        )
        for change in proof.changes
    )
    return tuple(judgements)


def proof_warnings(proof: Proof | None) -> tuple[str, ...]:
    """What a reader should know before trusting a time, each with what to do about it."""
    if proof is None:
        return ()
    return tuple(f"{one.warning} {one.advice}".rstrip() for one in judge(proof) if one.warning)


def _judged(what: str, found: str, *, is_bad: bool, warning: str, advice: str) -> Judgement:
    """The warning and its advice are told only where it is bad."""
    if not is_bad:
        return Judgement(what=what, found=found)
    return Judgement(what=what, found=found, warning=warning, advice=advice)


def _overhead(timer: TimerProof) -> Judgement:
    overhead = timer.overhead_s
    return _judged(
        f"{timer.kind} overhead",
        f"{duration(overhead.value)} ({_range(overhead)}) around nothing",
        is_bad=overhead.value > SHORT_RESOLUTIONS * timer.resolution_s,
        warning=(
            f"The overhead of {timer.kind} is {duration(overhead.value)}, so a sample shorter than "
            f"{duration(SHORT_RESOLUTIONS * overhead.value)} holds more than "
            f"{100 / SHORT_RESOLUTIONS:g} % of it."
        ),
        advice="Compare larger sizes; nothing is subtracted.",
    )


def _resolution(timer: TimerProof) -> Judgement:
    claimed, seen = timer.claimed_resolution_s, timer.observed_resolution_s
    return _judged(
        f"{timer.kind} resolution",
        f"{duration(claimed)} claimed, "
        + ("no steps seen" if seen is None else f"{duration(seen)} seen"),
        is_bad=seen is not None and seen > 2 * claimed,
        warning=(
            f"The steps of {timer.kind} are {duration(timer.resolution_s)}, coarser than the "
            f"{duration(claimed)} claimed."
        ),
        advice=(
            f"Samples under {duration(SHORT_RESOLUTIONS * timer.resolution_s)} are flagged as "
            "short; compare larger sizes."
        ),
    )


def _linearity(timer: TimerProof) -> Judgement:
    what = f"{timer.kind} linearity"
    line = timer.linearity
    if line is None:
        return Judgement(
            what=what,
            found="not shown",
            warning=f"Work of known length took no time at all by {timer.kind}.",
            advice="Its steps are too coarse for anything short; compare larger sizes.",
        )
    counts = ", ".join(str(count) for count in line.counts)
    return _judged(
        what,
        f"{counts} times the same work: {duration(line.unit_s)} each and "
        f"{duration(line.intercept_s)} besides, off the line by {_percent(line.deviation)}",
        is_bad=line.deviation.is_beyond(LINEARITY_TOLERANCE, expected=0.0),
        warning=(
            f"Times of {timer.kind} do not grow as the work does: they are off a line by "
            f"{_percent(line.deviation)}."
        ),
        advice="Measure on a quiet host with steady clocks, and compare only equal sizes.",
    )


def _scale(scale: ScaleProof | None) -> tuple[Judgement, ...]:
    if scale is None:
        return (
            Judgement(
                what="against the host's clock",
                found="not shown",
                warning="The device's timer or the host's clock stood still over long work.",
                advice="No time of this device can be trusted until that is repaired.",
            ),
        )
    ratio, drift = scale.ratio, scale.drift
    wrong, moved = (significant(100 * abs(one.value - 1), 2) for one in (ratio, drift))
    direction = "fast" if ratio.value > 1 else "slow"
    return (
        _judged(
            "against the host's clock",
            f"{duration(scale.device_s)} by the device, {duration(scale.host_s)} by the host: "
            f"ratio {ratio.value:.4f} ({ratio.low:.4f} to {ratio.high:.4f})",
            is_bad=ratio.is_beyond(SCALE_TOLERANCE),
            warning=f"The device's timer runs {wrong} % {direction} against the host's clock.",
            advice=(
                "Compare its times only with those of the same timer, and tell the vendor; a "
                "virtual machine may have moved the host's clock."
            ),
        ),
        _judged(
            "drift",
            f"rate x {drift.value:.4f} ({drift.low:.4f} to {drift.high:.4f}) "
            f"after {duration(scale.apart_s)}",
            is_bad=drift.is_beyond(SCALE_TOLERANCE),
            warning=(
                f"The rate of the device's timer changed by {moved} % in {duration(scale.apart_s)}."
            ),
            advice="Times taken at different moments cannot be compared until it is steady.",
        ),
    )


def _launch(launch: LaunchProof) -> Judgement:
    what = f"launch {launch.used}"
    direct, used = launch.direct_s, launch.used_s
    or_graph = "" if launch.wanted == "graph" else ", or try measure.launch=graph"
    missing = f"{launch.wanted} is not to be had here"
    if launch.used == "direct":
        return _judged(
            what,
            f"an empty op takes {duration(direct.value)}, its launch is in every sample",
            # A processor is its own host: there is no launch to keep out.
            is_bad=launch.is_behind_host and launch.wanted != launch.used,
            warning=(
                f"Every sample holds its launch, since {missing}: an empty op takes "
                f"{duration(direct.value)}."
            ),
            advice=(
                f"Samples under {duration(SHORT_RESOLUTIONS * direct.value)} are partly of the "
                f"host: compare larger sizes{or_graph}."
            ),
        )
    return _judged(
        what,
        f"an empty op takes {duration(used.value)} ({_range(used)}), and "
        f"{duration(direct.value)} ({_range(direct)}) with its launch"
        + ("" if launch.used == launch.wanted else f"; {missing}"),
        is_bad=used.high >= direct.low,
        warning=(
            f"An empty op is no faster by launch '{launch.used}' ({duration(used.value)}) than "
            f"with its launch in the sample ({duration(direct.value)})."
        ),
        advice=f"Short times may hold the host's; compare larger sizes{or_graph}.",
    )


def _hold(hold: HoldProof) -> Judgement:
    asked, held = duration(hold.asked_s), duration(hold.held_s.value)
    return _judged(
        "hold",
        f"{asked} asked for, busy for {held} ({_range(hold.held_s)})",
        is_bad=hold.held_s.value < SHORTEST_HOLD * hold.asked_s,
        warning=(
            f"The device was busy for {held} when it was to be held for {asked}, so samples may "
            "hold the host's time to launch them."
        ),
        advice=(
            "Its clocks were lower when the hold was calibrated: set them, or run again on a chip "
            "that is warm."
        ),
    )


def _cache(cache: CacheProof) -> Judgement:
    told = capacity(cache.told_bytes) if cache.told_bytes else "a size that is not told"
    found = f"flush of {capacity(cache.flush_bytes)} for a cache of {told}: "
    found += f"reading {capacity(cache.buffer_bytes)} "
    if cache.ratio is None:
        found += "took no time by this timer"
    else:
        found += (
            f"takes {significant(cache.ratio.value)} x as long after it "
            f"({significant(cache.ratio.low)} to {significant(cache.ratio.high)}; "
            f"{duration(cache.cold_s)} cold, {duration(cache.hot_s)} hot)"
        )
    if cache.is_proven and cache.buffer_bytes < cache.tried_bytes[0]:
        found += (
            f"; {capacity(cache.tried_bytes[0])} shows no difference, as where others use the "
            "cache too"
        )
    return _judged(
        "cold over hot",
        found if cache.is_proven else f"not proven, {found}",
        is_bad=not cache.is_proven and cache.policy == "cold",
        warning=(
            "The flush is not proven: reading a buffer takes no longer after it, so cold times "
            "may be of a warm cache."
        ),
        advice=(
            "A virtual machine often tells a wrong cache size, and other work on the host keeps "
            "its caches cold. Measure on a quiet host of your own, or compare working sets far "
            "larger than any cache."
        ),
    )


def with_later(first: Proof, later: Proof) -> Proof:
    """The first proof, with what a later process of the same run found otherwise."""
    found = [change for change in changes_since(first, later) if change not in first.changes]
    return replace(first, changes=(*first.changes, *found))


def changes_since(first: Proof, later: Proof) -> tuple[str, ...]:
    """What a later process of the same run found otherwise, beyond intervals and tolerances."""
    if first.failure or later.failure:
        return ()
    found: list[str] = []
    for before, after in zip(first.timers, later.timers, strict=False):
        if before.kind != after.kind:
            found.append(f"The timer was {before.kind} and later {after.kind}.")
            continue
        step_s = SHORT_RESOLUTIONS * max(before.resolution_s, after.resolution_s)
        if _differ(before.overhead_s, after.overhead_s, step_s):
            found.append(
                f"The overhead of {before.kind} was {duration(before.overhead_s.value)} and later "
                f"{duration(after.overhead_s.value)}."
            )
    if (
        first.scale is not None
        and later.scale is not None
        and _differ(first.scale.ratio, later.scale.ratio, SCALE_TOLERANCE)
    ):
        found.append(
            f"The timer's ratio to the host's clock was {first.scale.ratio.value:.4f} and later "
            f"{later.scale.ratio.value:.4f}."
        )
    if (
        first.launch is not None
        and later.launch is not None
        and first.launch.used != later.launch.used
    ):
        found.append(f"The launch was {first.launch.used} and later {later.launch.used}.")
    if (
        first.cache is not None
        and later.cache is not None
        and first.cache.is_proven
        and not later.cache.is_proven
    ):
        found.append("The flush was proven, and later it was not.")
    return tuple(found)


def _differ(first: Estimate, later: Estimate, tolerance: float) -> bool:
    is_apart = first.high < later.low or later.high < first.low
    return is_apart and abs(first.value - later.value) > tolerance


def _range(value: Estimate) -> str:
    return f"{duration(value.low)} to {duration(value.high)}"


def _percent(value: Estimate) -> str:
    low, high = significant(100 * value.low, 2), significant(100 * value.high, 2)
    return f"{significant(100 * value.value, 2)} % ({low} to {high})"
