"""The numbers of the measuring loop; part of what makes two results comparable."""

from dataclasses import dataclass
from enum import StrEnum


class Cache(StrEnum):
    """What the last-level cache holds when a sample starts."""

    COLD = "cold"
    """Something else: a buffer larger than the cache was written before."""
    HOT = "hot"
    """Whatever the run before left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurePolicy:
    """How a case is measured."""

    cache: Cache = Cache.COLD
    relative_half_width: float = 0.01
    """Stop once half the median's 95 % interval is at most this share of the median."""
    min_samples: int = 10
    max_samples: int = 1000
    timeout_s: float = 10.0
    """Stop sampling then, even if the interval is still wide; the record says so."""
    min_samples_at_timeout: int = 3
    """Taken even past the time-out: with fewer there is no spread to see."""
    warmup_window: int = 3
    """Warm-up ends when the medians of two windows of this many runs agree ..."""
    warmup_tolerance: float = 0.05
    """... within this share."""
    warmup_timeout_s: float = 2.0
    """Warm-up also ends then."""
    case_timeout_s: float = 300.0
    """A case that takes longer, compiling and checking included, is stopped and recorded so."""
    seed: int = 0
    """Of the random inputs: equal on every chip."""
