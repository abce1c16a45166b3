"""GateResult: what base and head, measured in turns, say of every case; the result as data.

Made by `harness/gate/`, shown by `harness/report/` and `harness/store/mlflow/`.
"""

from dataclasses import dataclass
from enum import StrEnum

from harness.projection import Interval

GATE_SCHEMA_VERSION = 1
"""Of `gate.json`; raised when the meaning of a field changes."""


class State(StrEnum):
    """What became of a case, worst first: the order in which results are shown."""

    REGRESSED = "REGRESSED"
    """Slower by more than the tolerance, and again in fresh rounds."""
    INVALID = "INVALID"
    """It could not be judged: wrong, crashed, throttled, or not of equal work; the reason says."""
    MISSING = "MISSING"
    """The base has it and the head does not."""
    INCONCLUSIVE = "INCONCLUSIVE"
    """The interval holds both a difference that matters and none, and is wide."""
    NOISY = "NOISY"
    """The machine differs from itself by more than the gate may allow, so it is advice alone."""
    IMPROVED = "IMPROVED"
    """Faster by more than the tolerance, and again in fresh rounds."""
    NEW = "NEW"
    """The head has it and the base does not."""
    UNCHANGED = "UNCHANGED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One of the two sides."""

    label: str
    """As the user named it: a revision, a wheel, a run id, `working tree`."""
    commit: str = ""
    """Empty where none is known; `-dirty` at its end where files had changed."""
    branch: str = ""
    run_ids: tuple[str, ...] = ()
    """The run folders that its rounds were measured into, in their order."""
    versions: tuple[tuple[str, str], ...] = ()
    """Of torch, triton, driver and runtime."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One case in some rounds, each with a fresh process for either side."""

    base_s: tuple[float, ...]
    """Median of the samples of each round's process."""
    head_s: tuple[float, ...]
    change: Interval
    """Head over base, less 1: the Hodges-Lehmann estimate and its exact interval."""
    confidence: float | None = None
    """That the interval has: 5 pairs cannot reach more than 0.9375."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exemption:
    """A regression that somebody accepted, until a day."""

    case_id: str
    """A case, or a pattern with `*`."""
    limit: float
    """The largest accepted change, as 0.08 for 8 % slower."""
    reason: str
    until: str
    """The last day it holds, ISO 8601."""
    author: str = ""
    commit: str = ""
    """Of the head it was accepted for."""
    created_at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateCase:
    """One case, judged."""

    case_id: str
    op: str
    impl: str
    dtype: str
    mode: str
    shape: str
    state: State
    reason: str
    """One sentence: why this state."""
    tolerance: float
    """The largest change that is none, as 0.03 for 3 %."""
    tolerance_basis: str
    """What set it: the user, the timer or the machine's own A/A floor, in words."""
    screen: Stage | None = None
    """The rounds that every case has."""
    confirm: Stage | None = None
    """The fresh rounds of a case that was flagged."""
    change: Interval | None = None
    """Over all rounds, for people; the verdict needs each stage by itself."""
    confidence: float | None = None
    """That its interval has: 10 pairs reach 0.951 where 0.95 is asked."""
    base_s: float | None = None
    """Median of the rounds' medians."""
    head_s: float | None = None
    base_clock_hz: float | None = None
    """Median clock of the chip while it was measured, where the chip tells it."""
    head_clock_hz: float | None = None
    exemption: Exemption | None = None
    """The one that lets this regression pass."""
    reproduce: str = ""
    """A command that measures this case alone again."""

    @property
    def fails(self) -> bool:
        """A regression that nobody accepted."""
        return self.state is State.REGRESSED and self.exemption is None

    @property
    def place(self) -> tuple[int, bool, float]:
        """To sort by, worst first: the state, what fails before what was accepted, the change."""
        change = abs(self.change.value) if self.change is not None else 0.0
        return list(State).index(self.state), self.exemption is not None, -change


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonShift:
    """Most cases moved together, as when a clock or a driver changed."""

    share: float
    """Of the cases that moved the same way by more than half their tolerance."""
    shift: float
    """Median change of all cases, as 0.04 for 4 % slower."""
    is_confirmed: bool
    """Fresh rounds showed it again, so it is of the head and not of the moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """All that the gate found."""

    schema_version: int = GATE_SCHEMA_VERSION
    gate_id: str
    """Name of its folder below `results/gates/`."""
    suite: str
    model: str
    chip: str
    fingerprint: str
    base: Arm
    head: Arm
    cases: tuple[GateCase, ...]
    """Worst first."""
    num_rounds: int
    """Pairs of processes in the screen; as many again confirm what was flagged."""
    num_confirm_rounds: int = 0
    is_interleaved: bool
    """Base and head took turns in one job; false against a stored baseline."""
    is_advisory: bool
    """It tells, and does not fail."""
    common_shift: CommonShift | None = None
    expected_false_alarms: float | None = None
    """At most: cases times the upper end of the rate that `make bench-gate` found; None where it is
    unknown."""
    warnings: tuple[str, ...] = ()
    environment_changes: tuple[str, ...] = ()
    """What of driver, runtime and versions differs between the arms, a sentence each."""
    started_at: str
    ended_at: str
    command: str = ""
    ui_links: tuple[tuple[str, str], ...] = ()
    """`base` and `head` runs in MLflow's UI, where they were logged."""
    pull_request: str = ""
    """Its number, where CI judges one."""

    def of(self, state: State) -> tuple[GateCase, ...]:
        """The cases in that state."""
        return tuple(case for case in self.cases if case.state is state)

    @property
    def num_failing(self) -> int:
        """Regressions that nobody accepted."""
        return sum(case.fails for case in self.cases)

    @property
    def counts(self) -> tuple[tuple[State, int], ...]:
        """Cases in each state that has any, worst first."""
        return tuple((state, len(self.of(state))) for state in State if self.of(state))

    @property
    def headline(self) -> str:
        """The verdict in one line: `2 regressions, 1 inconclusive of 214 on h200`."""
        if not self.cases:
            return f"Nothing was judged on {self.chip}"
        failing = self.num_failing
        accepted = len(self.of(State.REGRESSED)) - failing
        words = [
            f"{count:,} {kind}{'s' if count != 1 else ''}"
            for count, kind in ((failing, "regression"), (accepted, "accepted regression"))
            if count
        ]
        words += [
            f"{count:,} {state.value.lower()}"
            for state, count in self.counts
            if state not in (State.REGRESSED, State.UNCHANGED)
        ]
        advice = " (advisory)" if self.is_advisory else ""
        if not words:
            plural = "s" if len(self.cases) != 1 else ""
            return f"No regression in {len(self.cases):,} case{plural} on {self.chip}{advice}"
        if not failing:
            words.insert(0, "No regression")
        return f"{', '.join(words)} of {len(self.cases):,} on {self.chip}{advice}"
