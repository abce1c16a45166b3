"""FigurePrediction: a published figure with what the model says of it."""

from dataclasses import dataclass

from harness.validation.rows import PublishedFigure


@dataclass(frozen=True, slots=True, kw_only=True)
class FigurePrediction:
    """A published figure with what the model says of it, in the row's metric."""

    figure: PublishedFigure
    predicted: float
    low: float
    """P10."""
    high: float
    """P90."""

    @property
    def id(self) -> str:
        """The row's."""
        return self.figure.id

    @property
    def family(self) -> str:
        """The source, and what is published, as `torchtitan peak_memory_gib`."""
        return f"{self.figure.family} {self.figure.metric}"

    @property
    def metric(self) -> str:
        """The row's."""
        return self.figure.metric

    @property
    def published(self) -> float:
        """The row's value."""
        return self.figure.published

    @property
    def metric_error(self) -> float:
        """Predicted over published value, less one."""
        return self.predicted / self.figure.published - 1

    @property
    def deciles(self) -> tuple[float, float]:
        """P10 and P90."""
        return self.low, self.high

    @property
    def is_inside_deciles(self) -> bool:
        """The published value is within P10 to P90."""
        return self.low <= self.figure.published <= self.high
