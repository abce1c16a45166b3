"""A table held against the model: predictions of steps, of other figures, and rows of neither."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.extrapolate.calibration import Calibration
from harness.validation.figure_prediction import FigurePrediction
from harness.validation.figures import predict_figures
from harness.validation.predict import Prediction, Predictor
from harness.validation.rows import Dropped, PublishedFigure, PublishedRun, read_rows


class Predicted(Protocol):
    """A published value with what the model says of it, in the row's metric."""

    @property
    def id(self) -> str: ...  # noqa: D102 - as in Prediction, and the same below
    @property
    def family(self) -> str: ...  # noqa: D102
    @property
    def metric(self) -> str: ...  # noqa: D102
    @property
    def published(self) -> float: ...  # noqa: D102
    @property
    def predicted(self) -> float: ...  # noqa: D102
    @property
    def deciles(self) -> tuple[float, float]: ...  # noqa: D102
    @property
    def metric_error(self) -> float: ...  # noqa: D102
    @property
    def is_inside_deciles(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All rows of a table."""

    steps: list[Prediction]
    """Rows whose metric follows from the time of a step."""
    figures: list[FigurePrediction]
    """Rows of another metric."""
    dropped: list[Dropped]

    @property
    def predicted(self) -> Iterator[Predicted]:
        """All that are predicted."""
        yield from self.steps
        yield from self.figures

    @property
    def num_predicted(self) -> int:
        """Rows that are predicted."""
        return len(self.steps) + len(self.figures)

    @property
    def num_rows(self) -> int:
        """Rows of the table."""
        return self.num_predicted + len(self.dropped)


def validate(path: Path, calibration: Calibration) -> Outcome:
    """Read and predict every row of a table.

    Raises:
        RecordError: when there is no such table, or it lacks a column.
    """
    read = read_rows(path)
    steps, not_stepped = Predictor(calibration).predict_all(
        [row for row in read if isinstance(row, PublishedRun)]
    )
    figures, not_figured = predict_figures(
        (row for row in read if isinstance(row, PublishedFigure)), calibration
    )
    dropped = [row for row in read if isinstance(row, Dropped)]
    return Outcome(steps=steps, figures=figures, dropped=[*dropped, *not_stepped, *not_figured])
