"""The calibration of the repository, `configs/calibration/`, read and written as tables."""

import csv
import importlib.resources
from collections.abc import Iterable
from functools import cache

import yaml

from harness.errors import ConfigError
from harness.extrapolate.calibration import ALL_SOFTWARE, NONE, Calibrated, Calibration, Residual
from harness.extrapolate.constants import NAMES

CONSTANTS_FILE = "constants.csv"
RESIDUALS_FILE = "residuals.csv"
CONSTANT_COLUMNS = ("constant", "subject", "value", "spread", "prior", "prior_spread", "runs")
RESIDUAL_COLUMNS = ("software", "kind", "low", "high", "runs")


@cache
def shipped_calibration() -> Calibration:
    """The calibration that is part of chipscale."""
    folder = importlib.resources.files("configs") / "calibration"
    if not folder.is_dir():
        return NONE
    return Calibration(
        values=_constants(folder.joinpath(CONSTANTS_FILE).read_text(encoding="utf-8")),
        residuals=_residuals(folder.joinpath(RESIDUALS_FILE).read_text(encoding="utf-8")),
    )


def software_names() -> tuple[str, ...]:
    """The generations of training software that runs calibrated."""
    known = {software for software, _ in shipped_calibration().residuals}
    return tuple(sorted(known - {ALL_SOFTWARE}))


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
            f"{', '.join(columns)}. Write it anew with `chipscale validate calibrate=true`."
        )
    yield from reader


def _constants(text: str) -> dict[tuple[str, str], Calibrated]:
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


def _residuals(text: str) -> dict[tuple[str, str], Residual]:
    return {
        (row["software"], row["kind"]): Residual(low=float(row["low"]), high=float(row["high"]))
        for row in _rows(text, RESIDUAL_COLUMNS, RESIDUALS_FILE)
    }
