"""Published training runs: from a row of a table to what the model is asked, or why it is not.

Nothing here is tuned to a row: a chip is its data sheet and the best matrix product published for
it, a cluster one of those in `configs/cluster/`, and what a row does not say is searched.
"""

import csv
import math
from dataclasses import dataclass, replace
from pathlib import Path

from harness.config.specs import load_model
from harness.device.chip import ChipSpec
from harness.errors import RecordError
from harness.validation.clusters import chip_titled
from harness.workload.model import CausalCount, Experts, ModelSpec
from harness.workload.plan import ParallelSpec

KNOWN_MODELS = {
    "deepseek-v2": "deepseek_v2",
    "deepseek-v3": "deepseek_v3",
    "gpt-oss-120b": "gpt_oss_120b",
    "kimi-k2": "kimi_k2",
    "qwen3-235b-a22b": "qwen3_235b_a22b",
    "qwen3-30b-a3b": "qwen3_30b_a3b",
}
"""Models whose heads are not their width over their number, or that a table's columns cannot say;
a name that begins so is that file of `configs/model/`, with the layers of the row."""
PRECISIONS = {
    "bf16": ("bf16", ""),
    "amp_bf16": ("bf16", ""),
    "fp16": ("fp16", ""),
    "fp8": ("bf16", "fp8"),
    "fp8-cs": ("bf16", "fp8"),
    "fp8-mx": ("bf16", "fp8"),
    "mxfp8": ("bf16", "fp8"),
    "float8": ("bf16", "fp8"),
    "amp_fp8": ("bf16", "fp8"),
    "int8": ("bf16", "int8"),
}
"""Type of the model, and that of the products with a layer's weights, by the row's first word."""
TIME = "step_time_s"
METRICS = (TIME, "tokens_per_s_per_chip", "tflops_per_chip", "mfu_pct")
WITHOUT_SEQUENCE_PARALLELISM = ("megatron-sc21", "megatron-2020", "mtnlg", "vtrain")
"""Sources from before it was published, which leave the column empty."""
KEEPS_SCORES = ("megatron-sc21", "megatron-2020", "korthikanti", "mtnlg", "vtrain")
"""Sources from before FlashAttention, whose attention writes its scores to memory."""
GATED = ("llama", "grok", "mixtral", "gpt-oss", "deepseek", "qwen")


COLUMNS = (
    *("id", "source", "chip", "chips", "model", "layers", "hidden", "ffn_hidden", "heads"),
    *("kv_heads", "vocab", "experts", "topk", "seq_len", "global_batch_seqs", "micro_batch"),
    *("tp", "pp", "vpp", "dp", "cp", "ep", "zero", "sequence_parallel", "recompute"),
    *("precision", "metric_name", "metric_value", "flops_convention"),
)
"""What a table must have; further columns are for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRun:
    """One published row that can be predicted."""

    id: str
    family: str
    """The source, as `dgxc` of `dgxc-023`."""
    chip: ChipSpec
    num_chips: int
    model: ModelSpec
    parallel: ParallelSpec
    is_sequence_parallel: bool
    is_attention_fused: bool
    metric: str
    """What the row publishes, one of METRICS."""
    published: float
    """In the unit of that metric."""
    step_time_s: float
    """The step time that the published value means, in the row's own count of FLOPs."""

    def value(self, step_time_s: float) -> float:
        """That step time in the row's metric; every other one is a rate, so inverse to it."""
        if self.metric == TIME:
            return step_time_s
        return self.published * self.step_time_s / step_time_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A row that is not predicted, and why."""

    id: str
    reason: str


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
    """A whole number above zero, or None where the cell is empty."""
    text = row[column]
    if not text:
        return None
    value = float(text)
    if value < 1 or value != int(value):
        raise ValueError(f"{column} {text} is not a whole number above zero")
    return int(value)


def _given(row: Row, column: str) -> int:
    value = _whole(row, column)
    if value is None:
        raise ValueError(f"{column} is not given")
    return value


def _data_degree(row: Row) -> int | None:
    """The row's, or what its chips leave where a part of it is written as another axis."""
    degrees = [_whole(row, column) or 1 for column in ("tp", "pp", "cp")]
    chips, given = _given(row, "chips"), _whole(row, "dp")
    left = chips // math.prod(degrees)
    return None if given is None else given if given * math.prod(degrees) == chips else left


def _model(row: Row) -> ModelSpec | str:
    name = row["model"]
    known = next((file for title, file in KNOWN_MODELS.items() if name.startswith(title)), None)
    needed = ["layers", "seq_len", "global_batch_seqs"]
    if known is None:
        needed += ["hidden", "ffn_hidden", "heads", "vocab"]
    missing = [column for column in needed if not row[column]]
    if missing:
        return f"{', '.join(missing)} not given"
    if known is not None:
        return replace(load_model(known), num_layers=_given(row, "layers"))
    hidden, heads = _given(row, "hidden"), _given(row, "heads")
    experts = None
    ffn = _given(row, "ffn_hidden")
    if row["experts"] and float(row["experts"]) > 1:
        top_k = _whole(row, "topk")
        if top_k is None:
            return "topk not given"
        experts = Experts(
            num_experts=_given(row, "experts"), num_experts_per_token=top_k, expert_ffn=ffn
        )
        ffn = 0
    is_gated = name.lower().startswith(GATED)
    return ModelSpec(
        name=name,
        title=name,
        num_layers=_given(row, "layers"),
        hidden=hidden,
        num_heads=heads,
        num_kv_heads=_whole(row, "kv_heads") or heads,
        head_dim=hidden // heads,
        ffn=ffn,
        vocab=_given(row, "vocab"),
        is_embedding_tied=not is_gated,
        source=row["source"],
        experts=experts,
        is_ffn_gated=is_gated,
    )


def _step_time(row: Row, model: ModelSpec, chip: ChipSpec) -> float:
    value = float(row["metric_value"])
    metric, convention = row["metric_name"], row["flops_convention"]
    length, chips = _given(row, "seq_len"), float(row["chips"])
    tokens = float(row["global_batch_seqs"]) * length
    if metric == TIME:
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
        peak = chip.peak("bf16")
        if peak is None:
            raise ValueError(f"mfu_pct of {chip.title}, whose bf16 peak is n/a")
        value = value / 100 * peak / 1e12
    return tokens * flops / (value * 1e12 * chips)


def read_run(row: Row) -> PublishedRun | Dropped:
    """The run of a row, or why it cannot be predicted."""

    def drop(reason: str) -> Dropped:
        return Dropped(id=row["id"], reason=reason)

    chip = chip_titled(row["chip"])
    if chip is None:
        return drop(f"chip {row['chip']} has no data sheet in configs/chip")
    words = row["precision"].lower().split()
    types = PRECISIONS.get(words[0]) if words else None
    if types is None:
        return drop(f"precision {words[0] if words else 'not given'} has no ops yet")
    dtype, linear_dtype = types
    if row["metric_name"] not in METRICS:
        return drop(f"metric {row['metric_name']} is not a training rate")
    published = float(row["metric_value"])
    if not (math.isfinite(published) and published > 0):
        return drop(f"metric_value {row['metric_value']} is not above zero")
    model = _model(row)
    if isinstance(model, str):
        return drop(model)
    if not (row["tp"] and row["pp"]):
        return drop("tp, pp not given")
    if row["id"].startswith("megascale-t"):
        return drop("an ablation of methods, one number per method, on one plan")
    chips = _given(row, "chips")
    shared = math.prod(_whole(row, column) or 1 for column in ("tp", "pp", "cp"))
    if chips % shared:
        return drop(f"tp x pp x cp is {shared}, which does not divide the {chips} chips")
    seconds = _step_time(row, model, chip)
    recompute = row["recompute"].split()[0].strip(",") if row["recompute"] else None
    if recompute not in ("none", "selective", "full"):
        recompute = "none"
    zero = row["zero"][:1]
    length = _given(row, "seq_len")
    parallel = ParallelSpec(
        global_batch_tokens=_given(row, "global_batch_seqs") * length,
        sequence_length=length,
        dtype=dtype,
        linear_dtype=linear_dtype,
        tensor=_whole(row, "tp"),
        pipeline=_whole(row, "pp"),
        data=_data_degree(row),
        context=_whole(row, "cp") or 1,
        expert=_whole(row, "ep") or 1,
        virtual_stages=_whole(row, "vpp"),
        microbatch_size=_whole(row, "micro_batch"),
        zero_stage=int(zero) if zero.isdigit() else 1,
        recompute=recompute,
    )
    said = row["sequence_parallel"]
    is_cut = said == "yes" or (not said and not row["id"].startswith(WITHOUT_SEQUENCE_PARALLELISM))
    return PublishedRun(
        id=row["id"],
        family=family(row["id"]),
        chip=chip,
        num_chips=_given(row, "chips"),
        model=model,
        parallel=parallel,
        is_sequence_parallel=is_cut,
        is_attention_fused=not row["id"].startswith(KEEPS_SCORES),
        metric=row["metric_name"],
        published=published,
        step_time_s=seconds,
    )


def read_runs(path: Path) -> tuple[list[PublishedRun], list[Dropped]]:
    """All rows: those that can be predicted, and the others with their reasons.

    Raises:
        RecordError: when there is no such table, or it lacks a column.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise RecordError(
                    f"{path}: no column {', '.join(missing)}. "
                    "`configs/validation/published_runs.csv` shows what a table has."
                )
            read = _once([_read_or_drop(row, line) for line, row in enumerate(reader, start=2)])
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file. Give a table as data=FILE.csv.") from None
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not a text in UTF-8 ({error.reason}).") from None
    runs = [run for run in read if isinstance(run, PublishedRun)]
    return runs, [run for run in read if isinstance(run, Dropped)]


def _read_or_drop(row: Row, line: int) -> PublishedRun | Dropped:
    """One bad cell costs its row, not the table."""
    named = {key: value or "" for key, value in row.items() if isinstance(key, str)}
    named["id"] = named["id"] or f"line {line}"
    try:
        return read_run(named)
    except (ValueError, ZeroDivisionError) as error:
        return Dropped(id=named["id"], reason=f"a number cannot be read: {error}")


def _once(read: list[PublishedRun | Dropped]) -> list[PublishedRun | Dropped]:
    """The same with rows dropped whose id an earlier one has."""
    seen: set[str] = set()
    kept: list[PublishedRun | Dropped] = []
    for row in read:
        is_again = row.id in seen and isinstance(row, PublishedRun)
        seen.add(row.id)
        kept.append(Dropped(id=row.id, reason="a row above has its id") if is_again else row)
    return kept
