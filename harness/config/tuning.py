"""Tuning tables: `configs/tuning/<chip>.yaml` to TuningTable and back."""

import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.config.specs import list_names, load_data, parsed_file
from harness.errors import ConfigError
from kernels.tuning import Config, TuningEntry, TuningTable

GROUP = "tuning"
HEAD = """\
# Launch configurations that were measured to be faster on this chip than the usual ones; written by
# `chipscale tune`. Sizes near these take them too (kernels/tuning.py).
"""
KEYS = ("kernel", "dtype", "variant", "sizes", "blocks", "num_warps", "num_stages", "evidence")


def load_tables(folders: Sequence[Path] = ()) -> tuple[TuningTable, ...]:
    """Every table there is, the user's own before the packaged ones.

    Raises:
        ConfigError: for a table that is not one, naming the key.
    """
    return tuple(
        _table(load_data(GROUP, name, folders), f"{GROUP}/{name}")
        for name in list_names(GROUP, folders)
    )


def read_table(path: Path) -> TuningTable:
    """The table in that file. Raises ConfigError as `load_tables`."""
    return _table(parsed_file(path), str(path))


def _table(data: Mapping[str, Any], key: str) -> TuningTable:
    entries = data.get("entries")
    if not isinstance(entries, list) or not isinstance(data.get("devices"), list):
        raise ConfigError(f"{key}: `devices` and `entries` must be lists. Correct the file.")
    return TuningTable(
        chip=str(data.get("chip", "")),
        devices=tuple(str(name) for name in data["devices"]),
        entries=tuple(
            _entry(entry, f"{key}.entries[{index}]") for index, entry in enumerate(entries)
        ),
    )


def _entry(data: Any, key: str) -> TuningEntry:
    if not isinstance(data, Mapping) or set(data) != set(KEYS):
        raise ConfigError(f"{key}: {data!r} is not a table of {', '.join(KEYS)}. Correct the file.")
    return TuningEntry(
        kernel=str(data["kernel"]),
        dtype=str(data["dtype"]),
        variant=str(data["variant"]),
        sizes=_numbers(data["sizes"], f"{key}.sizes"),
        config=Config(
            blocks=_numbers(data["blocks"], f"{key}.blocks"),
            num_warps=_number(data["num_warps"], f"{key}.num_warps"),
            num_stages=_number(data["num_stages"], f"{key}.num_stages"),
        ),
        evidence=str(data["evidence"]),
    )


def _numbers(data: Any, key: str) -> tuple[tuple[str, int], ...]:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{key}: {data!r} is not a table of numbers. Correct the file.")
    return tuple((str(name), _number(value, f"{key}.{name}")) for name, value in data.items())


def _number(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{key}: {value!r} is not a whole number. Correct the file.")
    return value


def default_file(chip: str) -> Path:
    """Where the table of a chip is kept in this installation."""
    return Path(str(importlib.resources.files("configs").joinpath(GROUP, f"{chip}.yaml")))


def to_yaml(table: TuningTable) -> str:
    """The text of the table's file."""
    data = {
        "chip": table.chip,
        "devices": list(table.devices),
        "entries": [
            {
                "kernel": entry.kernel,
                "dtype": entry.dtype,
                "variant": entry.variant,
                "sizes": dict(entry.sizes),
                "blocks": dict(entry.config.blocks),
                "num_warps": entry.config.num_warps,
                "num_stages": entry.config.num_stages,
                "evidence": entry.evidence,
            }
            for entry in table.entries
        ],
    }
    return HEAD + yaml.safe_dump(data, sort_keys=False, width=100)
