"""What the model predicts for a published run from its configuration alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.errors import ChipscaleError
from harness.extrapolate.lookup import Lookup
from harness.extrapolate.memory import memory_use
from harness.extrapolate.project import ModelError, model_error, spread
from harness.extrapolate.search import best_plan
from harness.extrapolate.step import StepModel, StepTime
from harness.projection import PlanChoice
from harness.validation.clusters import cluster_of
from harness.validation.rows import Dropped, PublishedRun
from harness.workload.plan import ParallelSpec
from kernels import registry

DECILE = 1.2816 / 1.6449
"""The model's ends are 5 and 95 % quantiles; those of 10 and 90 % are so much nearer, as natural
logarithms, where errors are normal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A run with its predicted step; times in seconds, and the same in the row's own metric."""

    run: PublishedRun
    step: StepTime
    low_s: float
    """5 % quantile of the step time."""
    high_s: float
    """95 % quantile of the step time."""

    @property
    def error(self) -> float:
        """Predicted over published step time, less one."""
        return self.step.seconds / self.run.step_time_s - 1

    @property
    def is_inside(self) -> bool:
        """The published time is within the 5 to 95 % quantiles."""
        return self.low_s <= self.run.step_time_s <= self.high_s

    def interval_s(self, error: ModelError) -> tuple[float, float]:
        """The interval with another error of the model."""
        low, high = spread(self.step, self.run.num_chips, error)
        return self.step.seconds * low, self.step.seconds * high

    @property
    def predicted(self) -> float:
        """In the row's metric."""
        return self.run.value(self.step.seconds)

    @property
    def deciles(self) -> tuple[float, float]:
        """P10 and P90 in the row's metric, the smaller first."""
        ends = [
            self.run.value(self.step.seconds * (end / self.step.seconds) ** DECILE)
            for end in (self.low_s, self.high_s)
        ]
        return min(ends), max(ends)

    @property
    def metric_error(self) -> float:
        """Predicted over published value, less one, in the row's metric."""
        return self.predicted / self.run.published - 1

    @property
    def is_inside_deciles(self) -> bool:
        """The published value is within P10 to P90."""
        low, high = self.deciles
        return low <= self.run.published <= high

    @property
    def memory_share(self) -> float:
        """Counted bytes of the fullest chip over the memory of the chip it ran on."""
        run = self.run
        used = memory_use(
            run.model, self.step.plan, run.parallel.sequence_length, run.parallel.dtype
        )
        limit = run.chip.memory_bytes
        assert limit is not None
        return used.total_bytes / limit


def predict_all(
    runs: Sequence[PublishedRun],
) -> tuple[list[Prediction], list[Dropped]]:
    """Every run that can be predicted, and the rest with their reasons."""
    lookups: dict[str, Lookup] = {}
    results = [predict(run, lookups) for run in runs]
    return (
        [result for result in results if isinstance(result, Prediction)],
        [result for result in results if isinstance(result, Dropped)],
    )


def predict(run: PublishedRun, lookups: dict[str, Lookup]) -> Prediction | Dropped:
    """The step time of a run from its configuration; its memory is not checked here."""
    lookup = lookups.get(run.chip.name)
    if lookup is None:
        lookup = lookups[run.chip.name] = Lookup(run.chip, registry.cost)
    cluster = cluster_of(run.chip, run.num_chips)
    if cluster is None:
        return Dropped(id=run.id, reason=f"the network of {run.chip.title} is n/a")
    parallel = run.parallel
    steps = StepModel.of(run.model, cluster, lookup, parallel)
    steps.is_sequence_parallel = run.is_sequence_parallel
    steps.is_attention_fused = run.is_attention_fused
    degrees = (parallel.tensor or 1) * (parallel.pipeline or 1) * (parallel.context or 1)
    data = parallel.data or run.num_chips // degrees
    try:
        step = _fixed_step(steps, parallel, data)
        if step is None:
            found = best_plan(steps, replace(parallel, data=data), run.num_chips, math.inf)
            if found is None:
                return Dropped(id=run.id, reason="no plan has the degrees that the row gives")
            step = found.step
    except ChipscaleError as error:
        return Dropped(id=run.id, reason=str(error))
    low, high = spread(step, run.num_chips, model_error(run.model))
    return Prediction(run=run, step=step, low_s=step.seconds * low, high_s=step.seconds * high)


def _fixed_step(steps: StepModel, parallel: ParallelSpec, data: int) -> StepTime | None:
    """The step where the row fixes the whole plan, else None."""
    size = parallel.microbatch_size
    if size is None or parallel.virtual_stages is None:
        return None
    m = max(1, round(parallel.global_batch_sequences / (data * size)))
    return steps.step(
        PlanChoice(
            tensor=parallel.tensor or 1,
            pipeline=parallel.pipeline or 1,
            data=data,
            expert=parallel.expert or 1,
            context=parallel.context or 1,
            virtual_stages=parallel.virtual_stages,
            microbatch_size=size,
            num_microbatches=m,
            zero_stage=parallel.zero_stage if parallel.zero_stage is not None else 1,
            recompute=parallel.recompute or "none",
            schedule=parallel.schedule or "1f1b",
            layers_per_stage=parallel.layers_per_stage,
        )
    )
