"""What the model says of published figures other than the time of a step.

A metric has a predictor in FIGURES; a new one is a line there.
"""

import re
from collections.abc import Callable, Iterable

from harness.config.specs import load_cluster
from harness.extrapolate.calibration import Calibration
from harness.extrapolate.goodput import goodput_share
from harness.extrapolate.serving.published import METRICS
from harness.units import GIBI
from harness.validation.allocated import peak_bytes
from harness.validation.cells import UnusableRowError, given
from harness.validation.clusters import TYPICAL
from harness.validation.energy import run_energy
from harness.validation.figure_prediction import FigurePrediction
from harness.validation.predict import plan_of
from harness.validation.rows import Dropped, PublishedFigure, configuration
from harness.validation.serving import serving_rate

DECILE = 1.2816 / 1.6449
"""Standard deviations of P10 over those of the 5 % quantile, where errors are normal."""
MEMORY_SPREAD = 1.15
"""Ratio within which the counted memory of 90 % of runs is taken to be; assumed. What a framework
frees early or keeps twice is not counted."""
FAILURE_SPREAD = 2.0
"""Ratio within which the failures of a chip are taken to be between operators; assumed, 90 %."""


def predict_figures(
    figures: Iterable[PublishedFigure], calibration: Calibration
) -> tuple[list[FigurePrediction], list[Dropped]]:
    """Every figure that the model says something of, and the rest with their reasons."""
    results = [predict_figure(figure, calibration) for figure in figures]
    return (
        [result for result in results if isinstance(result, FigurePrediction)],
        [result for result in results if isinstance(result, Dropped)],
    )


def predict_figure(figure: PublishedFigure, calibration: Calibration) -> FigurePrediction | Dropped:
    """What the model says of the figure, or why it says nothing."""
    predictor = FIGURES.get(figure.metric)
    if predictor is None:
        why = next((told for name, told in REASONS if name in figure.metric), "is not predicted")
        return Dropped(id=figure.id, reason=f"metric {figure.metric} {why}")
    try:
        return predictor(figure, calibration)
    except UnusableRowError as error:
        return Dropped(id=figure.id, reason=str(error))
    except (ValueError, ZeroDivisionError) as error:
        return Dropped(id=figure.id, reason=f"a number cannot be read: {error}")


def _peak_memory(figure: PublishedFigure, calibration: Calibration) -> FigurePrediction:
    """GiB of the fullest chip as its framework's allocator reports them.

    A source that says `max allocated` counts tensors alone, any other what is reserved for them.
    """
    config = configuration(figure.row)
    plan = plan_of(config)
    if plan is None:
        raise UnusableRowError("peak memory of a plan that the row does not give whole")
    is_allocated = "max allocated" in figure.row["notes"]
    gib = peak_bytes(config, plan, is_reserved=not is_allocated) / GIBI
    spread = MEMORY_SPREAD**DECILE
    return FigurePrediction(figure=figure, predicted=gib, low=gib / spread, high=gib * spread)


def _goodput(figure: PublishedFigure, calibration: Calibration) -> FigurePrediction:
    """Percent of the time that trains, at the best checkpoint interval.

    Failures and restarts are those of the typical cluster, but for a mean time between
    interruptions that the notes state.
    """
    chips = given(figure.row, "chips")
    if "manual restart" in figure.row["notes"]:
        raise UnusableRowError("goodput with people in the loop, whose time is not modelled")
    typical = load_cluster(TYPICAL).reliability
    stated = re.search(r"\b(?:JMTTI|MTTI|MTBF) ([\d.]+) ?h", figure.row["notes"])
    if stated is not None:
        typical = typical.with_mtbf_hours_per_chip(float(stated[1]) * chips)

    def percent(failures: float) -> float:
        rate = typical.mtbf_hours_per_chip / failures
        return 100 * goodput_share(typical.with_mtbf_hours_per_chip(rate), chips)

    spread = FAILURE_SPREAD**DECILE
    return FigurePrediction(
        figure=figure, predicted=percent(1.0), low=percent(spread), high=percent(1 / spread)
    )


FIGURES: dict[str, Callable[[PublishedFigure, Calibration], FigurePrediction]] = {
    **dict.fromkeys(METRICS, serving_rate),
    "peak_memory_gib": _peak_memory,
    "goodput_pct": _goodput,
    "energy_kwh": run_energy,
}
"""Metrics other than those of a step, by their name in a row, with what predicts them."""
REASONS = (
    ("scaling_eff", "compares two sizes, and its row tells one"),
    ("interruptions", "is where the failures of the typical cluster are taken from"),
)
"""Why metrics with this in their name have no predictor."""
