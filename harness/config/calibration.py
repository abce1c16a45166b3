"""The calibration of the repository, `configs/calibration/`, read and written as tables."""

import csv
import importlib.resources
from collections.abc import Iterable
from functools import cache
from importlib.resources.abc import Traversable

import yaml

from harness.errors import ConfigError
from harness.extrapolate.calibration import (
    ALL_SOFTWARE,
    NONE,
    Calibrated,
    Calibration,
    LeftOutError,
    Residual,
)
from harness.extrapolate.constants import NAMES

CONSTANTS_FILE = "constants.csv"
RESIDUALS_FILE = "residuals.csv"
LEFT_OUT_FILE = "left_out.csv"
CONSTANT_COLUMNS = ("constant", "subject", "value", "spread", "prior", "prior_spread", "runs")
RESIDUAL_COLUMNS = ("software", "kind", "low", "high", "runs")
LEFT_OUT_COLUMNS = ("software", "kind", "median", "mean", "bias", "runs")


@cache
def shipped_calibration() -> Calibration:
    """The calibration that is part of chipscale."""
    if not _folder().is_dir():
        return NONE
    return Calibration(
        values=read_constants(_text(CONSTANTS_FILE)),
        residuals=read_residuals(_text(RESIDUALS_FILE)),
    )


def software_names() -> tuple[str, ...]:
    """The generations of training software that runs calibrated."""
    known = {software for software, _ in shipped_calibration().residuals}
    return tuple(sorted(known - {ALL_SOFTWARE}))


def runs_of_constants() -> dict[tuple[str, str], int]:
    """How many runs each shipped constant has an effect on, by its name and subject."""
    rows = _rows(_text(CONSTANTS_FILE), CONSTANT_COLUMNS, CONSTANTS_FILE)
    return {(row["constant"], row["subject"]): int(row["runs"]) for row in rows}


def runs_of_residuals() -> dict[tuple[str, str], int]:
    """How many runs each shipped residual is of, by its software and kind."""
    rows = _rows(_text(RESIDUALS_FILE), RESIDUAL_COLUMNS, RESIDUALS_FILE)
    return {(row["software"], row["kind"]): int(row["runs"]) for row in rows}


def left_out_errors() -> dict[tuple[str, str], LeftOutError]:
    """Errors of runs left out of the shipped calibration, by software and kind."""
    return read_left_out(_text(LEFT_OUT_FILE))


def _folder() -> Traversable:
    return importlib.resources.files("configs") / "calibration"


def _text(name: str) -> str:
    return _folder().joinpath(name).read_text(encoding="utf-8")


@cache
def held_out_families() -> frozenset[str]:
    """Sources of published runs that take no part in the calibration."""
    file = importlib.resources.files("configs") / "validation" / "held_out.yaml"
    return frozenset(yaml.safe_load(file.read_text(encoding="utf-8"))["families"])


def _rows(text: str, columns: tuple[str, ...], name: str) -> Iterable[dict[str, str]]:
    reader = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    if tuple(reader.fieldnames or ()) != columns:
        raise ConfigError(
            f"configs/calibration/{name}: its columns are {reader.fieldnames}, not "
            f"{', '.join(columns)}. Write it anew with "
            "`chipscale validate calibrate=configs/calibration`."
        )
    yield from reader


def read_constants(text: str) -> dict[tuple[str, str], Calibrated]:
    """The constants of a table.

    Raises:
        ConfigError: when its columns are others, or it names what is no constant.
    """
    found = {}
    for row in _rows(text, CONSTANT_COLUMNS, CONSTANTS_FILE):
        if row["constant"] not in NAMES:
            raise ConfigError(
                f"configs/calibration/{CONSTANTS_FILE}: {row['constant']} is no constant; they "
                f"are {', '.join(NAMES)}."
            )
        key = (row["constant"], row["subject"])
        found[key] = Calibrated(value=float(row["value"]), spread=float(row["spread"]))
    return found


def read_residuals(text: str) -> dict[tuple[str, str], Residual]:
    """The residuals of a table.

    Raises:
        ConfigError: when its columns are others.
    """
    return {
        (row["software"], row["kind"]): Residual(low=float(row["low"]), high=float(row["high"]))
        for row in _rows(text, RESIDUAL_COLUMNS, RESIDUALS_FILE)
    }


def read_left_out(text: str) -> dict[tuple[str, str], LeftOutError]:
    """The errors of a table.

    Raises:
        ConfigError: when its columns are others.
    """
    return {
        (row["software"], row["kind"]): LeftOutError(
            num_runs=int(row["runs"]),
            median=float(row["median"]),
            mean=float(row["mean"]),
            bias=float(row["bias"]),
        )
        for row in _rows(text, LEFT_OUT_COLUMNS, LEFT_OUT_FILE)
    }
