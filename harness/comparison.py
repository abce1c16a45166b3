"""Comparison: what two or more runs say of their chips side by side; the result as data.

Made by `harness/compare/`, shown by `harness/report/` and `harness/store/mlflow/`. The first run is
the reference, and every other one is held against it.
"""

from dataclasses import dataclass
from enum import StrEnum

from harness.projection import Interval

COMPARISON_SCHEMA_VERSION = 1
"""Of `comparison.json`; raised when the meaning of a field changes."""


class Verdict(StrEnum):
    """How the second run stands to the first."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "same"
    AMBIGUOUS = "ambiguous"
    """The interval holds both a difference that matters and none."""


class Cause(StrEnum):
    """What makes one chip's step longer than the other's, in the order they are drawn."""

    MATRIX_RATE = "matrix rate"
    """The measured matrix roof, in ops that it binds."""
    BANDWIDTH = "bandwidth"
    """The measured memory roof, in ops that it binds."""
    MATRIX_EFFICIENCY = "efficiency, matrix-bound"
    """How much of the matrix roof the ops reach."""
    MEMORY_EFFICIENCY = "efficiency, memory-bound"
    """How much of the memory roof the ops reach."""
    LAUNCH = "launch"
    """What an empty launch takes, as far as an op is above its roof by it."""
    FALLBACK = "missing kernels"
    """An implementation that the other chip is fastest with cannot run, so a slower one does."""
    UNTIMED = "no time on one side"
    """The op has no time on one of the chips; it is estimated from the roofs of both."""
    COMMUNICATION = "communication"
    """Exposed communication of the projected step, in proportion to its compute."""
    PLAN = "bubble, jitter and host"
    """Everything else of the projected step that is not compute, in the same proportion."""
    UNEXPLAINED = "unexplained"
    """Ops without a measured roof on one of the chips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """One of the runs, as far as a reader has to know it."""

    label: str
    """`A` for the reference, then `B`, `C` ..."""
    run_id: str
    chip: str
    suite: str
    model: str
    device: str
    host: str
    commit: str
    branch: str
    started_at: str
    num_cases: int
    num_timed: int
    roofs: tuple[tuple[str, float, str], ...]
    """Name, value and unit of each measured roof."""
    is_fake: bool = False
    warnings: tuple[str, ...] = ()
    """What to know before its times are trusted, one sentence each."""

    @property
    def title(self) -> str:
        """`B (h200_sxm)`."""
        return f"{self.label} ({self.chip or self.device})"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseComparison:
    """One case in two runs."""

    case_id: str
    op: str
    first_s: float
    second_s: float
    speedup: float
    """First time over second time: above 1, the second is faster."""
    low: float
    high: float
    verdict: Verdict
    first_steps: float
    """The first median in steps of its timer; below SHORT_RESOLUTIONS it is too short for it."""
    second_steps: float
    difference: str = ""
    """What of the protocol differs, with both values, where the comparison was forced."""
    first_input_sets: int = 1
    """Sets of inputs the runs took turns between; the protocol names those that were asked for,
    and where memory is short there are fewer."""
    second_input_sets: int = 1
    remarks: tuple[str, ...] = ()
    """`A noisy`, `B throttled`: what to know of the two times."""

    @property
    def has_other_input_sets(self) -> bool:
        """One of the two had fewer sets of inputs."""
        return self.first_input_sets != self.second_input_sets


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupComparison:
    """One op in one type, mode and phase; on either chip the fastest implementation of each size.

    A chip is compared by its best: what else could run there and is slower says nothing of it.
    """

    phase: str
    """`training`, `prefill`, `decode`, else the role of its cases, as `roof`."""
    group: str
    """The problem without its sizes, as `gemm.bf16.forward`."""
    op: str
    num_problems: int
    """Sizes that both have a time for."""
    speedup: Interval
    """Geometric mean of first time over second time, with its 95 % interval."""
    verdict: Verdict
    first_s: float
    """Geometric mean of the medians."""
    second_s: float
    first_impls: tuple[str, ...]
    """The implementations that were fastest, most often first."""
    second_impls: tuple[str, ...]
    first_roof_share: float | None = None
    """Geometric mean of the shares of the chip's own measured roof; None without one."""
    second_roof_share: float | None = None
    joules_ratio: float | None = None
    """Second over first, per run; None where not both measured energy."""
    remarks: tuple[str, ...] = ()
    """`A: 2 noisy`, `B: 1 throttled`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanComparison:
    """Geometric mean over the problems of a phase."""

    phase: str
    """Empty for all problems."""
    num_problems: int
    speedup: Interval
    verdict: Verdict
    first_roof_share: float | None = None
    second_roof_share: float | None = None
    joules_ratio: float | None = None
    """Second over first, of the problems where both measured energy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingTime:
    """A case that one of the two has a time for and the other has not."""

    case_id: str
    label: str
    """Of the run without."""
    status: str
    """Of its record; `absent` where it has none."""
    reason: str
    has_other: bool
    """Another implementation of the problem has a time there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BarOp:
    """What one op adds to a bar."""

    name: str
    """Its role in the model and the problem."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One cause of the difference; below zero it makes the second chip's step shorter."""

    cause: Cause
    seconds: float
    ops: tuple[BarOp, ...] = ()
    """The largest parts of it, by size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waterfall:
    """The difference between two chips' time of one piece of work, taken apart.

    `second_s` is `first_s` plus all bars: see `docs/compare.md` for how they are found.
    """

    phase: str
    title: str
    """What the work is, for people."""
    first_s: float
    second_s: float
    speedup: Interval
    """Of the measured ops together, with the 95 % interval of their medians."""
    bars: tuple[Bar, ...]
    num_ops: int
    """Pieces of work that are in it."""
    first_estimated_s: float = 0.0
    """Of the first time, what is no measurement of that chip."""
    second_estimated_s: float = 0.0
    left_out: tuple[str, ...] = ()
    """Work that neither has a time for, or that nothing can be said of."""
    first_joules: float | None = None
    """Of the measured ops; None unless both measured the energy of each."""
    second_joules: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def difference_s(self) -> float:
        """Second less first."""
        return self.second_s - self.first_s

    def bar(self, cause: Cause) -> float:
        """The seconds of that cause."""
        return sum(bar.seconds for bar in self.bars if bar.cause is cause)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosureComparison:
    """How far the sum of a layer's ops is off on each chip: above zero the sum is too long."""

    layer: str
    part: str
    first: Interval
    second: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPair:
    """Another run against the reference."""

    label: str
    """Of the other run."""
    cases: tuple[CaseComparison, ...]
    groups: tuple[GroupComparison, ...]
    means: tuple[MeanComparison, ...]
    """First over everything, then of each phase."""
    missing: tuple[MissingTime, ...] = ()
    different_protocol: tuple[str, ...] = ()
    """Cases whose protocols differ; compared only when that was forced."""
    waterfalls: tuple[Waterfall, ...] = ()
    no_waterfall: tuple[str, ...] = ()
    """Why a step is not taken apart, one sentence each."""
    closures: tuple[ClosureComparison, ...] = ()
    """Of the layers that both measured whole."""

    @property
    def overall(self) -> MeanComparison:
        """Over all problems."""
        return self.means[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectedRun:
    """What the projection of a run says of a cluster of its chip."""

    label: str
    reason: str = ""
    """Why there is none; the numbers are absent then."""
    model: str = ""
    cluster: str = ""
    num_chips: int = 0
    plan: str = ""
    held_back_by: str = ""
    tokens_per_second: Interval | None = None
    """P10 to P90."""
    mfu: float | None = None
    goodput: float | None = None
    useful_tokens_per_second: Interval | None = None
    site_w: float | None = None
    joules_per_token: float | None = None
    currency: str = ""
    cost_per_million_tokens: float | None = None
    ratio: Interval | None = None
    """Tokens per second over those of the reference; 1 for the reference itself."""
    has_common_draws: bool = False
    """Inputs that both share were drawn once; else the two are taken for independent."""
    measured_share: float = 0.0
    """Of the compute time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipComparison:
    """All that the runs say together."""

    schema_version: int = COMPARISON_SCHEMA_VERSION
    comparison_id: str
    """Name of its folder below `results/comparisons/`."""
    runs: tuple[ComparedRun, ...]
    """The reference first."""
    pairs: tuple[RunPair, ...]
    """One for each other run, in their order."""
    projections: tuple[ProjectedRun, ...] = ()
    """One for each run; empty where none has any."""
    tolerance: float
    """Differences up to it are called same, as 0.03 for 3 %."""
    is_forced: bool = False
    created_at: str = ""
    """UTC, ISO 8601."""
    command: str = ""

    @property
    def reference(self) -> ComparedRun:
        """The first run."""
        return self.runs[0]

    def run(self, label: str) -> ComparedRun:
        """The run of that label."""
        return next(run for run in self.runs if run.label == label)
