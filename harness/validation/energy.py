"""What the model says of the energy of a published run: power of its machines over its time."""

from harness.extrapolate.calibration import Calibration
from harness.extrapolate.power import training_energy_kwh
from harness.validation.cells import UnusableRowError
from harness.validation.clusters import cluster_of
from harness.validation.convergence import benchmark_of
from harness.validation.figure_prediction import FigurePrediction
from harness.validation.metrics import Scale
from harness.validation.predict import Prediction, Predictor
from harness.validation.published_models import file_of
from harness.validation.rows import Configuration, PublishedFigure, PublishedRun, configuration

POWER_SPREAD = 1.12
"""Ratio within which the power of 80 % of machines is taken to be: two checks of the model against
meters are 6 % too high and 14 % too low (docs/extrapolation.md, At scale)."""


def run_energy(figure: PublishedFigure, calibration: Calibration) -> FigurePrediction:
    """KWh of a benchmark's run, from its start to the target, of machines and networks.

    Raises:
        UnusableRowError: when its convergence, its plan or its power is not known.
    """
    config = configuration(figure.row)
    benchmark = benchmark_of(figure.row["source"], file_of(figure.row) or "")
    if benchmark is None:
        raise UnusableRowError(f"energy_kwh of {config.model.title}: its convergence is not known")
    run = PublishedRun(
        **{name: getattr(config, name) for name in Configuration.__dataclass_fields__},
        id=figure.id,
        family=figure.family,
        metric=figure.metric,
        published=figure.published,
        scale=Scale(factor=1.0, is_rate=False),
    )
    predictor = Predictor(calibration)
    found = predictor.predict(run)
    cluster = cluster_of(run.chip, run.num_chips)
    if not isinstance(found, Prediction) or cluster is None:
        raise UnusableRowError(f"energy_kwh of {config.model.title}: its step is not predicted")
    num_steps = benchmark.steps_to_train(run.parallel.global_batch_sequences)
    energy = training_energy_kwh(
        predictor.steps(run, cluster),
        found.step.plan,
        run.chip,
        step_s=found.step.seconds,
        seconds=num_steps * found.step.seconds,
    )
    if energy is None:
        raise UnusableRowError(f"energy_kwh of {run.chip.title}: its power is n/a")
    low, high = found.low_s / found.step.seconds, found.high_s / found.step.seconds
    return FigurePrediction(
        figure=figure,
        predicted=energy,
        low=energy * low / POWER_SPREAD,
        high=energy * high * POWER_SPREAD,
    )
