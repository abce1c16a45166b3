"""The numbers of the measuring loop; part of what makes two results comparable."""

from dataclasses import dataclass, replace
from enum import StrEnum


class Cache(StrEnum):
    """What the last-level cache holds when a sample starts."""

    COLD = "cold"
    """Something else: a buffer larger than the cache was written before."""
    HOT = "hot"
    """Whatever the run before left."""


class Launch(StrEnum):
    """How the host's time to launch a run is kept out of its sample."""

    HELD = "held"
    """The device is kept busy until the host has queued the run."""
    GRAPH = "graph"
    """The run is captured once and every sample replays it with one launch."""
    DIRECT = "direct"
    """It is not kept out: the device waits for the host, as a processor that is its own host."""


class Values(StrEnum):
    """What the inputs hold; data alone moves a chip's power, and with it its clocks."""

    NORMAL = "normal"
    """What the op draws, mostly standard normal numbers."""
    ZEROS = "zeros"
    SPARSE = "sparse"
    """Half of the drawn numbers, chosen at random, are zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurePolicy:
    """How a case is measured."""

    cache: Cache = Cache.COLD
    launch: Launch = Launch.HELD
    """What is asked for; where a device cannot, the record says what was done in its place."""
    inputs: Values = Values.NORMAL
    num_input_sets: int = 2
    """Cold runs take turns between as many sets of inputs, so that no run finds its own."""
    relative_half_width: float = 0.01
    """Stop once half the median's 95 % interval is at most this share of the median."""
    min_samples: int = 20
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
    throttle_pause_s: float = 0.5
    """After samples that were taken while the chip was throttled, it rests so long ..."""
    throttle_retries: int = 3
    """... and they are taken again, so many times at most."""
    energy_s: float = 0.0
    """Run without a pause for so long to count energy, where the device counts it; 0 for not."""
    sustained_timeout_s: float = 0.0
    """Run without a pause until clocks and temperature settle, or for so long; 0 for not at all."""
    case_timeout_s: float = 300.0
    """A case that takes longer, compiling and checking included, is stopped and recorded so."""
    seed: int = 0
    """Of the random inputs: equal on every chip."""

    def with_cache(self, cache: str) -> "MeasurePolicy":
        """The policy for a case with a cache of its own; the same where it has none."""
        return replace(self, cache=Cache(cache)) if cache else self
