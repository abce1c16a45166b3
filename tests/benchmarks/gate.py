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
from dataclasses import replace
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.environment import num_usable_cores, processor_name
from harness.errors import ChipscaleError
from harness.gate.floors import MIN_ESTIMATES, Floors, floors_from
from harness.gate.policy import GatePolicy
from harness.store.folder import write_atomically
from harness.units import span
from tests.benchmarks.gate_found import GateRates, Here, Realized, counted
from tests.benchmarks.gate_measured import (
    PROBLEMS,
    Bench,
    MeasuredRound,
    MeasuredSuites,
    make_tree,
)
from tests.benchmarks.gate_page import with_rates
from tests.benchmarks.gate_rates import ErrorRates, error_rates
from tests.benchmarks.gate_rules import Rule, rules, stored_rules
from tests.benchmarks.gate_simulated import SimulatedSuites
from tests.benchmarks.gate_trials import LEVELS, Trial
from tests.benchmarks.kept_result import keep

OUT = Path("results/bench/gate.json")
FOLDER = Path("results/bench/gate")
TREE = Path("build/bench-gate/tree")
CALIBRATION = 2 * MIN_ESTIMATES
"""A/A suites that a machine is calibrated with; what is calibrated is judged on the others."""
SEED = 20260102


def simulated_rates(
    suites: SimulatedSuites, count: int, compared: Sequence[Rule]
) -> tuple[ErrorRates, ...]:
    """The rules on suites of the imaginary GPU."""
    num_power = max(1, count // 5)

    def trials() -> Iterable[Trial]:
        yield from suites.trials(count, 0.0, SEED)
        for number, level in enumerate(LEVELS, start=1):
            yield from suites.trials(num_power, level, SEED + number)

    return error_rates(compared, trials())


def measured_rates(suites: MeasuredSuites, policy: GatePolicy) -> tuple[ErrorRates, ...]:
    """Every rule on what was measured here; a calibrated one on what it is not calibrated with."""
    floors = calibrated(suites)
    rest = suites.after(CALIBRATION)

    def trials(of: MeasuredSuites) -> Iterable[Trial]:
        return chain(of.nothing(), of.really_slower())

    every = rules(policy, floors)
    plain = [rule for rule in every if "calibrated" not in rule.name]
    rates = error_rates(plain, trials(suites)) + error_rates(
        [rule for rule in every if rule not in plain], trials(rest)
    )
    order = [rule.name for rule in every]
    return tuple(sorted(rates, key=lambda one: order.index(one.rule)))


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
            counted(one.alarms_per_case),
            counted(one.alarms_per_suite),
            *(f"{100 * found[level].value:.0f} %" if level in found else "" for level in levels),
        )
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 1 when a goal is missed."""
    options = _parser().parse_args(arguments)
    policy = GatePolicy()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    simulation = SimulatedSuites(num_cases=options.simulated_cases)
    try:
        rounds = _measured(options, policy, console)
    except ChipscaleError as error:
        console.print(str(error))
        return error.exit_code
    with console.status("simulating ..."):
        simulated = simulated_rates(simulation, options.simulated, rules(policy, None))
        stored = simulated_rates(
            replace(simulation, is_stored=True),
            max(1, options.simulated // 2),
            stored_rules(policy),
        )
    suites = MeasuredSuites(rounds=tuple(rounds), num_rounds=policy.rounds)
    has_any = bool(list(suites.nothing()))
    rates = GateRates(
        policy=policy,
        num_simulated=options.simulated,
        simulation=simulation,
        simulated=simulated,
        stored=stored,
        here=here(rounds, suites) if has_any else None,
        measured=measured_rates(suites, policy) if has_any else (),
        multiplied=_of_gate(suites.multiplied, policy) if has_any else (),
        all_slower=_of_gate(suites.all_slower, policy) if has_any else (),
    )
    _show(rates, console)
    if options.page is not None:
        text = options.page.read_text(encoding="utf-8")
        write_atomically(options.page, with_rates(text, rates))
        console.print(f"written into {options.page}")
    misses = [f"Goal missed. {miss}" for miss in rates.misses]
    return keep(rates, misses, options.out, console)


def _of_gate(trials: Callable[[], Iterable[Trial]], policy: GatePolicy) -> tuple[ErrorRates, ...]:
    """What the gate's own rules make of them."""
    gates = [one for one in rules(policy, None) if one.name.startswith("gate")]
    return error_rates([one for one in gates if "not" not in one.name], trials())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.gate",
        description="How often the regression gate is wrong, beside rules of other tools.",
    )
    parser.add_argument("--suites", type=int, default=75, help="A/A suites measured here")
    parser.add_argument(
        "--power-suites", type=int, default=10, help="those that have slower cases too"
    )
    parser.add_argument("--simulated", type=int, default=200, help="simulated A/A suites")
    parser.add_argument("--simulated-cases", type=int, default=200, help="of each of them")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where rounds are kept")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--page", type=Path, help="a page whose tables are written anew")
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
    console.print()
    console.print(table("The same, the base measured in another session", rates.stored))
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
