"""Published training runs, and what the model predicts for them from their configuration alone.

Nothing here is tuned to a row: a chip is its data sheet and the best matrix product published for
it, a cluster one of those in `configs/cluster/`, and what a row does not say is searched.
"""

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median

import numpy as np

from harness.config.specs import load_chip, load_cluster, load_model
from harness.errors import ChipscaleError
from harness.extrapolate.lookup import Lookup
from harness.extrapolate.memory import memory_use
from harness.extrapolate.project import ModelError, model_error, spread
from harness.extrapolate.search import best_plan
from harness.extrapolate.step import StepModel, StepTime
from harness.projection import PlanChoice
from harness.workload.model import CausalCount, Experts, ModelSpec
from harness.workload.plan import ParallelSpec
from kernels import registry

DATA = Path(__file__).parent / "data" / "published_runs.csv"
CHIPS = {
    "H100-SXM": ("h100_sxm", "h100_16k"),
    "A100-80GB-SXM": ("a100_80gb_sxm", "a100_4k"),
    "A100-40GB-SXM": ("a100_40gb_sxm", "a100_4k"),
}
DTYPES = {"bf16": "bf16", "amp_bf16": "bf16", "fp16": "fp16"}
METRICS = ("step_time_s", "tokens_per_s_per_chip", "tflops_per_chip", "mfu_pct")
WITHOUT_SEQUENCE_PARALLELISM = ("megatron-sc21", "megatron-2020", "mtnlg", "vtrain")
"""Sources from before it was published, which leave the column empty."""
KEEPS_SCORES = ("megatron-sc21", "megatron-2020", "korthikanti", "mtnlg", "vtrain")
"""Sources from before FlashAttention, whose attention writes its scores to memory."""
GATED = ("llama", "grok", "mixtral", "gpt-oss", "deepseek", "qwen")


@dataclass(frozen=True)
class Run:
    """One published row that can be predicted."""

    id: str
    family: str
    chip: str
    num_chips: int
    model: ModelSpec
    parallel: ParallelSpec
    is_sequence_parallel: bool
    is_attention_fused: bool
    step_time_s: float


@dataclass(frozen=True)
class Dropped:
    """A row that is not predicted, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Prediction:
    run: Run
    step: StepTime
    low_s: float
    high_s: float

    @property
    def error(self) -> float:
        """Predicted over published time, less one."""
        return self.step.seconds / self.run.step_time_s - 1

    @property
    def is_inside(self) -> bool:
        return self.low_s <= self.run.step_time_s <= self.high_s

    def interval_s(self, error: ModelError) -> tuple[float, float]:
        """The interval with another error of the model."""
        low, high = spread(self.step, self.run.num_chips, error)
        return self.step.seconds * low, self.step.seconds * high

    @property
    def memory_share(self) -> float:
        """Counted bytes of the fullest chip over the memory of the chip it ran on."""
        run = self.run
        used = memory_use(
            run.model, self.step.plan, run.parallel.sequence_length, run.parallel.dtype
        )
        limit = load_chip(CHIPS[run.chip][0]).memory_bytes
        assert limit is not None
        return used.total_bytes / limit


Row = dict[str, str]


def family(row_id: str) -> str:
    """`dgxc-023` is of `dgxc`, `llama3-t4-001` of `llama3`."""
    head = row_id.split("-")
    if row_id.startswith("megatron-sc21"):
        return "-".join(head[:3])
    if head[0] in ("vtrain", "megatron", "korthikanti") and len(head) > 2:
        return "-".join(head[:2])
    return head[0]


def _whole(row: Row, column: str) -> int | None:
    text = row[column]
    return int(float(text)) if text else None


def _model(row: Row) -> ModelSpec | str:
    needed = ("layers", "hidden", "ffn_hidden", "heads", "vocab", "seq_len", "global_batch_seqs")
    missing = [column for column in needed if not row[column]]
    if missing:
        return f"{', '.join(missing)} not given"
    name = row["model"]
    if name.startswith("deepseek-v3"):
        return load_model("deepseek_v3")
    hidden, heads = int(float(row["hidden"])), int(float(row["heads"]))
    experts = None
    ffn = int(float(row["ffn_hidden"]))
    if row["experts"] and float(row["experts"]) > 1:
        top_k = _whole(row, "topk")
        if top_k is None:
            return "topk not given"
        experts = Experts(
            num_experts=int(float(row["experts"])), num_experts_per_token=top_k, expert_ffn=ffn
        )
        ffn = 0
    is_gated = name.lower().startswith(GATED)
    return ModelSpec(
        name=name,
        title=name,
        num_layers=int(float(row["layers"])),
        hidden=hidden,
        num_heads=heads,
        num_kv_heads=_whole(row, "kv_heads") or heads,
        head_dim=hidden // heads,
        ffn=ffn,
        vocab=int(float(row["vocab"])),
        is_embedding_tied=not is_gated,
        source=row["source"],
        experts=experts,
        is_ffn_gated=is_gated,
    )


def _step_time(row: Row, model: ModelSpec) -> float | None:
    value = float(row["metric_value"])
    metric, convention = row["metric_name"], row["flops_convention"]
    length, chips = int(float(row["seq_len"])), float(row["chips"])
    tokens = float(row["global_batch_seqs"]) * length
    if metric == "step_time_s":
        return value
    if metric == "tokens_per_s_per_chip":
        return tokens / (value * chips)
    count = CausalCount.FULL
    if row["id"].startswith("llama3"):
        # The paper does not say; the causal count makes the published step the shortest.
        count = CausalCount.CAUSAL
    flops = model.model_flops_per_token(length, count)
    if "hardware" in convention:
        # Narayanan et al. (SC21) count the forward pass of the layers twice.
        flops += model.forward_flops_per_token(length, count) - 2 * model.vocab * model.hidden
    if metric == "mfu_pct":
        peak = load_chip(CHIPS[row["chip"]][0]).peak("bf16")
        assert peak is not None
        value = value / 100 * peak / 1e12
    return tokens * flops / (value * 1e12 * chips)


def read_run(row: Row) -> Run | Dropped:
    """The run of a row, or why it cannot be predicted."""

    def drop(reason: str) -> Dropped:
        return Dropped(row["id"], reason)

    if row["chip"] not in CHIPS:
        return drop(f"chip {row['chip']} is not checked yet")
    dtype = DTYPES.get(row["precision"].lower())
    if dtype is None:
        return drop(f"precision {row['precision'] or 'not given'} has no ops yet")
    if row["metric_name"] not in METRICS:
        return drop(f"metric {row['metric_name']} is not a training rate")
    model = _model(row)
    if isinstance(model, str):
        return drop(model)
    if not (row["tp"] and row["pp"]):
        return drop("tp, pp not given")
    if row["id"].startswith("megascale-t"):
        return drop("an ablation of methods, one number per method, on one plan")
    seconds = _step_time(row, model)
    assert seconds is not None
    recompute = row["recompute"].split()[0].strip(",") if row["recompute"] else None
    if recompute not in ("none", "selective", "full"):
        recompute = "none"
    zero = row["zero"][:1]
    length = int(float(row["seq_len"]))
    parallel = ParallelSpec(
        global_batch_tokens=int(float(row["global_batch_seqs"])) * length,
        sequence_length=length,
        dtype=dtype,
        tensor=_whole(row, "tp"),
        pipeline=_whole(row, "pp"),
        data=_whole(row, "dp"),
        context=_whole(row, "cp") or 1,
        expert=_whole(row, "ep") or 1,
        virtual_stages=_whole(row, "vpp"),
        microbatch_size=_whole(row, "micro_batch"),
        zero_stage=int(zero) if zero.isdigit() else 1,
        recompute=recompute,
    )
    said = row["sequence_parallel"]
    is_cut = said == "yes" or (not said and not row["id"].startswith(WITHOUT_SEQUENCE_PARALLELISM))
    return Run(
        id=row["id"],
        family=family(row["id"]),
        chip=row["chip"],
        num_chips=int(float(row["chips"])),
        model=model,
        parallel=parallel,
        is_sequence_parallel=is_cut,
        is_attention_fused=not row["id"].startswith(KEEPS_SCORES),
        step_time_s=seconds,
    )


def read_runs(path: Path = DATA) -> tuple[list[Run], list[Dropped]]:
    """All rows: those that can be predicted, and the others with their reasons."""
    with path.open(encoding="utf-8", newline="") as file:
        read = [read_run(row) for row in csv.DictReader(file)]
    runs = [run for run in read if isinstance(run, Run)]
    return runs, [run for run in read if isinstance(run, Dropped)]


def predict(run: Run, lookups: dict[str, Lookup]) -> Prediction | Dropped:
    """The step time of a run from its configuration; its memory is not checked here."""
    chip_name, cluster_name = CHIPS[run.chip]
    lookup = lookups.get(chip_name)
    if lookup is None:
        lookup = lookups[chip_name] = Lookup(load_chip(chip_name), registry.cost)
    cluster = load_cluster(cluster_name)
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
                return Dropped(run.id, "no plan has the degrees that the row gives")
            step = found.step
    except ChipscaleError as error:
        return Dropped(run.id, str(error))
    low, high = spread(step, run.num_chips, model_error(run.model))
    return Prediction(run, step, step.seconds * low, step.seconds * high)


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
        )
    )


def predict_all() -> tuple[list[Prediction], list[Dropped]]:
    """Every row that can be predicted, and the rest with their reasons."""
    runs, dropped = read_runs()
    lookups: dict[str, Lookup] = {}
    results = [predict(run, lookups) for run in runs]
    predictions = [result for result in results if isinstance(result, Prediction)]
    return predictions, dropped + [r for r in results if isinstance(r, Dropped)]


@dataclass(frozen=True)
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


YARDSTICKS = {
    "megatron-sc21-t1": "8.6 / 12.0",
    "mtnlg": " - / 31.6",
    "vtrain-multi": "20.9 / 15.3",
    "vtrain-single": "63.3 / 49.5",
    "llmfoundry": "15 / -",
}
"""MAPE in % of one fitted rate per source / of Calculon without fitting, on the same source."""


def table(predictions: Sequence[Prediction]) -> str:
    """The errors by source as a Markdown table, which running this file prints."""
    held_out = held_out_coverage(predictions)
    lines = [
        "| source | runs | MAPE | median | bias | worst | in interval | held out | yardsticks |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in by_family(predictions):
        other = f"{held_out[row.family]:.0%}" if row.family in held_out else ""
        lines.append(
            f"| {row.family} | {row.num_runs} | {row.mape:.1%} | {row.median:.1%} | "
            f"{row.bias:+.1%} | {row.worst:+.1%} | {row.coverage:.0%} | {other} | "
            f"{YARDSTICKS.get(row.family, '')} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(predict_all()[0]))
