"""`docs/validation.md`: the model held against published runs; `make docs` writes it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.extrapolate.calibration import (
    ALL_KINDS,
    ALL_SOFTWARE,
    Calibrated,
    LeftOutError,
)
from harness.extrapolate.constants import NAMES, PRIOR, SCOPES, SOURCES, SPREADS
from harness.units import significant
from harness.validation.calibrate import kind_of
from harness.validation.outcome import Outcome
from harness.validation.predict import Prediction
from harness.validation.reached import ALL_HELD_OUT
from harness.validation.reasons import reasons as reasons_of
from harness.validation.render import YARDSTICKS, figures_markdown, markdown, reasons
from harness.validation.summary import FamilyError, by_family

NUM_WORST = 10

HEAD = """\
# Validation

Made by `make docs` (`chipscale validate format=page`) from `configs/validation/` and
`configs/calibration/`; the tests hold it to them. `chipscale validate html=FILE` draws it.

## What is checked, and how

Every row of `configs/validation/published_runs.csv` is a published run with its chip, its number of
chips, its model, its plan and one figure. The model is asked for that figure from the rest of the
row alone: chips are their data sheets, no kernel is measured, the plan is the row's, and what the
row leaves open is read from its recipe or its framework, else searched
([extrapolation.md](extrapolation.md#against-published-runs)). Errors are of the step time:
predicted over published, less one; below zero the model is too fast. "In P10-P90" is the share of
the rows whose published value is inside the interval of their own prediction, 80 % where intervals
are right.

The constants of a chip and of a generation of software are fitted to these runs, each held near its
prior from the literature; none belongs to a single row. The errors by source are therefore of runs
that took part, but for sources that are marked as held out. How far off runs are that took no part
is told by the errors of runs left out: all of one source, model and chip at once, with the
constants as they would be without them. A prediction for a run that nobody has published is to be
expected as far off as those, and its P10 and P90 are made from them.
"""

NOT_CHECKED = """\
- More chips than {largest:,} ({id}, {title}); the interval grows with each doubling beyond.
- Chips of which no run is published here: {chips}. Their constants are priors.
- Goodput, power and cost beyond the few figures above.
- Convergence: a batch this large is taken to train as well per token.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """The calibration as the repository has it."""

    values: Mapping[tuple[str, str], Calibrated]
    runs_of_constants: Mapping[tuple[str, str], int]
    runs_of_residuals: Mapping[tuple[str, str], int]
    left_out: Mapping[tuple[str, str], LeftOutError]
    held_out: frozenset[str]
    """Sources that took no part."""
    chips: Sequence[str]
    """All that have a data sheet."""


def page(outcome: Outcome, shipped: Shipped) -> str:
    """The page, in Markdown."""
    sections = (
        HEAD,
        _overall(outcome, shipped),
        "## By source\n\n" + _held_out_text(shipped) + markdown(outcome.steps, shipped.held_out),
        _yardsticks(outcome),
        _by_software(outcome, shipped),
        _left_out(shipped),
        "## Other figures than the time of a step\n\nEach in its own unit.\n\n"
        + figures_markdown(outcome.figures),
        _worst(outcome, shipped),
        _dropped(outcome),
        _constants(shipped),
        "## What is not checked\n\n" + _not_checked(outcome, shipped),
    )
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


ERROR_HEADS = ("runs", "median", "mean", "worst", "bias", "in P10-P90")


def _error_cells(one: FamilyError) -> tuple[str, ...]:
    return (
        str(one.num_runs),
        f"{one.median:.1%}",
        f"{one.mape:.1%}",
        f"{one.worst:+.1%}",
        f"{one.bias:+.1%}",
        f"{one.coverage:.0%}",
    )


def _overall(outcome: Outcome, shipped: Shipped) -> str:
    steps = outcome.steps
    groups = [("all steps", steps)]
    outside = [one for one in steps if one.family in shipped.held_out]
    if outside:
        groups += [
            ("of sources that took part", [one for one in steps if one not in outside]),
            (ALL_HELD_OUT, outside),
        ]
    groups += [
        ("more than 1,000 chips", [one for one in steps if one.run.num_chips > 1000]),
        ("dense", [one for one in steps if one.run.model.experts is None]),
        ("with experts", [one for one in steps if one.run.model.experts is not None]),
    ]
    rows = [(name, *_error_cells(FamilyError.of(name, group))) for name, group in groups if group]
    predicted = list(outcome.predicted)
    every = FamilyError.of_values("all rows, in their own metric", predicted)
    rows.append((every.family, *_error_cells(every)))
    used = outcome.num_predicted / outcome.num_rows
    left = shipped.left_out.get((ALL_SOFTWARE, ALL_KINDS))
    text = (
        f"{outcome.num_predicted} of {outcome.num_rows} rows are predicted ({used:.1%}), "
        f"{len(steps)} of them as steps; {len(outcome.dropped)} are not, "
        "[each with its reason](#rows-that-are-not-predicted)."
    )
    if left is not None:
        text += (
            f" Runs left out of the fit are {left.median:.1%} off in the median and "
            f"{left.mean:.1%} in the mean."
        )
    return f"## All together\n\n{text}\n\n" + _table(("rows", *ERROR_HEADS), rows)


def _held_out_text(shipped: Shipped) -> str:
    if not shipped.held_out:
        return "No source is held out of the fit as a whole.\n\n"
    names = ", ".join(sorted(shipped.held_out))
    return f"Held out, and so no part of the fit: {names}.\n\n"


def _yardsticks(outcome: Outcome) -> str:
    errors = {one.family: one for one in by_family(outcome.steps)}
    rows = [
        (name, f"{100 * errors[name].mape:.1f}", *(part.strip() for part in text.split("/")))
        for name, text in YARDSTICKS.items()
        if name in errors
    ]
    return (
        "## Other models on the same sources\n\n"
        "Mean absolute error in %: one rate fitted to each source, in sample; Calculon (Isaev et "
        "al., SC23), which is not fitted. Both are of a larger collection of the same sources. The "
        "constants here are fitted too, but to all sources at once.\n\n"
        + _table(("source", "here", "one fitted rate", "Calculon"), rows)
    )


def _by_software(outcome: Outcome, shipped: Shipped) -> str:
    def key(one: Prediction) -> str:
        return f"{one.run.software} | {kind_of(one.run)}"

    rows = []
    for one in by_family(outcome.steps, key)[:-1]:
        software, kind = one.family.split(" | ")
        left = shipped.left_out.get((software, kind))
        cells = ("-", "-") if left is None else (f"{left.median:.1%}", f"{left.mean:.1%}")
        rows.append((software, kind, *_error_cells(one), *cells))
    heads = ("software", "kind", *ERROR_HEADS, "left out, median", "left out, mean")
    return (
        "## By generation of software and kind of model\n\n"
        "Left out: the errors of the same runs where like ones took no part in the fit; - where no "
        "such run did. `harness/validation/software.py` says which source is of which "
        "generation.\n\n" + _table(heads, rows)
    )


def _left_out(shipped: Shipped) -> str:
    rows = [
        (kind, str(one.num_runs), f"{one.median:.1%}", f"{one.mean:.1%}", f"{one.bias:+.1%}")
        for (software, kind), one in sorted(shipped.left_out.items())
        if software == ALL_SOFTWARE
    ]
    return (
        "## Runs left out of the fit\n\n"
        "Each run with all of its source, model, chip and type left out, to first order "
        "(`harness/validation/calibrate.py`).\n\n"
        + _table(("kind", "runs", "median", "mean", "bias"), rows)
    )


def _worst(outcome: Outcome, shipped: Shipped) -> str:
    worst = sorted(outcome.steps, key=lambda one: -abs(one.error))[:NUM_WORST]
    rows = [
        (
            one.id,
            f"{one.run.model.name} on {one.run.num_chips} {one.run.chip.name}",
            one.run.software,
            f"{one.error:+.1%}",
            "yes" if one.is_inside_deciles else "no",
            "; ".join(reasons_of(one, outcome.steps, shipped.runs_of_residuals)) or "not known",
        )
        for one in worst
    ]
    return (
        f"## The worst {len(rows)} rows\n\n"
        "With what the rows, the plan and the calibration tell of why; that it is the cause is not "
        "proven.\n\n"
        + _table(("row", "run", "software", "error", "in P10-P90", "what may explain it"), rows)
    )


def _dropped(outcome: Outcome) -> str:
    rows = [(str(count), reason.replace("|", "/")) for reason, count in reasons(outcome.dropped)]
    return "## Rows that are not predicted\n\n" + _table(("rows", "reason"), rows)


def _constants(shipped: Shipped) -> str:
    priors = (
        (
            f"`{name}`",
            significant(getattr(PRIOR, name)),
            significant(SPREADS[name]),
            str(SCOPES[name]),
            SOURCES[name],
        )
        for name in NAMES
    )
    return (
        "## The calibration\n\n"
        "Each constant has a prior, and a ratio either way within which it is expected to be at "
        "90 %:\n\n"
        + _table(("constant", "prior", "90 % ratio", "one for each", "source"), priors)
        + "\n\nAs the runs have them, with the ratio that is left and the runs that a value has an "
        "effect on. Few runs leave a value near its prior and its ratio as wide.\n\n"
        + _table(("constant", "of", "value", "prior", "90 % ratio", "runs"), _values(shipped))
    )


def _values(shipped: Shipped) -> Iterator[tuple[str, ...]]:
    for (name, of), one in sorted(shipped.values.items()):
        yield (
            f"`{name}`",
            of or "all",
            significant(one.value),
            significant(getattr(PRIOR, name)),
            significant(one.spread),
            str(shipped.runs_of_constants[name, of]),
        )


def _not_checked(outcome: Outcome, shipped: Shipped) -> str:
    largest = max(outcome.steps, key=lambda one: one.run.num_chips)
    known = {one.run.chip.name for one in outcome.steps}
    without = [name for name in shipped.chips if name not in known]
    return NOT_CHECKED.format(
        largest=largest.run.num_chips,
        id=largest.id,
        title=largest.run.model.name,
        chips=", ".join(without),
    )
