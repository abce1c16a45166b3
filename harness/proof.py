"""Proof: what was found out about timer, launch and cache before anything was measured.

Nothing of it is subtracted from a sample. `harness/judgement.py` says what the numbers mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.stats import CONFIDENCE, ratio_interval, summarize


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value with its interval."""

    value: float
    low: float
    high: float

    def is_beyond(self, tolerance: float, expected: float = 1.0) -> bool:
        """The whole interval is farther from what is expected than the tolerance."""
        return self.low > expected + tolerance or self.high < expected - tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class Linearity:
    """The same work done several times in one sample must take as many times as long."""

    counts: tuple[int, ...]
    """How often the work was done in a sample."""
    medians_s: tuple[float, ...]
    """One for each count."""
    unit_s: float
    """Slope of the line through the medians: one unit of the work."""
    intercept_s: float
    """What every sample holds besides its work: timer and launch."""
    deviation: Estimate
    """Farthest from the line, relative to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerProof:
    """One timer, started and stopped around nothing and around work of known length."""

    kind: str
    claimed_resolution_s: float
    observed_resolution_s: float | None
    """Smallest difference between readings of the same work; None where no step showed."""
    overhead_s: Estimate
    """What it shows for nothing at all."""
    linearity: Linearity | None
    """None where the timer showed no time at all for the work."""

    @property
    def resolution_s(self) -> float:
        """The coarser of what is claimed and what was seen."""
        return max(self.claimed_resolution_s, self.observed_resolution_s or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleProof:
    """Long work by the device's timer, and by the host's clock around it."""

    device_s: float
    host_s: float
    ratio: Estimate
    """Device over host: 1, less the host's time to start and to notice the end."""
    drift: Estimate
    """That ratio at the end of the proof over that at its start."""
    apart_s: float
    """Time between the two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchProof:
    """An empty op, launched as the samples are and with nothing done about its launch."""

    wanted: str
    used: str
    """What the device could do of it; see `harness/measure/policy.py`."""
    direct_s: Estimate
    used_s: Estimate
    is_behind_host: bool = False
    """The device works through what the host has queued, so it may have to wait for a launch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldProof:
    """How long the device was busy when it was held, by its own timer."""

    asked_s: float
    held_s: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheProof:
    """A buffer read right after it was read (hot), and after a flush (cold)."""

    policy: str
    """What the run's samples have: `cold` or `hot`."""
    told_bytes: int | None
    """The last-level cache by the device's own word."""
    flush_bytes: int
    buffer_bytes: int
    """The largest buffer that showed a difference, or the smallest that was tried."""
    tried_bytes: tuple[int, ...]
    cold_s: float
    hot_s: float
    ratio: Estimate | None
    """Cold over hot; None where the timer showed no time for the read."""

    @property
    def is_proven(self) -> bool:
        """Reading takes longer after a flush, beyond chance."""
        return self.ratio is not None and self.ratio.low > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Everything that was proven of one device in one process."""

    device: str
    timers: tuple[TimerProof, ...] = ()
    """That of the samples first; the host's clock behind it where it is another."""
    scale: ScaleProof | None = None
    launch: LaunchProof | None = None
    hold: HoldProof | None = None
    """None where samples are launched without a hold, and in proofs of older versions."""
    cache: CacheProof | None = None
    """None on a device that has no cache."""
    seconds: float = 0.0
    """What the proof took."""
    failure: str = ""
    """Why there is none, where the device could not do what it takes."""
    changes: tuple[str, ...] = ()
    """What a later process of the same run found otherwise, one sentence each."""

    @property
    def resolution_s(self) -> float:
        """Of the samples' timer; 0 where nothing was proven."""
        return self.timers[0].resolution_s if self.timers else 0.0


def estimate(samples: Sequence[float]) -> Estimate:
    """The median with its interval."""
    summary = summarize(samples)
    return Estimate(value=summary.median, low=summary.low, high=summary.high)


def estimate_ratio(
    first: Sequence[float], second: Sequence[float], confidence: float = CONFIDENCE
) -> Estimate | None:
    """Median over median with its interval; None where a sample is not positive."""
    if min(*first, *second) <= 0:
        return None
    low, high = ratio_interval(first, second, confidence)
    return Estimate(value=summarize(first).median / summarize(second).median, low=low, high=high)
