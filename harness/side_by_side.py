"""Projections side by side: what each pair of a model and a cluster gives, as data to compare."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.projection import Interval, Projection, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The numbers of one projection that are compared."""

    chip: str
    num_chips: int
    plan: str
    """Label of the parallel plan; of a mixed cluster that of its slowest island."""
    held_back_by: str
    """The largest part of the step beside computation; empty where none is known."""
    tokens_per_second: Interval
    mfu: float | None
    goodput: float
    useful_tokens_per_second: Interval
    """Throughput times goodput; without an interval of the goodput its ends are the throughput's
    times the goodput."""
    site_w: float | None
    joules_per_token: float | None
    currency: str
    cost_per_million_tokens: float | None
    price_basis: str
    """Where the price of a chip is from, in a sentence; empty where the cluster has none."""
    batch_share: float | None
    """Progress per token over that of a small batch; None where no critical size is known."""
    source_share: tuple[tuple[Source, float], ...]
    """Share of the compute time that comes from each source."""
    uncalibrated: tuple[str, ...]
    """Chips whose rates no published run calibrates."""
    is_software_calibrated: bool
    """Published runs of that software and kind of model calibrate its constants."""
    of_best: Interval
    """Tokens per second over those of the model's best cluster, by useful tokens per second; 1 for
    that one itself. Inputs that both share move both."""
    has_common_draws: bool
    """False where the interval of the ratio takes the two for independent."""

    @property
    def measured_share(self) -> float:
        """Of the compute time, what was measured for this very problem."""
        return dict(self.source_share).get(Source.MEASURED, 0.0)

    @property
    def is_told_apart(self) -> bool:
        """The interval of the ratio to the best leaves out 1."""
        return self.of_best.high < 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A model on a cluster, with its outcome or the reason why there is none."""

    model: str
    cluster: str
    folder: str = ""
    """Of the whole projection, below the folder of projections."""
    outcome: Outcome | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """All pairs, clusters of one model together, in the order that they were asked for."""

    pairs: tuple[Pair, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """Each model once."""
        return tuple(dict.fromkeys(pair.model for pair in self.pairs))

    def of(self, model: str) -> tuple[Pair, ...]:
        """The pairs of that model."""
        return tuple(pair for pair in self.pairs if pair.model == model)

    @property
    def num_failed(self) -> int:
        """Pairs without an outcome."""
        return sum(pair.outcome is None for pair in self.pairs)


def useful(projection: Projection) -> Interval:
    """Throughput times goodput, with the interval of both where that of the goodput is known."""
    point = projection.headline
    known = point.useful_tokens_per_second_interval
    if known is not None:
        return known
    tokens = point.tokens_per_second
    return Interval(
        value=tokens.value * point.goodput,
        low=tokens.low * point.goodput,
        high=tokens.high * point.goodput,
    )


def best_of(pairs: Sequence[Pair]) -> Pair | None:
    """The pair with the most useful tokens per second; None where all failed."""
    return max(
        (pair for pair in pairs if pair.outcome is not None),
        key=lambda pair: pair.outcome.useful_tokens_per_second.value if pair.outcome else 0.0,
        default=None,
    )
