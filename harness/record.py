"""Record: everything about one measured case, and how it is written down.

The samples are kept raw; whatever is said of them later is computed from them again.
"""

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
    """How far the result was from the fp64 reference before anything was timed."""

    outputs: tuple[OutputError, ...]
    """One for each output of the reference."""
    reference: str = "fp64"

    @property
    def is_right(self) -> bool:
        """Every output is what it has to be, within its tolerance."""
        return not any(output.faults for output in self.outputs)

    @property
    def explanation(self) -> str:
        """A sentence on every wrong output, with its number; empty for a right result."""
        return " ".join(
            f"Output {number} of {len(self.outputs)}: {'; '.join(output.faults)}."
            for number, output in enumerate(self.outputs, start=1)
            if output.faults
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The timed part of a case."""

    samples_s: tuple[float, ...]
    """Every sample in the order it was taken; none is dropped."""
    timer: str
    """`device_event`, `host_clock` or `virtual_clock`."""
    timer_resolution_s: float
    cache: str
    """`cold`: last-level cache flushed before each sample; `hot`: it was not."""
    flush_bytes: int
    num_warmup: int
    warmup_s: float
    enqueue_s: float | None = None
    """Host time of one call. Where it is longer than the sample, the host was the slower one; on a
    device that works behind the host, the flush before a sample lasts longer than this."""
    prepare_s: float
    """Compiling and the first call, which are not part of any sample."""
    stop_reason: str
    """Why sampling ended, in words with the number reached and the number wanted."""
    peak_memory_bytes: int | None
    state_before: DeviceState
    state_after: DeviceState


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
    started_at: str = ""
    """UTC, ISO 8601."""
    protocol_hash: str = ""
    """Equal hashes mean equal work under equal rules: see `harness/measure/protocol.py`."""
