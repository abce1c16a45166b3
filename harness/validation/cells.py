"""A table of published runs as text: its columns, and the numbers in its cells."""

import csv
from collections.abc import Iterator
from pathlib import Path

from harness.errors import RecordError

COLUMNS = (
    *("id", "source", "chip", "chips", "model", "layers", "hidden", "ffn_hidden", "heads"),
    *("kv_heads", "vocab", "experts", "topk", "seq_len", "global_batch_seqs", "micro_batch"),
    *("tp", "pp", "vpp", "dp", "cp", "ep", "zero", "sequence_parallel", "recompute"),
    *("precision", "metric_name", "metric_value", "flops_convention"),
)
"""What a table must have."""
OPTIONAL_COLUMNS = ("source_locator", "system", "notes")
"""Read where they are there: software, recipes and what a source measures are told in them."""

Row = dict[str, str]


class UnusableRowError(Exception):
    """A row that cannot be predicted; its text is the reason."""


def rows(path: Path) -> Iterator[Row]:
    """The rows of a table in order, every cell a text; a row without an id is named by its line.

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
            for line, row in enumerate(reader, start=2):
                named = dict.fromkeys((*COLUMNS, *OPTIONAL_COLUMNS), "")
                named |= {key: value or "" for key, value in row.items() if isinstance(key, str)}
                named["id"] = named["id"] or f"line {line}"
                yield named
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file. Give a table as data=FILE.csv.") from None
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not a text in UTF-8 ({error.reason}).") from None


def whole(row: Row, column: str) -> int | None:
    """A whole number above zero, or None where the cell is empty."""
    text = row[column]
    if not text:
        return None
    value = float(text)
    if value < 1 or value != int(value):
        raise ValueError(f"{column} {text} is not a whole number above zero")
    return int(value)


def given(row: Row, column: str) -> int:
    """The same of a cell that must be filled."""
    value = whole(row, column)
    if value is None:
        raise UnusableRowError(f"{column} not given")
    return value


def required(row: Row, *columns: str) -> None:
    """Refuse a row where one of these cells is empty; all that are empty are named."""
    missing = [column for column in columns if not row[column]]
    if missing:
        raise UnusableRowError(f"{', '.join(missing)} not given")


def family(row_id: str) -> str:
    """`dgxc-023` is of `dgxc`, `llama3-t4-001` of `llama3`."""
    head = row_id.split("-")
    if row_id.startswith("megatron-sc21"):
        return "-".join(head[:3])
    if head[0] in ("vtrain", "megatron", "korthikanti", "maxtext") and len(head) > 2:
        return "-".join(head[:2])
    return head[0]
