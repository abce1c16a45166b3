"""A search for the fastest launch configurations: its cases, and what their records say.

Each kernel of an op is searched by itself, with the others launched as usual: their times add up,
so the best of each is the best of all. The candidates are ordinary cases, measured by the worker
like any other - right before timed, a crash costs one - and one that loses is given up after a few
samples.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.cases import Case
from harness.record import Record, Status
from harness.stats import Summary, summarize
from harness.units import duration
from kernels import registry
from kernels.op import Problem
from kernels.tuning import Choice, TuningEntry, TuningTable

ROLE = "tuning"
"""The role of the cases of a search."""

LEAST_GAIN = 0.01
"""A configuration must be faster than the usual one by this share to be written down: less is
within what two builds of one kernel differ by, and a shorter table is easier to trust."""


def search_cases(problems: Iterable[Problem]) -> tuple[Case, ...]:
    """For each problem the usual launch, and every configuration of each of its kernels.

    Configurations of all families of devices are among them; a worker refuses those that are not
    for its device in no time.
    """
    cases: list[Case] = []
    for problem in problems:
        tunables = registry.tunables(problem.op)
        if not tunables:
            continue
        cases.append(Case(problem=problem, impl="triton", roles=(ROLE,)))
        for tunable in tunables:
            every = dict.fromkeys(
                config for configs in tunable.configs.values() for config in configs
            )
            cases += [
                Case(
                    problem=problem,
                    impl="triton",
                    roles=(ROLE,),
                    forced=((tunable.kernel, config),),
                )
                for config in every
            ]
    return tuple(cases)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The outcome of the search for one kernel at one size."""

    kernel: str
    problem: Problem
    usual: tuple[Choice, ...]
    """What would be launched without the search, at each of the sizes that the problem has."""
    usual_time: Summary
    best: tuple[Choice, ...]
    """The same of the fastest: one configuration, unless the usual choices were it."""
    best_time: Summary
    num_right: int
    """Configurations that gave a right result and a time."""
    num_wrong: int
    """Configurations that failed or were wrong on this device."""

    @property
    def gain(self) -> float:
        """How much faster the best is than the usual one, as a share of the usual time."""
        return 1 - self.best_time.median / self.usual_time.median

    @property
    def is_worth_writing(self) -> bool:
        """It is faster beyond doubt and by enough."""
        return self.gain >= LEAST_GAIN and self.best_time.high < self.usual_time.low

    def entries(self, run_id: str) -> tuple[TuningEntry, ...]:
        """The lines of the tuning table, one for each size, with their evidence."""
        usual = ", ".join(dict.fromkeys(f"{one.origin} {one.config}" for one in self.usual))
        evidence = (
            f"{self.problem.id}: {duration(self.best_time.median)} "
            f"+/- {self.best_time.relative_half_width:.1%}, before "
            f"{duration(self.usual_time.median)} +/- "
            f"{self.usual_time.relative_half_width:.1%} with {usual}; best of "
            f"{self.num_right}, run {run_id}"
        )
        return tuple(
            TuningEntry(
                kernel=self.kernel,
                dtype=one.dtype,
                variant=one.variant,
                sizes=one.sizes,
                config=one.config,
                evidence=evidence,
            )
            for one in self.best
        )


def outcomes(records: Sequence[Record]) -> tuple[Found, ...]:
    """What the records of a search found for each kernel and problem, in their order.

    A kernel that the problem does not launch, and one of which nothing was measured, is left out.
    """
    usual = {
        record.case.problem: record
        for record in records
        if record.status is Status.OK and not record.case.forced
    }
    trials: dict[tuple[Problem, str], list[Record]] = {}
    for record in records:
        for kernel, _ in record.case.forced:
            trials.setdefault((record.case.problem, kernel), []).append(record)
    found = []
    for (problem, kernel), tried in trials.items():
        base = usual.get(problem)
        launched = () if base is None else _launches(base, kernel)
        if base is None or not launched:
            continue
        right = [record for record in tried if record.status is Status.OK]
        times = {record.case.id: _time(record) for record in (base, *right)}
        best = min((base, *right), key=lambda record: times[record.case.id].median)
        found.append(
            Found(
                kernel=kernel,
                problem=problem,
                usual=launched,
                usual_time=times[base.case.id],
                best=_launches(best, kernel),
                best_time=times[best.case.id],
                num_right=len(right),
                num_wrong=sum(
                    record.status not in (Status.OK, Status.UNSUPPORTED) for record in tried
                ),
            )
        )
    return tuple(found)


def _launches(record: Record, kernel: str) -> tuple[Choice, ...]:
    return tuple(choice for choice in record.launches if choice.kernel == kernel)


def _time(record: Record) -> Summary:
    assert record.measurement is not None
    return summarize(record.measurement.steady_samples_s)


def merged(table: TuningTable, entries: Iterable[TuningEntry]) -> TuningTable:
    """The table with those entries, each in place of one for the same kernel, type and sizes."""

    def key(entry: TuningEntry) -> tuple[str, str, str, tuple[tuple[str, int], ...]]:
        return entry.kernel, entry.dtype, entry.variant, entry.sizes

    kept = {key(entry): entry for entry in table.entries} | {key(entry): entry for entry in entries}
    return TuningTable(
        chip=table.chip,
        devices=table.devices,
        entries=tuple(kept[name] for name in sorted(kept)),
    )
