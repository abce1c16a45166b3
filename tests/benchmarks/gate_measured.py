"""Suites measured here: fresh processes of the harness's own worker, in ABBA order, on the CPU.

A head process has, for every case, the implementation itself and one that is slower for each level;
they take turns as the implementations of one problem always do. So the same processes say how often
a rule alarms at nothing and how often it finds what is slower. Base processes have the
implementation alone. No process serves two trials of a kind: nothing overlaps.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from harness.cases import Case
from harness.codec import from_json, to_json
from harness.device.base import DeviceState
from harness.device.request import DeviceRequest
from harness.errors import RecordError
from harness.gate.decide import screen
from harness.gate.policy import GatePolicy
from harness.gate.rounds import Round
from harness.measure.policy import Cache, Launch, MeasurePolicy
from harness.record import Record, Status
from harness.store.folder import RunFolder, RunInfo
from harness.worker.job import Job
from kernels.op import Problem, problem
from tests.benchmarks import gate_slow_ops
from tests.benchmarks.gate_trials import LEVELS, Trial, multiplied, record_of

ROOT = Path(__file__).parents[2]
PARTS = ("harness", "kernels", "configs")
IMPL = "torch"
PROBLEMS: tuple[Problem, ...] = (
    problem("gemm", "fp32", M=256, N=384, K=384),
    problem("rms_norm", "fp32", T=512, H=1024),
    problem("layer_norm", "fp32", T=1024, H=1024),
    problem("softmax", "fp32", T=512, V=2048),
    problem("swiglu", "fp32", T=512, F=1024),
    problem("gelu", "fp32", N=524288),
    problem("rope", "fp32", T=768, H=8, D=64),
    problem("cross_entropy", "fp32", T=512, V=2048),
    problem("attention", "fp32", B=1, Q=192, S=192, H=8, G=8, D=64, E=64),
    problem("copy", "fp32", N=2097152),
    problem("triad", "fp32", N=1048576),
    problem("embedding", "fp32", T=4096, V=4096, H=512),
)
"""Half a millisecond to two each: a process is started up for longer than it measures, and what
is small enough for the caches depends less on what the machine's other tenants do."""
MEASURE = MeasurePolicy(
    cache=Cache.HOT,
    launch=Launch.DIRECT,
    num_input_sets=1,
    relative_half_width=1e-4,
    min_samples=30,
    max_samples=30,
    timeout_s=2.0,
    warmup_timeout_s=0.3,
    case_timeout_s=60.0,
)
LOOSEST_SCREEN = 0.02
"""What any of the rules would flag has fresh rounds."""
PROCESS_TIMEOUT_S = 300.0


def setup() -> str:
    """What the kept rounds were measured with, as one line."""
    return to_json((PROBLEMS, MEASURE, LEVELS, os.environ.get("OMP_NUM_THREADS", "")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """One case of one process."""

    case: int
    """Place in PROBLEMS."""
    level: float
    """0 for the implementation itself."""
    status: Status
    reason: str = ""
    samples_s: tuple[float, ...] = ()
    timer_resolution_s: float = 0.0
    throttle_reasons: tuple[str, ...] = ()
    foreign_processes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRound:
    """One line of the file: a pair of processes."""

    suite: int
    number: int
    """From 0; those after the screen's are fresh."""
    base_first: bool
    base: tuple[Samples, ...]
    head: tuple[Samples, ...]
    started_at: str
    seconds: float
    load: float
    """Of the host, before."""


def case_of(place: int, level: float = 0.0) -> Case:
    """The case at that place, slower by that level."""
    name = f"{IMPL}_slow_{level:g}" if level else IMPL
    return Case(problem=PROBLEMS[place], impl=name)


def make_tree(folder: Path) -> Path:
    """A copy of the code that is measured, with the slower implementations.

    Both sides run it, so an A/A is of the same bytes, and edits meanwhile change nothing.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(gate_slow_ops.__file__, folder / "gate_slow_ops.py")
    registry = folder / "kernels" / "registry.py"
    text = registry.read_text(encoding="utf-8")
    slowing = "\n\nfrom gate_slow_ops import slowed  # noqa: E402\n\nload = slowed(load)\n"
    registry.write_text(text + slowing, encoding="utf-8")
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Measures pairs of processes into a file, and goes on where the file ends."""

    folder: Path
    tree: Path
    policy: GatePolicy

    @property
    def file(self) -> Path:
        """A MeasuredRound for each line."""
        return self.folder / "rounds.jsonl"

    def kept(self) -> list[MeasuredRound]:
        """The rounds that are there.

        Raises:
            RecordError: when they were measured with another setup.
        """
        if not self.file.exists():
            return []
        first, *lines = self.file.read_text(encoding="utf-8").splitlines()
        if first != setup():
            raise RecordError(
                f"{self.file}: its rounds are of other cases or rules of measuring. Move it away, "
                "or set another --folder."
            )
        return [from_json(MeasuredRound, line, str(self.file)) for line in lines if line]

    def measure(
        self, num_suites: int, num_power_suites: int, on_round: Callable[[MeasuredRound], None]
    ) -> None:
        """Take all rounds that are not there yet; the first suites also say what is found."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rounds = {(one.suite, one.number): one for one in self.kept()}
        if not self.file.exists():
            self.file.write_text(setup() + "\n", encoding="utf-8")
        every = frozenset(range(len(PROBLEMS)))
        for suite in range(num_suites):
            levels = (0.0, *LEVELS) if suite < num_power_suites else (0.0,)
            for number in range(2 * self.policy.rounds):
                wanted = every
                if number >= self.policy.rounds and len(levels) == 1:
                    first = [rounds[suite, one] for one in range(self.policy.rounds)]
                    wanted = self._flagged(first)
                    if not wanted:
                        break
                if (suite, number) not in rounds:
                    taken = self._pair(suite, number, sorted(wanted), levels)
                    with self.file.open("a", encoding="utf-8") as file:
                        file.write(to_json(taken) + "\n")
                    rounds[suite, number] = taken
                    on_round(taken)

    def _flagged(self, first: Sequence[MeasuredRound]) -> frozenset[int]:
        ids = {case_of(place).id: place for place in range(len(PROBLEMS))}
        loose = replace(self.policy, tolerance=LOOSEST_SCREEN)
        return frozenset(ids[one] for one in screen([as_round(each) for each in first], loose))

    def _pair(
        self, suite: int, number: int, places: Sequence[int], levels: Sequence[float]
    ) -> MeasuredRound:
        started_at, load = datetime.now(UTC).isoformat(timespec="seconds"), os.getloadavg()[0]
        began_s = time.perf_counter()
        base_first = number % 2 == 0
        sides: dict[str, tuple[Samples, ...]] = {}
        for side in ("base", "head") if base_first else ("head", "base"):
            sides[side] = self._process(places, levels if side == "head" else (0.0,))
        return MeasuredRound(
            suite=suite,
            number=number,
            base_first=base_first,
            base=sides["base"],
            head=sides["head"],
            started_at=started_at,
            seconds=time.perf_counter() - began_s,
            load=load,
        )

    def _process(self, places: Sequence[int], levels: Sequence[float]) -> tuple[Samples, ...]:
        """One fresh process of the worker, its records without what no rule reads."""
        keys = [(place, level) for place in places for level in levels]
        out, job_file = self.folder / "process", self.folder / "cases.json"
        shutil.rmtree(out, ignore_errors=True)
        job = Job(
            run=RunInfo(
                run_id="bench-gate",
                suite="bench-gate",
                model="",
                device="cpu",
                chip="",
                num_cases=len(keys),
                started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            ),
            device=DeviceRequest(name="cpu"),
            policy=MEASURE,
            cases=tuple(case_of(place, level) for place, level in keys),
        )
        job_file.write_text(to_json(job) + "\n", encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "harness.worker", str(job_file.resolve()), str(out.resolve())],
            cwd=self.tree,
            env={**os.environ, "PYTHONPATH": str(self.tree.resolve()), "PYTHONSAFEPATH": "1"},
            capture_output=True,
            text=True,
            timeout=PROCESS_TIMEOUT_S,
            check=False,
        )
        if done.returncode not in (0, 4):
            raise RecordError(f"A process of the bench failed: {done.stderr or done.stdout}")
        records = {record.case.id: record for record in RunFolder(out).records()}
        return tuple(
            _samples(place, level, records[case_of(place, level).id]) for place, level in keys
        )


def _samples(place: int, level: float, record: Record) -> Samples:
    measurement = record.measurement
    if measurement is None:
        return Samples(case=place, level=level, status=record.status, reason=record.reason)
    states = [window.state for window in measurement.windows if window.state.is_throttled]
    return Samples(
        case=place,
        level=level,
        status=record.status,
        samples_s=tuple(float(f"{one:.5g}") for one in measurement.steady_samples_s),
        timer_resolution_s=measurement.timer_resolution_s,
        throttle_reasons=states[0].throttle_reasons if measurement.is_throttled else (),
        foreign_processes=measurement.foreign_processes,
    )


def as_round(measured: MeasuredRound, slower: Collection[int] = (), level: float = 0.0) -> Round:
    """The pair as the rule is given it, those heads being the slower ones."""
    return Round(
        base=tuple(_record(one) for one in measured.base),
        head=tuple(
            _record(one)
            for one in measured.head
            if one.level == (level if one.case in slower else 0.0)
        ),
        base_first=measured.base_first,
    )


def _record(one: Samples) -> Record:
    return record_of(
        case_of(one.case),
        one.samples_s,
        timer_resolution_s=one.timer_resolution_s,
        status=one.status,
        reason=one.reason,
        state=DeviceState(
            throttle_reasons=one.throttle_reasons, foreign_processes=one.foreign_processes
        ),
    )


SPARSE = 4
"""One case in so many is slower at a time: few enough that the suite has not shifted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSuites:
    """The kept rounds as trials."""

    rounds: tuple[MeasuredRound, ...]
    num_rounds: int

    def _suites(self) -> dict[int, list[MeasuredRound]]:
        suites: dict[int, list[MeasuredRound]] = {}
        for one in sorted(self.rounds, key=lambda each: (each.suite, each.number)):
            suites.setdefault(one.suite, []).append(one)
        return {number: found for number, found in suites.items() if len(found) >= self.num_rounds}

    def _power_suites(self) -> list[list[MeasuredRound]]:
        return [
            found
            for found in self._suites().values()
            if len(found) == 2 * self.num_rounds
            and all({each.level for each in one.head} > {0.0} for one in found)
        ]

    def nothing(self) -> Iterator[Trial]:
        """Every suite, nothing in it being slower."""
        for found in self._suites().values():
            yield self._trial(found, frozenset(), 0.0)

    def really_slower(self) -> Iterator[Trial]:
        """Suites with some cases that do more work, each case at each level once."""
        for found in self._power_suites():
            for level in LEVELS:
                for places in self._places():
                    yield self._trial(found, places, level)

    def all_slower(self) -> Iterator[Trial]:
        """Suites whose every case is slower: a shift of the suite that is of the head."""
        for found in self._power_suites():
            for level in LEVELS:
                yield self._trial(found, frozenset(range(len(PROBLEMS))), level)

    def multiplied(self) -> Iterator[Trial]:
        """The same suites with the head's samples multiplied, which is no work that was done."""
        for found in self._power_suites():
            still = self._trial(found, frozenset(), 0.0)
            for level in LEVELS:
                for places in self._places():
                    slower = frozenset(case_of(place).id for place in places)
                    yield Trial(
                        first=multiplied(still.first, 1 + level, slower),
                        fresh=multiplied(still.fresh, 1 + level, slower),
                        slower=slower,
                        level=level,
                    )

    def aa_suites(self, count: int) -> list[tuple[Round, ...]]:
        """The first rounds of so many suites, to calibrate with."""
        found = list(self._suites().values())[:count]
        return [tuple(as_round(one) for one in suite[: self.num_rounds]) for suite in found]

    def after(self, count: int) -> "MeasuredSuites":
        """Without the first so many suites."""
        first = set(list(self._suites())[:count])
        return replace(self, rounds=tuple(one for one in self.rounds if one.suite not in first))

    def _places(self) -> list[frozenset[int]]:
        return [frozenset(range(start, len(PROBLEMS), SPARSE)) for start in range(SPARSE)]

    def _trial(self, found: Sequence[MeasuredRound], places: frozenset[int], level: float) -> Trial:
        rounds = [as_round(one, places, level) for one in found]
        return Trial(
            first=tuple(rounds[: self.num_rounds]),
            fresh=tuple(rounds[self.num_rounds :]),
            slower=frozenset(case_of(place).id for place in places),
            level=level,
        )
