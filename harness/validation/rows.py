"""Published training runs: from a row of a table to what the model is asked, or why it is not.

Nothing here is tuned to a row: a chip is its data sheet and the best matrix product published for
it, a cluster one of those in `configs/cluster/`, and what a row does not say is that of its recipe
or its framework, else searched.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from harness.device.chip import ChipSpec
from harness.validation.cells import Row, UnusableRowError, family, given, required, rows, whole
from harness.validation.clusters import chip_titled
from harness.validation.consistency import check
from harness.validation.metrics import END_TO_END, STEP_METRICS, Scale, Work
from harness.validation.precision import types
from harness.validation.published_models import model_of
from harness.validation.recipes import with_recipe
from harness.validation.software import (
    KEEPS_SCORES,
    WITHOUT_ACCUMULATION,
    WITHOUT_SEQUENCE_PARALLELISM,
    generation,
    trains_weights,
)
from harness.workload.model import ModelSpec
from harness.workload.plan import ParallelSpec

RECOMPUTE = (
    ("full", "full"),
    # All but the products for queries, keys and values is computed again (MaxText base.yml).
    ("qkv_proj_offloaded", "full"),
    ("selective", "selective"),
)
"""How a row's word begins, and what is computed again; of any other word, nothing is."""
ABLATIONS_LEFT_OUT = re.compile(r"baseline|\+(parallel transformer|sliding window|TP over|PP over)")
"""Steps of a cumulative ablation before all that the model takes for given: communication of
tensor, pipeline and data parallelism that hides (MegaScale, arXiv 2402.15627 table 3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What ran, on what."""

    software: str
    """The generation of the framework, as `megatron_2025`."""
    chip: ChipSpec
    num_chips: int
    model: ModelSpec
    parallel: ParallelSpec
    is_sequence_parallel: bool
    is_attention_fused: bool
    are_weights_trained: bool = True
    """False where adapters are trained beside weights that stay as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRun(Configuration):
    """One published row whose metric follows from the time of a step."""

    id: str
    family: str
    """The source, as `dgxc` of `dgxc-023`."""
    metric: str
    """What the row publishes, one of STEP_METRICS."""
    published: float
    """In the unit of that metric."""
    scale: Scale
    """From the step time to that metric."""

    @property
    def step_time_s(self) -> float:
        """The step time that the published value means, in the row's own count of FLOPs."""
        return self.scale.step_time_s(self.published)

    def value(self, step_time_s: float) -> float:
        """That step time in the row's metric."""
        return self.scale.value(step_time_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFigure:
    """One published row whose metric is another one than the time of a step."""

    id: str
    family: str
    metric: str
    published: float
    row: Row
    """The cells, recipe included; which of them are needed depends on the metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A row that is not predicted, and why."""

    id: str
    reason: str


def read_rows(path: Path) -> list[PublishedRun | PublishedFigure | Dropped]:
    """All rows in the order of the table; one bad cell costs its row, not the table.

    Raises:
        RecordError: when there is no such table, or it lacks a column.
    """
    seen: set[str] = set()
    read: list[PublishedRun | PublishedFigure | Dropped] = []
    for row in rows(path):
        found = read_run(row)
        if row["id"] in seen and not isinstance(found, Dropped):
            found = Dropped(id=row["id"], reason="a row above has its id")
        seen.add(row["id"])
        read.append(found)
    return read


def read_runs(path: Path) -> tuple[list[PublishedRun], list[Dropped]]:
    """Rows whose metric follows from a step, and those that cannot be predicted.

    Raises:
        RecordError: as `read_rows`.
    """
    read = read_rows(path)
    runs = [run for run in read if isinstance(run, PublishedRun)]
    return runs, [run for run in read if isinstance(run, Dropped)]


def read_run(row: Row) -> PublishedRun | PublishedFigure | Dropped:
    """What a row publishes, or why it cannot be predicted."""
    try:
        published = float(row["metric_value"])
        if not (math.isfinite(published) and published > 0):
            raise UnusableRowError(f"metric_value {row['metric_value']} is not above zero")
        filled = with_recipe(row, generation(row))
        if row["metric_name"] in STEP_METRICS:
            return _run(filled, published)
        return PublishedFigure(
            id=row["id"],
            family=family(row["id"]),
            metric=row["metric_name"],
            published=published,
            row=filled,
        )
    except UnusableRowError as error:
        return Dropped(id=row["id"], reason=str(error))
    except (ValueError, ZeroDivisionError) as error:
        return Dropped(id=row["id"], reason=f"a number cannot be read: {error}")


def _run(row: Row, published: float) -> PublishedRun:
    if "(cumulative)" in row["notes"] and ABLATIONS_LEFT_OUT.search(row["notes"]):
        raise UnusableRowError("an ablation without the overlap that the model takes for given")
    config = configuration(row)
    metric = row["metric_name"]
    work = Work(
        row=row,
        chip=config.chip,
        num_chips=config.num_chips,
        model=config.model,
        parallel=config.parallel,
    )
    scale = STEP_METRICS[metric](work)
    check(work, scale.step_time_s(published))
    source = family(row["id"])
    if metric in END_TO_END:
        source = f"{source} {END_TO_END[metric]}"
    return PublishedRun(
        **{name: getattr(config, name) for name in Configuration.__dataclass_fields__},
        id=row["id"],
        family=source,
        metric=metric,
        published=published,
        scale=scale,
    )


def configuration(row: Row) -> Configuration:
    """The chip, model and plan of a row.

    Raises:
        UnusableRowError: when one of them is not given and follows from nothing else.
    """
    chip = chip_titled(row["chip"])
    if chip is None:
        raise UnusableRowError(f"chip {row['chip']} has no data sheet in configs/chip")
    dtype, linear_dtype = types(row)
    model = model_of(row)
    required(row, "chips", "seq_len", "global_batch_seqs")
    software = generation(row)
    said = row["sequence_parallel"]
    is_cut = said == "yes" or (not said and software not in WITHOUT_SEQUENCE_PARALLELISM)
    return Configuration(
        software=software,
        chip=chip,
        num_chips=given(row, "chips"),
        model=model,
        parallel=_parallel(row, dtype, linear_dtype, software),
        is_sequence_parallel=is_cut,
        is_attention_fused=software not in KEEPS_SCORES,
        are_weights_trained=trains_weights(row),
    )


def _parallel(row: Row, dtype: str, linear_dtype: str, software: str) -> ParallelSpec:
    """The plan, as far as it is told; a degree that is not is None and searched."""
    length, sequences = given(row, "seq_len"), given(row, "global_batch_seqs")
    chips, tensor, pipeline = given(row, "chips"), whole(row, "tp"), whole(row, "pp")
    shared = math.prod(whole(row, column) or 1 for column in ("tp", "pp", "cp"))
    if chips % shared:
        raise UnusableRowError(f"tp x pp x cp is {shared}, which does not divide the {chips} chips")
    data = None if tensor is None or pipeline is None else _data_degree(row, chips // shared)
    zero, word = row["zero"][:1], row["recompute"].lower()
    recompute = next((what for begin, what in RECOMPUTE if word.startswith(begin)), "none")
    is_searched = tensor is None or pipeline is None
    return ParallelSpec(
        global_batch_tokens=sequences * length,
        sequence_length=length,
        dtype=dtype,
        linear_dtype=linear_dtype,
        tensor=tensor,
        pipeline=pipeline,
        data=data,
        context=whole(row, "cp") or 1,
        expert=whole(row, "ep") or 1,
        virtual_stages=whole(row, "vpp") or (1 if pipeline == 1 else None),
        microbatch_size=_microbatch(row, software, data, pipeline, sequences),
        zero_stage=int(zero) if zero.isdigit() else 1,
        recompute=None if is_searched and not row["recompute"] else recompute,
    )


def _data_degree(row: Row, left: int) -> int | None:
    """The row's, or what its chips leave where a part of it is written as another axis."""
    stated = whole(row, "dp")
    if stated is None and row["zero"][:1] != "3":
        return None
    return left


def _microbatch(
    row: Row, software: str, data: int | None, pipeline: int | None, sequences: int
) -> int | None:
    """Sequences of a microbatch: the row's, unless it writes those of a replica there."""
    if software not in WITHOUT_ACCUMULATION or data is None:
        return whole(row, "micro_batch")
    replica, microbatches = sequences // data, pipeline or 1
    if replica < microbatches or replica % microbatches:
        return whole(row, "micro_batch")
    # A pipeline takes as many microbatches as it has stages (torchtitan,
    # experimental.pipeline_parallel_microbatches).
    return replica // microbatches
