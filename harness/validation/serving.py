"""What the model says of published rates of serving, in tokens/s of a chip or of a node."""

from harness.errors import ChipscaleError
from harness.extrapolate.calibration import Calibration
from harness.extrapolate.serving.published import (
    DEPLOYED_EXPERT,
    ServingRate,
    predict_published,
)
from harness.validation.cells import UnusableRowError, whole
from harness.validation.clusters import chip_titled, cluster_of
from harness.validation.figure_prediction import FigurePrediction
from harness.validation.published_models import model_of
from harness.validation.rows import PublishedFigure


def serving_rate(figure: PublishedFigure, calibration: Calibration) -> FigurePrediction:
    """The rate of the plan that the row gives.

    Raises:
        UnusableRowError: when chip, network or a rate is not known, or the plan has no room.
    """
    try:
        rate = _rate(figure)
    except ChipscaleError as error:
        raise UnusableRowError(str(error)) from None
    return FigurePrediction(figure=figure, predicted=rate.value, low=rate.low, high=rate.high)


def _rate(figure: PublishedFigure) -> ServingRate:
    row = figure.row
    chip = chip_titled(row["chip"])
    if chip is None:
        raise UnusableRowError(f"chip {row['chip']} has no data sheet in configs/chip")
    expert, tensor, stages = whole(row, "ep"), whole(row, "tp"), whole(row, "pp")
    # A row may count the chips of a node; those that share the experts are joined all the same.
    joined = max(whole(row, "chips") or 1, expert or max(DEPLOYED_EXPERT.values()))
    cluster = cluster_of(chip, joined)
    if cluster is None:
        raise UnusableRowError(f"the network of {chip.title} is n/a")
    return predict_published(
        row_id=row["id"],
        metric=figure.metric,
        notes=row["notes"],
        precision=row["precision"],
        expert=expert,
        tensor=tensor,
        pipeline=stages,
        length=whole(row, "seq_len"),
        chip=chip,
        cluster=cluster,
        model=model_of(row),
    )
