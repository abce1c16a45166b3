"""`chipscale compare A B`: two runs, case by case, with a verdict for each."""

import argparse
from collections import Counter

from rich.console import Console
from rich.table import Table

from harness.closure import closures_of
from harness.compare import TOLERANCE, ComparedRuns, Comparison, Verdict, compare_records
from harness.errors import NothingMeasured
from harness.judgement import proof_warnings
from harness.record import SHORT_RESOLUTIONS
from harness.report.closure_table import compared_lines
from harness.report.rows import environment_warnings
from harness.results import accepted, result_rows, short_text
from harness.run import find_run
from harness.store.folder import RunFolder
from harness.units import duration, significant

STYLES = {Verdict.FASTER: "green", Verdict.SLOWER: "red", Verdict.AMBIGUOUS: "yellow"}


def main(options: argparse.Namespace) -> int:
    """Print the comparison.

    Raises:
        NothingMeasured: when the runs have no case in common.
    """
    results_dir = options.results_dir.resolve()
    first, second = (find_run(name, results_dir) for name in (options.first, options.second))
    tolerance = TOLERANCE if options.tolerance is None else options.tolerance
    ours, theirs = (accepted(folder.records(), folder.roofs) for folder in (first, second))
    compared = compare_records(ours, theirs, tolerance, options.force)
    if not compared.comparisons:
        raise NothingMeasured(
            f"{first.info.run_id} and {second.info.run_id} have no case with a time in common."
        )
    console = Console(highlight=False)
    console.print(f"A: {_title(first)}\nB: {_title(second)}\n", markup=False, soft_wrap=True)
    for name, folder in (("A", first), ("B", second)):
        rows = result_rows(folder.records(), folder.roofs)
        for warning in (
            *environment_warnings(folder.environment, rows),
            *proof_warnings(folder.proof),
            *folder.warnings(),
        ):
            console.print(f"{name}: {warning}", style="yellow", markup=False, soft_wrap=True)
    console.print(_table(compared))
    verdicts = Counter(comparison.verdict for comparison in compared.comparisons)
    counts = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in Verdict if verdicts[verdict])
    geomean = compared.geomean_speedup
    assert geomean is not None
    console.print(
        f"\nB is {significant(geomean)} times as fast as A (geometric mean of "
        f"{len(compared.comparisons)} cases; {counts}; differences up to "
        f"{significant(100 * tolerance)} % are called same).",
        markup=False,
    )
    for line in compared_lines(closures_of(ours), closures_of(theirs)):
        console.print(line, markup=False, soft_wrap=True)
    if compared.different_protocol:
        console.print(
            f"FORCED: {len(compared.different_protocol)} cases were measured by different "
            "protocols and are not equal work; their lines say what differs.",
            style="red",
        )
    fewer = sum(comparison.has_other_input_sets for comparison in compared.comparisons)
    if fewer:
        console.print(
            f"{fewer} cases had fewer sets of inputs in one of the two, as where memory is short; "
            "their lines say how many.",
            style="yellow",
        )
    for name, cases in (("A", compared.only_first), ("B", compared.only_second)):
        if cases:
            console.print(
                f"Only {name} has a time for {len(cases)} cases, as {cases[0]}.", markup=False
            )
    return 0


def _title(folder: RunFolder) -> str:
    info = folder.info
    return f"{info.chip or info.device}, {info.suite}, {info.run_id}"


def _verdict(comparison: Comparison) -> str:
    """The verdict, which of the two times is too short for its timer, and other sets of inputs."""
    steps = {"A": comparison.first_steps, "B": comparison.second_steps}
    short = [
        f"{name} {short_text(number)}"
        for name, number in steps.items()
        if number < SHORT_RESOLUTIONS
    ]
    sets = (comparison.first_input_sets, comparison.second_input_sets)
    fewer = [f"sets of inputs: A {sets[0]}, B {sets[1]}"] if comparison.has_other_input_sets else []
    return ", ".join([comparison.verdict, *short, *fewer])


def _table(compared: ComparedRuns) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("case", overflow="fold")
    for name in ("A", "B", "B over A", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("B is", overflow="fold")
    if compared.different_protocol:
        table.add_column("not equal work", overflow="fold")
    for comparison in compared.comparisons:
        table.add_row(
            comparison.case_id.replace("[", " ").replace("]", ""),
            duration(comparison.first_s),
            duration(comparison.second_s),
            f"{significant(comparison.speedup)} x",
            f"{significant(comparison.low)} to {significant(comparison.high)}",
            _verdict(comparison),
            *([comparison.difference] if compared.different_protocol else []),
            style=STYLES.get(comparison.verdict),
        )
    return table
