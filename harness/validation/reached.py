"""The errors that are reached, as a table for other programs: `configs/validation/reached.csv`.

`make docs` writes it, and tests hold the model to it.
"""

import csv
import io
from collections.abc import Collection, Iterator

from harness.validation.outcome import Outcome
from harness.validation.render import by_source
from harness.validation.summary import FamilyError, by_family

COLUMNS = ("source", "rows", "median", "mean", "bias", "worst", "inside_p10_p90", "held_out")
ALL = "all"
ALL_HELD_OUT = "all held out"


def reached_csv(outcome: Outcome, held_out: Collection[str]) -> str:
    """Errors as shares: of the step time by source and of all, then of other figures by source."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in _errors(outcome, held_out):
        shares = (one.median, one.mape, one.bias, one.worst, one.coverage)
        mark = "yes" if one.family in {*held_out, ALL_HELD_OUT} else "no"
        writer.writerow((one.family, one.num_runs, *(f"{share:.4f}" for share in shares), mark))
    return text.getvalue()


def _errors(outcome: Outcome, held_out: Collection[str]) -> Iterator[FamilyError]:
    if outcome.steps:
        yield from by_family(outcome.steps)
    outside = [one for one in outcome.steps if one.family in held_out]
    if outside:
        yield FamilyError.of(ALL_HELD_OUT, outside)
    for name, group in by_source(outcome.figures).items():
        yield FamilyError.of_values(name, group)
