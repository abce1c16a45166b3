"""How far off the predictions of steps are: by source, and of all together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, median

from harness.validation.outcome import Predicted
from harness.validation.predict import Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyError:
    """How far off predictions of one source are, as shares of the step time or other figure."""

    family: str
    num_runs: int
    mape: float
    bias: float
    worst: float
    coverage: float
    """Share of the runs inside P10 to P90."""
    median: float
    """Of the absolute errors."""

    @classmethod
    def of(cls, name: str, predictions: Sequence[Prediction]) -> "FamilyError":
        """The errors of one or more predictions under that name."""
        return cls._of(name, [one.error for one in predictions], predictions)

    @classmethod
    def of_values(cls, name: str, predicted: Sequence[Predicted]) -> "FamilyError":
        """The same of what each row publishes, whatever its metric."""
        return cls._of(name, [one.metric_error for one in predicted], predicted)

    @classmethod
    def _of(
        cls, name: str, errors: Sequence[float], predicted: Sequence[Predicted]
    ) -> "FamilyError":
        return cls(
            family=name,
            num_runs=len(errors),
            mape=mean(abs(error) for error in errors),
            bias=mean(errors),
            worst=max(errors, key=abs),
            coverage=mean(float(one.is_inside_deciles) for one in predicted),
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
