"""How what a row publishes follows from the time of a step."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from harness.device.chip import ChipSpec
from harness.units import TERA
from harness.validation.cells import Row, UnusableRowError
from harness.validation.convergence import benchmark_of
from harness.validation.published_models import file_of
from harness.validation.software import WITHOUT_WEIGHT_GRADIENTS, trains_weights
from harness.workload.model import CausalCount, ModelSpec
from harness.workload.plan import ParallelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A metric as a power of the step time: a time grows with it, a rate falls."""

    factor: float
    """The metric of a step of one second."""
    is_rate: bool

    def value(self, step_time_s: float) -> float:
        """The metric where a step takes so long."""
        return self.factor / step_time_s if self.is_rate else self.factor * step_time_s

    def step_time_s(self, value: float) -> float:
        """The step that gives this value of the metric."""
        return self.factor / value if self.is_rate else value / self.factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a metric is told of."""

    row: Row
    chip: ChipSpec
    num_chips: int
    model: ModelSpec
    parallel: ParallelSpec

    @property
    def tokens(self) -> float:
        """Of one step."""
        return float(self.parallel.global_batch_tokens)

    def flops(self) -> float:
        """Of one step, as the row's source counts them."""
        count, convention = CausalCount.FULL, self.row["flops_convention"]
        length, model = self.parallel.sequence_length, self.model
        if self.row["id"].startswith("llama3"):
            # The paper does not say; the causal count makes the published step the shortest.
            count = CausalCount.CAUSAL
        flops = model.model_flops_per_token(length, count)
        if "hardware" in convention or self.row["metric_name"] == "hfu_pct":
            # Narayanan et al. (SC21) count the forward pass of the layers twice.
            forward = model.forward_flops_per_token(length, count)
            flops += forward - 2 * model.vocab * model.hidden
        if not trains_weights(self.row):
            flops *= WITHOUT_WEIGHT_GRADIENTS
        return self.tokens * flops


def _step_time(work: Work) -> Scale:
    return Scale(factor=1.0, is_rate=False)


def _step_time_ms(work: Work) -> Scale:
    return Scale(factor=1e3, is_rate=False)


def _tokens(work: Work) -> Scale:
    return Scale(factor=work.tokens / work.num_chips, is_rate=True)


def _tokens_total(work: Work) -> Scale:
    return Scale(factor=work.tokens, is_rate=True)


def _sequences_total(work: Work) -> Scale:
    return Scale(factor=work.tokens / work.parallel.sequence_length, is_rate=True)


def _tflops(work: Work) -> Scale:
    return Scale(factor=work.flops() / TERA / work.num_chips, is_rate=True)


def _utilization(work: Work) -> Scale:
    """Percent of the dense peak; of bf16, unless the source says which other it divides by."""
    told = re.search(r"of ([\d.]+)", work.row["flops_convention"])
    dtype = "fp16" if work.parallel.dtype == "fp16" else "bf16"
    peak = float(told[1]) * TERA if told else work.chip.peak(dtype)
    if peak is None:
        raise UnusableRowError(
            f"{work.row['metric_name']} of {work.chip.title}, whose {dtype} peak is n/a"
        )
    return Scale(factor=100 * work.flops() / peak / work.num_chips, is_rate=True)


def _time_to_train(work: Work) -> Scale:
    """Minutes from the start to the target; initialization is not part of it."""
    benchmark = benchmark_of(work.row["source"], file_of(work.row) or "")
    if benchmark is None:
        raise UnusableRowError(
            f"time_to_train_min of {work.model.title}, whose convergence is not known"
        )
    steps = benchmark.steps_to_train(work.parallel.global_batch_sequences)
    return Scale(factor=steps / 60, is_rate=False)


STEP_METRICS: dict[str, Callable[[Work], Scale]] = {
    "step_time_s": _step_time,
    "step_time_ms": _step_time_ms,
    "tokens_per_s_per_chip": _tokens,
    "tokens_per_s_total": _tokens_total,
    "samples_per_s_total": _sequences_total,
    "tflops_per_chip": _tflops,
    "mfu_pct": _utilization,
    "hfu_pct": _utilization,
    "time_to_train_min": _time_to_train,
}
"""Metrics of a training step, by their name in a row."""
END_TO_END = {"time_to_train_min": "time to train"}
"""Metrics that hold more than the step, whose errors are told apart from those of steps."""
