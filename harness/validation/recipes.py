"""What a published recipe fixes and a row leaves empty: sequence, batch of a chip, plan.

A row of a source that names its recipe was run with it, so that an empty cell is not unknown. A
row's own cells, and what its notes say, hold before these.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.validation.cells import Row, whole
from harness.validation.software import SHARDS_WEIGHTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A published configuration of a model on a chip, as cells of a row."""

    source: str
    """Pattern of the row's source and its place."""
    chip: str
    model: str
    """How the row's model begins."""
    cells: Mapping[str, int | str]
    sequences_per_chip: int | None = None
    """Of one step, where the batch is told per chip."""


_TIERS = "maxtext.*tiering"
_KORTHIKANTI = "2205.05198 Table 5"


def _tier(chip: str, model: str, length: int, sequences: int, tensor: int = 1) -> Recipe:
    """A recipe of MaxText; what it offloads is kept, all else is computed again."""
    cells: dict[str, int | str] = {"seq_len": length, "tp": tensor, "recompute": "full"}
    return Recipe(source=_TIERS, chip=chip, model=model, cells=cells, sequences_per_chip=sequences)


def _selene(model: str, batch: int, pipeline: int, virtual: int, microbatch: int) -> Recipe:
    """A row of table 3 of arXiv 2205.05198."""
    cells = {"tp": 8, "pp": pipeline, "vpp": virtual, "micro_batch": microbatch}
    return Recipe(
        source=_KORTHIKANTI,
        chip="A100-80GB-SXM",
        model=model,
        cells={**cells, "global_batch_seqs": batch},
    )


RECIPES = (
    # MaxText src/maxtext/configs/models/gpu/llama2_7b.yml and the scripts beside it.
    Recipe(
        source="a3/llama_2_7b",
        chip="H100-SXM",
        model="llama2-7b",
        cells={"seq_len": 4096, "tp": 1, "recompute": "none"},
        sequences_per_chip=4,
    ),
    # MaxText benchmarks/maxtext_trillium_model_configs.py.
    _tier("TPU-v6e", "llama2-70b", 4096, 4),
    _tier("TPU-v6e", "llama3-8b", 8192, 4),
    _tier("TPU-v6e", "llama3-70b", 8192, 4),
    _tier("TPU-v6e", "llama3.1-405b", 8192, 1, tensor=4),
    _tier("TPU-v6e", "mixtral-8x7b", 4096, 12),
    # These batches are not in that file; assumed, tokens per second hardly depend on them.
    _tier("TPU-v6e", "mixtral-8x22b", 4096, 8),
    _tier("TPU-v5p", "llama2-70b", 4096, 4),
    _tier("TPU-v5p", "mixtral-8x7b", 4096, 8),
    # arXiv 2201.11990 section 2.4, whose run PaLM's table 3 is of.
    Recipe(
        source="2204.02311",
        chip="A100-80GB-SXM",
        model="mt-nlg-530b",
        cells={
            "tp": 8,
            "pp": 35,
            "vpp": 1,
            "micro_batch": 1,
            "global_batch_seqs": 1920,
            "recompute": "full",
        },
    ),
    _selene("gpt-22b", batch=4, pipeline=1, virtual=1, microbatch=4),
    _selene("gpt-175b", batch=64, pipeline=8, virtual=3, microbatch=1),
    _selene("gpt-530b", batch=280, pipeline=35, virtual=3, microbatch=1),
    _selene("gpt-1008b", batch=512, pipeline=64, virtual=1, microbatch=1),
)


def with_recipe(row: Row, software: str) -> Row:
    """The row with the cells filled that its recipe, its notes or its framework fix."""
    filled = dict(row)

    def fill(column: str, value: object) -> None:
        if not filled[column]:
            filled[column] = str(value)

    recipe = _recipe(row)
    if recipe is not None:
        for column, value in recipe.cells.items():
            fill(column, value)
        chips = whole(row, "chips")
        if chips is not None and recipe.sequences_per_chip is not None:
            fill("global_batch_seqs", recipe.sequences_per_chip * chips)
    length = re.search(r"\bseq(?:uence)?[ _]?len(?:gth)? ?=? ?(\d+)", row["notes"])
    if length is not None:
        fill("seq_len", length[1])
    _batch_of_notes(filled, fill)
    if software in SHARDS_WEIGHTS:
        fill("pp", 1)
        fill("zero", 3)
        fill("recompute", "full")
        sequences, chips = whole(filled, "global_batch_seqs"), whole(filled, "chips")
        if sequences and chips and sequences % chips == 0 and not whole(filled, "cp"):
            fill("tp", 1)  # Each chip has sequences of its own, so that nothing else is cut.
    return filled


def _recipe(row: Row) -> Recipe | None:
    told = f"{row['source']} {row['source_locator']}"
    model = row["model"].lower()
    return next(
        (
            recipe
            for recipe in RECIPES
            if re.search(recipe.source, told)
            and recipe.chip == row["chip"]
            and model.startswith(recipe.model)
        ),
        None,
    )


def _batch_of_notes(row: Row, fill: Callable[[str, object], None]) -> None:
    """Sequences of a step, where the notes tell its seconds and the tokens per second of a chip."""
    step = re.search(r"\bstep ([\d.]+) ?s\b", row["notes"])
    rate = re.search(r"tokens/s/(?:device|chip|GPU) ?= ?([\d.]+)", row["notes"])
    chips, length = whole(row, "chips"), whole(row, "seq_len")
    if step and rate and chips and length:
        sequences = round(float(step[1]) * float(rate[1]) * chips / length)
        if sequences:
            fill("global_batch_seqs", sequences)
