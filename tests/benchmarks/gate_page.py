"""The tables of docs/gate.md, written between two marks of the page."""

from collections.abc import Sequence

from harness.errors import ConfigError
from harness.units import significant
from tests.benchmarks.gate_found import MIN_SUITES, GateRates, Here, counted
from tests.benchmarks.gate_rates import ErrorRates

BEGIN, END = "<!-- rates: written by make bench-gate -->", "<!-- end of rates -->"


def with_rates(page: str, rates: GateRates) -> str:
    """The page with the tables of these rates.

    Raises:
        ConfigError: when the page has no place for them.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"The page has no lines `{BEGIN}` and `{END}` for the tables.")
    return f"{before}{BEGIN}\n\n{_tables(rates)}\n{END}{after}"


def _tables(rates: GateRates) -> str:
    simulation = rates.simulation
    num_power = max(1, rates.num_simulated // 5)
    parts = [
        "### An imaginary GPU",
        f"{rates.num_simulated} A/A suites of {simulation.num_cases} cases, and {num_power} suites "
        f"for each slow-down, which a tenth of their cases have.",
        _table(rates.simulated),
        "With a base that was measured in another session, half as many suites:",
        _table(rates.stored),
    ]
    if rates.here is not None:
        parts += ["### Measured on the CPU", _place(rates.here), _table(rates.measured)]
        if rates.here.num_power_suites:
            parts += [
                "The same slow-downs as samples multiplied, which have no noise of their own:",
                _table(rates.multiplied),
                "Every case slower, so that the suite has shifted:",
                _table(rates.all_slower),
            ]
    return "\n\n".join(parts) + "\n"


def _place(here: Here) -> str:
    built_in = ", ".join(
        f"{100 * one.level:g} % came to {100 * one.median:.1f} %" for one in here.realized
    )
    few = (
        f"With under {MIN_SUITES} suites this is a first look, too few to say how often a rule is "
        "wrong. "
    )
    return (
        f"{few if here.num_suites < MIN_SUITES else ''}"
        f"{here.num_suites} suites of {here.num_cases} cases, {here.num_power_suites} of them with "
        f"slow-downs of a quarter of the cases at a time; {here.processor}, {here.num_cores} cores "
        "that other programs used as well: the median load was "
        f"{significant(here.median_load, 2)}. A/A estimates of 5 rounds deviate by "
        f"{significant(100 * here.deviation, 2)} % (robust). Slow-downs that were built in: "
        f"{built_in or 'none'}."
    )


def _table(rates: Sequence[ErrorRates]) -> str:
    levels = [one.level for one in rates[0].power]
    names = ["rule", "processes", "false alarms of cases", "of suites"]
    names += [f"finds +{100 * level:g} %" for level in levels]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for one in rates:
        found = {power.level: power.found.value for power in one.power}
        cells = [
            one.rule,
            one.processes,
            counted(one.alarms_per_case),
            counted(one.alarms_per_suite),
            *(f"{100 * found[level]:.0f} %" if level in found else "n/a" for level in levels),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
