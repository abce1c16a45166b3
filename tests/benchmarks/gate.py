"""`make bench-gate`: how often the regression gate is wrong, beside rules of other tools.

Twice: on an imaginary GPU of known noise, and here, on the CPU, with fresh processes that really
measure. Each rule sees the very same samples. Nothing overlaps: a process is in one suite, and a
rule that takes one process a side looks at each pair by itself.

    python -m tests.benchmarks.gate [--suites 75] [--power-suites 10] [--simulated 200]

What is measured is kept in results/bench/gate/rounds.jsonl line by line; the same command goes on
where it was stopped, and with more suites it adds to them. Set OMP_NUM_THREADS=1, as `make` does.
Writes results/bench/gate.json. Exits with 1 when a goal is missed.
"""

import argparse
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.codec import to_json
from harness.environment import num_usable_cores, processor_name
from harness.errors import ChipscaleError
from harness.gate.floors import MIN_ESTIMATES, Floors, floors_from
from harness.gate.policy import GatePolicy
from harness.store.folder import write_atomically
from harness.units import significant, span
from tests.benchmarks.gate_measured import (
    PROBLEMS,
    Bench,
    MeasuredRound,
    MeasuredSuites,
    make_tree,
)
from tests.benchmarks.gate_rates import ErrorRates, Share, error_rates
from tests.benchmarks.gate_rules import rules
from tests.benchmarks.gate_simulated import SimulatedSuites
from tests.benchmarks.gate_trials import LEVELS, Trial

OUT = Path("results/bench/gate.json")
FOLDER = Path("results/bench/gate")
TREE = Path("build/bench-gate/tree")
CALIBRATION = 2 * MIN_ESTIMATES
"""A/A suites that a machine is calibrated with; what is calibrated is judged on the others."""
MIN_SUITES = 70
"""With fewer, no false alarm says little."""
MIN_POWER = 0.95
LEVEL_HERE, LEVEL_SIMULATED = 0.10, 0.05
SEED = 20260102


@dataclass(frozen=True, slots=True, kw_only=True)
class Realized:
    """What a slow-down that was built in came to."""

    level: float
    median: float
    """Of all cases and processes, against the same case in the same process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """What was measured, and where."""

    processor: str
    num_cores: int
    num_suites: int
    num_power_suites: int
    num_cases: int
    median_load: float
    """Running programs of the host before a pair of processes."""
    deviation: float
    """Robust standard deviation of the A/A estimates of all cases and suites."""
    pair_s: float
    """Median time of a pair of processes."""
    realized: tuple[Realized, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRates:
    """What the benchmark found."""

    policy: GatePolicy
    num_simulated: int
    simulation: SimulatedSuites
    simulated: tuple[ErrorRates, ...]
    here: Here | None
    """None where nothing was measured."""
    measured: tuple[ErrorRates, ...] = ()
    """Slow-downs are work that was done."""
    multiplied: tuple[ErrorRates, ...] = ()
    """Slow-downs are samples multiplied, which have no noise of their own."""
    all_slower: tuple[ErrorRates, ...] = ()
    """Every case is slower: the suite has shifted."""

    @property
    def misses(self) -> tuple[str, ...]:
        """Goals that were missed, one sentence each."""
        found = _misses("simulation", self.simulated[0], LEVEL_SIMULATED)
        if self.here is not None and self.here.num_suites >= MIN_SUITES:
            found += _misses("measured", self.measured[0], LEVEL_HERE)
        return found


def _misses(where: str, rates: ErrorRates, level: float) -> tuple[str, ...]:
    found = []
    alarms = rates.alarms_per_case
    if alarms.count:
        found.append(f"{where}: {alarms.count} false alarms of {rates.rule} in {alarms.of} cases.")
    found += [
        f"{where}: {rates.rule} finds {100 * one.found.value:.1f} % of {100 * level:g} %."
        for one in rates.power
        if one.level == level and one.found.value < MIN_POWER
    ]
    return tuple(found)


def simulated_rates(
    suites: SimulatedSuites, count: int, policy: GatePolicy
) -> tuple[ErrorRates, ...]:
    """Every rule on suites of the imaginary GPU, which are made anew for each."""
    num_power = max(1, count // 5)

    def trials() -> Iterable[Trial]:
        yield from suites.trials(count, 0.0, SEED)
        for number, level in enumerate(LEVELS, start=1):
            yield from suites.trials(num_power, level, SEED + number)

    return tuple(error_rates(rule, trials()) for rule in rules(policy, None))


def measured_rates(suites: MeasuredSuites, policy: GatePolicy) -> tuple[ErrorRates, ...]:
    """Every rule on what was measured here; a calibrated one on what it is not calibrated with."""
    floors = calibrated(suites)
    rest = suites.after(CALIBRATION)

    def trials(of: MeasuredSuites) -> Iterable[Trial]:
        return chain(of.nothing(), of.really_slower())

    return tuple(
        error_rates(rule, trials(rest if "calibrated" in rule.name else suites))
        for rule in rules(policy, floors)
    )


def calibrated(suites: MeasuredSuites) -> Floors | None:
    """Floors of the first suites, where enough others are left to judge."""
    first = suites.aa_suites(2 * CALIBRATION)
    if len(first) < 2 * CALIBRATION:
        return None
    return floors_from(first[:CALIBRATION], "here", processor_name())


def here(rounds: Sequence[MeasuredRound], suites: MeasuredSuites) -> Here:
    """Where it was measured, and how noisy it is."""
    screens = [list(trial.first) for trial in suites.nothing()]
    estimates = [
        abs(one) for floor in floors_from(screens, "", "").cases for one in floor.estimates
    ]
    ratios: dict[float, list[float]] = {level: [] for level in LEVELS}
    for measured in rounds:
        medians = {
            (one.case, one.level): statistics.median(one.samples_s)
            for one in measured.head
            if one.samples_s
        }
        for (case, level), median_s in medians.items():
            if level and (case, 0.0) in medians:
                ratios[level].append(math.log(median_s / medians[case, 0.0]))
    power = {one.suite for one in rounds if len({each.level for each in one.head}) > 1}
    return Here(
        processor=processor_name(),
        num_cores=num_usable_cores(),
        num_suites=len(screens),
        num_power_suites=len(power),
        num_cases=len(PROBLEMS),
        median_load=statistics.median(one.load for one in rounds),
        deviation=1.4826 * statistics.median(estimates),
        pair_s=statistics.median(one.seconds for one in rounds),
        realized=tuple(
            Realized(level=level, median=math.expm1(statistics.median(found)))
            for level, found in ratios.items()
            if found
        ),
    )


def table(title: str, rates: Sequence[ErrorRates]) -> Table:
    """A row for each rule."""
    shown = Table(
        title=title, title_justify="left", box=None, header_style="bold", padding=(0, 2, 0, 0)
    )
    shown.add_column("rule")
    for name in ("processes", "false alarms of cases", "of suites"):
        shown.add_column(name, justify="right")
    levels = [one.level for one in rates[0].power]
    for level in levels:
        shown.add_column(f"finds +{100 * level:g} %", justify="right")
    for one in rates:
        found = {power.level: power.found for power in one.power}
        shown.add_row(
            one.rule,
            one.processes,
            _rate(one.alarms_per_case),
            _rate(one.alarms_per_suite),
            *(f"{100 * found[level].value:.0f} %" if level in found else "" for level in levels),
        )
    return shown


def _rate(share: Share) -> str:
    """`0 of 900 (< 0.41 %)`, `29.2 % (262 of 900)`."""
    if not share.of:
        return "n/a"
    if not share.count:
        return f"0 of {share.of} (< {significant(100 * share.high, 2)} %)"
    return f"{significant(100 * share.value, 2)} % ({share.count} of {share.of})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 1 when a goal is missed."""
    options = _parser().parse_args(arguments)
    policy = GatePolicy()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    simulation = SimulatedSuites()
    try:
        rounds = _measured(options, policy, console)
    except ChipscaleError as error:
        console.print(str(error))
        return error.exit_code
    with console.status("simulating ..."):
        simulated = simulated_rates(simulation, options.simulated, policy)
    suites = MeasuredSuites(rounds=tuple(rounds), num_rounds=policy.rounds)
    has_any = bool(list(suites.nothing()))
    gates = ("gate",)
    rates = GateRates(
        policy=policy,
        num_simulated=options.simulated,
        simulation=simulation,
        simulated=simulated,
        here=here(rounds, suites) if has_any else None,
        measured=measured_rates(suites, policy) if has_any else (),
        multiplied=_of_gate(suites.multiplied, policy, gates) if has_any else (),
        all_slower=_of_gate(suites.all_slower, policy, gates) if has_any else (),
    )
    _show(rates, console)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out, to_json(rates) + "\n")
    console.print(f"written to {options.out}")
    for miss in rates.misses:
        console.print(f"Goal missed. {miss}")
    return 1 if rates.misses else 0


def _of_gate(
    trials: Callable[[], Iterable[Trial]], policy: GatePolicy, names: tuple[str, ...]
) -> tuple[ErrorRates, ...]:
    """What the gate's own rules make of them."""
    return tuple(
        error_rates(rule, trials())
        for rule in rules(policy, None)
        if rule.name.startswith(names) and "not" not in rule.name
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.gate",
        description="How often the regression gate is wrong, beside rules of other tools.",
    )
    parser.add_argument("--suites", type=int, default=75, help="A/A suites measured here")
    parser.add_argument(
        "--power-suites", type=int, default=10, help="those that have slower cases too"
    )
    parser.add_argument("--simulated", type=int, default=200, help="suites of 200 cases")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where rounds are kept")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser


def _measured(
    options: argparse.Namespace, policy: GatePolicy, console: Console
) -> list[MeasuredRound]:
    """The rounds that are kept, with those that were still to be taken."""
    bench = Bench(folder=options.folder, tree=TREE, policy=policy)
    kept = bench.kept()
    if options.suites:
        make_tree(TREE)
    with console.status("measuring ...") as status:

        def told(one: MeasuredRound) -> None:
            pairs = 2 * policy.rounds
            status.update(
                f"suite {one.suite + 1} of {options.suites}, pair {one.number + 1} of up to "
                f"{pairs}: {one.seconds:.0f} s at load {one.load:.1f}"
            )

        bench.measure(options.suites, options.power_suites, told)
    found = bench.kept()
    console.print(f"{len(found)} pairs of processes, {len(found) - len(kept)} of them new")
    return found


def _show(rates: GateRates, console: Console) -> None:
    simulation = rates.simulation
    title = (
        f"An imaginary GPU, {rates.num_simulated} suites of {simulation.num_cases} cases; a fifth "
        "as many for each slow-down of a tenth of the cases"
    )
    console.print(table(title, rates.simulated))
    place = rates.here
    if place is None:
        return
    console.print()
    title = (
        f"Here, {place.num_suites} suites of {place.num_cases} cases; {place.num_power_suites} of "
        "them with slow-downs, work that is done, of a quarter of the cases at a time"
    )
    console.print(table(title, rates.measured))
    if place.num_power_suites:
        console.print()
        console.print(table("The same slow-downs as multiplied samples", rates.multiplied))
        console.print()
        console.print(table("Every case slower: the suite has shifted", rates.all_slower))
    realized = ", ".join(
        f"{100 * one.level:g} % came to {100 * one.median:.1f} %" for one in place.realized
    )
    console.print(
        f"{place.processor}, {place.num_cores} cores at a median load of {place.median_load:.1f}, "
        f"threads: {os.environ.get('OMP_NUM_THREADS', 'not set')}; a pair of processes took "
        f"{span(place.pair_s)}. A/A estimates of 5 pairs deviate by "
        f"{100 * place.deviation:.1f} % (robust). Slow-downs: {realized or 'none'}."
    )


if __name__ == "__main__":
    sys.exit(main())
