"""How far off the predictions are: by source, of all together, and by each other source's error."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, median

import numpy as np

from harness.extrapolate.project import ModelError
from harness.validation.predict import Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyError:
    """How far off the predictions of one source are."""

    family: str
    num_runs: int
    mape: float
    bias: float
    worst: float
    coverage: float
    median: float
    """Of the absolute errors."""

    @classmethod
    def of(cls, name: str, predictions: Sequence[Prediction]) -> "FamilyError":
        """The errors of one or more predictions under that name."""
        errors = [prediction.error for prediction in predictions]
        return cls(
            family=name,
            num_runs=len(errors),
            mape=mean(abs(error) for error in errors),
            bias=mean(errors),
            worst=max(errors, key=abs),
            coverage=mean(float(prediction.is_inside) for prediction in predictions),
            median=median(abs(error) for error in errors),
        )


def by_family(
    predictions: Sequence[Prediction], key: Callable[[Prediction], str] | None = None
) -> list[FamilyError]:
    """Errors by source, and of all together at the end."""
    groups: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        name = prediction.run.family if key is None else key(prediction)
        groups.setdefault(name, []).append(prediction)
    found = [FamilyError.of(name, group) for name, group in sorted(groups.items())]
    return [*found, FamilyError.of("all", predictions)]


def held_out_coverage(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Share of each source's runs inside the band that all other sources alone would give.

    The band is the 5 to 95 % quantiles of ln(published / predicted); a source that is unlike all
    others falls out of it, which the model's own interval would not show.
    """
    residuals: dict[str, list[float]] = {}
    for prediction in predictions:
        ratio = prediction.run.step_time_s / prediction.step.seconds
        residuals.setdefault(prediction.run.family, []).append(math.log(ratio))
    found = {}
    for name, own in residuals.items():
        others = [r for other, values in residuals.items() if other != name for r in values]
        low, high = np.quantile(others, [0.05, 0.95])
        found[name] = mean(float(low <= r <= high) for r in own)
    return found


def held_out_intervals(
    predictions: Sequence[Prediction],
) -> dict[str, list[tuple[float, float, float]]]:
    """Of each source's runs the interval that the other sources give, and the published time.

    The model's error is the 5 and 95 % quantiles of the other sources' residuals, as it is of all
    of them in the model itself.
    """
    found = {}
    for name in sorted({prediction.run.family for prediction in predictions}):
        others = [
            math.log(p.run.step_time_s / p.step.seconds)
            for p in predictions
            if p.run.family != name
        ]
        low, high = np.quantile(others, [0.05, 0.95])
        error = ModelError(faster=max(0.0, -float(low)), slower=max(0.0, float(high)))
        found[name] = [
            (*p.interval_s(error), p.run.step_time_s) for p in predictions if p.run.family == name
        ]
    return found
