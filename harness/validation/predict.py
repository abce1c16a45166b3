"""What the model predicts for a published run from its configuration alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.errors import ChipscaleError
from harness.extrapolate.calibration import Calibration
from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.constants import Constants
from harness.extrapolate.lookup import Lookup
from harness.extrapolate.memory import memory_use
from harness.extrapolate.plan_step import StepTime, step_time
from harness.extrapolate.search import best_plan
from harness.extrapolate.step import StepModel
from harness.extrapolate.uncertainty import uncertainty
from harness.projection import PlanChoice
from harness.validation.clusters import cluster_of
from harness.validation.rows import Configuration, Dropped, PublishedRun
from harness.validation.software import CUTS_EXPERTS, MERGES_COPIES
from harness.workload.cost import step_cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A run with its predicted step; times in seconds, and the same in the row's own metric."""

    run: PublishedRun
    step: StepTime
    low_s: float
    """P10 of the step time."""
    high_s: float
    """P90 of the step time."""

    @property
    def id(self) -> str:
        """The row's."""
        return self.run.id

    @property
    def family(self) -> str:
        """The source."""
        return self.run.family

    @property
    def metric(self) -> str:
        """The row's."""
        return self.run.metric

    @property
    def published(self) -> float:
        """The row's value."""
        return self.run.published

    @property
    def error(self) -> float:
        """Predicted over published step time, less one."""
        return self.step.seconds / self.run.step_time_s - 1

    @property
    def predicted(self) -> float:
        """In the row's metric."""
        return self.run.value(self.step.seconds)

    @property
    def deciles(self) -> tuple[float, float]:
        """P10 and P90 in the row's metric, the smaller first."""
        ends = self.run.value(self.low_s), self.run.value(self.high_s)
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


@dataclass(slots=True)
class Predictor:
    """Predictions under one calibration; a chip's times are looked up once per constants."""

    calibration: Calibration
    _lookups: dict[tuple[str, Constants], Lookup] = field(default_factory=dict)

    def predict_all(self, runs: Sequence[PublishedRun]) -> tuple[list[Prediction], list[Dropped]]:
        """Every run that can be predicted, and the rest with their reasons."""
        results = [self.predict(run) for run in runs]
        return (
            [result for result in results if isinstance(result, Prediction)],
            [result for result in results if isinstance(result, Dropped)],
        )

    def predict(self, run: PublishedRun) -> Prediction | Dropped:
        """The step time of a run from its configuration; its memory is not checked here."""
        cluster = cluster_of(run.chip, run.num_chips)
        if cluster is None:
            return Dropped(id=run.id, reason=f"the network of {run.chip.title} is n/a")
        try:
            steps = self.steps(run, cluster)
            plan = plan_of(run)
            step = step_time(steps, plan) if plan is not None else _searched(steps, run)
        except ChipscaleError as error:
            return Dropped(id=run.id, reason=str(error))
        if step is None:
            return Dropped(id=run.id, reason="no plan has the degrees that the row gives")
        low_s, high_s = self._deciles(run, steps, step)
        return Prediction(run=run, step=step, low_s=low_s, high_s=high_s)

    def steps(self, run: PublishedRun, cluster: ClusterSpec) -> StepModel:
        """The step model of a run on that cluster."""
        constants = self.calibration.constants(run.chip.name, run.software)
        key = (run.chip.name, constants)
        lookup = self._lookups.get(key)
        if lookup is None:
            lookup = self._lookups[key] = Lookup(run.chip, step_cost, constants=constants)
        steps = StepModel.of(run.model, cluster, lookup, run.parallel)
        steps.is_sequence_parallel = run.is_sequence_parallel
        steps.is_attention_fused = run.is_attention_fused
        steps.are_weights_trained = run.are_weights_trained
        steps.are_experts_cut = run.software in CUTS_EXPERTS
        steps.are_copies_merged = run.software in MERGES_COPIES
        return steps

    def _deciles(self, run: PublishedRun, steps: StepModel, step: StepTime) -> tuple[float, float]:
        """P10 and P90 of the step.

        Of calibrated software they are those of like runs left out, which hold the error of the
        constants as well; else the constants are drawn from their priors too.
        """
        has_experts = run.model.experts is not None
        residual = self.calibration.residual(run.software, has_experts)
        if self.calibration.is_calibrated(run.software, has_experts):
            return step.seconds * residual.low, step.seconds * residual.high
        spreads = self.calibration.spreads(run.chip.name, run.software)
        drawn = uncertainty(steps, step.plan, spreads, residual, NUM_DRAWS)
        low_s, _, high_s = drawn.quantiles(drawn.seconds)
        return low_s, high_s


def seconds_of_plans(
    runs: Sequence[PublishedRun], plans: Mapping[str, PlanChoice], calibration: Calibration
) -> list[float]:
    """The step times of runs with these plans, by id, in seconds, under any calibration."""
    predictor, found = Predictor(calibration), []
    for run in runs:
        cluster = cluster_of(run.chip, run.num_chips)
        assert cluster is not None, "a run that can be predicted has a network"
        found.append(step_time(predictor.steps(run, cluster), plans[run.id]).seconds)
    return found


NUM_DRAWS = 256
"""For P10 and P90 of one of many runs, to about 2 %."""


def _searched(steps: StepModel, run: Configuration) -> StepTime | None:
    """The step of the best plan with what the row fixes.

    A row that gives its degrees ran with them, whatever we count; one that does not had a plan
    that fits.
    """
    parallel, limit = run.parallel, run.chip.memory_bytes or math.inf
    if parallel.tensor is not None and parallel.pipeline is not None:
        parallel, limit = replace(parallel, data=_data(run)), math.inf
    # Rows tell neither groups that share states nor how a sequence is exchanged: all chips share,
    # and keys and values are gathered, as the model's error was found.
    parallel = replace(
        parallel,
        shard_group=parallel.shard_group or 0,
        context_exchange=parallel.context_exchange or "gather",
    )
    found = best_plan(steps, parallel, run.num_chips, limit)
    return None if found is None else found.step


def _data(run: Configuration) -> int:
    parallel = run.parallel
    degrees = (parallel.tensor or 1) * (parallel.pipeline or 1) * (parallel.context or 1)
    return parallel.data or run.num_chips // degrees


def plan_of(run: Configuration) -> PlanChoice | None:
    """The plan where the row fixes all of it, else None."""
    parallel, size = run.parallel, run.parallel.microbatch_size
    if size is None or None in (parallel.tensor, parallel.pipeline, parallel.virtual_stages):
        return None
    data = _data(run)
    return PlanChoice(
        tensor=parallel.tensor or 1,
        pipeline=parallel.pipeline or 1,
        data=data,
        expert=parallel.expert or 1,
        context=parallel.context or 1,
        virtual_stages=parallel.virtual_stages or 1,
        microbatch_size=size,
        num_microbatches=max(1, round(parallel.global_batch_sequences / (data * size))),
        zero_stage=parallel.zero_stage if parallel.zero_stage is not None else 1,
        shard_group=parallel.shard_group or 0,
        context_exchange=parallel.context_exchange or "gather",
        recompute=parallel.recompute or "none",
        schedule=parallel.schedule or "1f1b",
        layers_per_stage=parallel.layers_per_stage,
    )
