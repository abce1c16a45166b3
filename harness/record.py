"""Record: everything about one measured case, and how it is written down.

The samples are kept raw; whatever is said of them later is computed from them again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from harness.cases import Case
from harness.device.base import DeviceState
from kernels.op import Cost, Tolerance
from kernels.tuning import Choice

SCHEMA_VERSION = 1
"""Raised when the meaning of a field changes; a reader refuses what is newer than itself."""


class Status(StrEnum):
    """What became of a case; only OK has a time."""

    OK = "ok"
    UNSUPPORTED = "unsupported"
    """The implementation cannot run here, and the reason says why."""
    INCORRECT = "incorrect"
    """The result is outside the tolerance, so there is nothing to time."""
    OUT_OF_MEMORY = "out_of_memory"
    ERROR = "error"
    """The implementation raised; the reason holds its words."""
    CRASHED = "crashed"
    """The worker process died while it ran this case."""
    TIMEOUT = "timeout"
    """The case did not end in its time, and its worker was stopped."""
    SKIPPED = "skipped"
    """Others of its kind had failed too often before, so it was not tried."""


FAILURES = tuple(status for status in Status if status not in (Status.OK, Status.UNSUPPORTED))
"""What a case should not have come to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputError:
    """How far one output was from its reference; `Tolerance` says what each error is."""

    relative_error: float
    max_error: float
    row_error: float
    tolerance: Tolerance
    mismatch: str = ""
    """What makes it wrong whatever its values are - its shape, its type, a NaN - or empty."""

    @property
    def faults(self) -> tuple[str, ...]:
        """The mismatch, or every error outside its bound with that bound."""
        if self.mismatch:
            return (self.mismatch,)
        bounds = {
            "relative error": (self.relative_error, self.tolerance.relative_error),
            "largest element error": (self.max_error, self.tolerance.max_error),
            "largest row error": (self.row_error, self.tolerance.row_error),
        }
        # A NaN is within no bound.
        return tuple(
            f"{name} {error:.3g}, at most {bound:.3g} allowed"
            for name, (error, bound) in bounds.items()
            if not error <= bound
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Correctness:
    """How far a result was from the fp64 reference, and what else is wrong with it."""

    outputs: tuple[OutputError, ...]
    """One for each output of the reference."""
    reference: str = "fp64"
    finding: str = ""
    """What was found beside or behind wrong numbers, in a sentence; empty for a right result."""

    @property
    def is_right(self) -> bool:
        """Nothing was found, and every output is what it has to be, within its tolerance."""
        return not self.finding and not any(output.faults for output in self.outputs)

    @property
    def explanation(self) -> str:
        """The finding and a sentence on every wrong output; empty for a right result."""
        faults = (
            f"Output {number} of {len(self.outputs)}: {'; '.join(output.faults)}."
            for number, output in enumerate(self.outputs, start=1)
            if output.faults
        )
        return " ".join(sentence for sentence in (self.finding, *faults) if sentence)


SHORT_RESOLUTIONS = 20
"""A sample shorter than so many steps of its timer is off by up to 5 % for that alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Samples taken in a row, and the state of the device when they were over."""

    num_samples: int
    seconds: float
    """From the first sample's start to the last one's end, what lies between them included."""
    state: DeviceState


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """What the device's own counter says of runs without a pause between them."""

    joules_per_run: float
    num_runs: int
    seconds: float
    mean_power_w: float
    is_host_bound: bool = False
    """The host launched no faster than the device ran: what the idle device drew is in it too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sustained:
    """How the speed changes while the chip runs without a pause and grows warm."""

    burst_s: float
    """Seconds per run in the first window, the chip rested."""
    sustained_s: float
    """Seconds per run once clocks and temperature have settled."""
    settled_after_s: float | None
    """None where they had not when the time was over."""
    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The timed part of a case."""

    samples_s: tuple[float, ...]
    """Every sample in the order it was taken; none is dropped."""
    windows: tuple[Window, ...] = ()
    """Where the samples were taken, in their order; empty in records of older versions."""
    timer: str
    """`device_event`, `host_clock` or `virtual_clock`."""
    timer_resolution_s: float
    launch: str = ""
    """How the host's time to launch was kept out: see `harness/measure/policy.py`."""
    cache: str
    """`cold`: last-level cache flushed before each sample; `hot`: it was not."""
    flush_bytes: int
    num_input_sets: int = 1
    num_warmup: int
    warmup_s: float
    measured_s: float = 0.0
    """Host time of warming up, sampling and running without a pause: the device was held for it."""
    enqueue_s: float | None = None
    """Host time of one call. Where it is longer than the sample, the host was the slower one; on a
    device that works behind the host, it is held for longer than this before a sample."""
    prepare_s: float
    """Compiling and the first call, which are not part of any sample."""
    stop_reason: str
    """Why sampling ended, in words with the number reached and the number wanted."""
    peak_memory_bytes: int | None
    state_before: DeviceState
    state_after: DeviceState
    energy: Energy | None = None
    sustained: Sustained | None = None

    @property
    def steady_samples_s(self) -> tuple[float, ...]:
        """The samples that statistics are of: those not taken while the chip was throttled.

        All of them where none else are there, so that a chip that always throttles has a time.
        """
        steady: list[float] = []
        first = 0
        for window in self.windows:
            after = first + window.num_samples
            if not window.state.is_throttled:
                steady.extend(self.samples_s[first:after])
            first = after
        return tuple(steady) or self.samples_s

    @property
    def num_throttled(self) -> int:
        """Samples taken while the chip was throttled."""
        return sum(window.num_samples for window in self.windows if window.state.is_throttled)

    @property
    def is_throttled(self) -> bool:
        """Every sample was taken while the chip was throttled, so the time is of a slow chip."""
        if not self.windows:
            return self.state_after.is_throttled
        return self.num_throttled == len(self.samples_s)

    @property
    def foreign_processes(self) -> tuple[str, ...]:
        """Other programs that held the device at some moment of it, in the order they were seen."""
        states = (self.state_before, *(window.state for window in self.windows), self.state_after)
        return tuple(dict.fromkeys(name for state in states for name in state.foreign_processes))

    @property
    def is_short(self) -> bool:
        """The samples are too short for their timer."""
        return self.num_timer_steps < SHORT_RESOLUTIONS

    @property
    def num_timer_steps(self) -> float:
        """How many steps of the timer the median sample lasts."""
        ordered = sorted(self.steady_samples_s)
        median_s = ordered[len(ordered) // 2]
        return median_s / self.timer_resolution_s if self.timer_resolution_s > 0 else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One case and what became of it; one line of `records.jsonl`."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    case: Case
    status: Status
    reason: str = ""
    """Empty for OK; else why there is no time, in a sentence."""
    cost: Cost | None = None
    correctness: Correctness | None = None
    measurement: Measurement | None = None
    launches: tuple[Choice, ...] = ()
    """How tunable kernels were launched, and whether a table or a heuristic said so."""
    inputs_s: float = 0.0
    """Making the inputs of its problem, told by the first case of it."""
    check_s: float = 0.0
    """Computing the fp64 reference and comparing with it."""
    started_at: str = ""
    """UTC, ISO 8601."""
    ended_at: str = ""
    """When it came to the supervisor; empty in records of older versions."""
    protocol_hash: str = ""
    """Equal hashes mean equal work under equal rules: see `harness/measure/protocol.py`."""
    protocol_parts: tuple[tuple[str, str], ...] = ()
    """Name and value of everything the hash is over; empty in records of older versions."""


def protocol_values(records: Sequence[Record], part: str) -> tuple[str, ...]:
    """What the records have for that part of the protocol, each value once, in order."""
    found = (dict(record.protocol_parts).get(part, "") for record in records)
    return tuple(sorted({value for value in found if value}))
