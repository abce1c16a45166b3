"""A calibration as the tables of `configs/calibration/`."""

import csv
from collections.abc import Iterable
from pathlib import Path

from harness.config.calibration import (
    CONSTANT_COLUMNS,
    CONSTANTS_FILE,
    LEFT_OUT_COLUMNS,
    LEFT_OUT_FILE,
    RESIDUAL_COLUMNS,
    RESIDUALS_FILE,
)
from harness.extrapolate.constants import PRIOR, SPREADS
from harness.validation.calibrate import Fit

DIGITS = 4
"""Significant ones that a table keeps; the spread of a constant is wider than the fifth."""


def write_calibration(folder: Path, fit: Fit) -> None:
    """Write the constants with their priors, the residuals, and the errors of runs left out."""
    found = fit.calibration
    _write(
        folder / CONSTANTS_FILE,
        CONSTANT_COLUMNS,
        (
            (name, of, one.value, one.spread, getattr(PRIOR, name), SPREADS[name], runs)
            for (name, of), one in sorted(found.values.items())
            for runs in [fit.runs_of[name, of]]
        ),
    )
    _write(
        folder / RESIDUALS_FILE,
        RESIDUAL_COLUMNS,
        (
            (software, kind, one.low, one.high, fit.runs_of_residual[software, kind])
            for (software, kind), one in sorted(found.residuals.items())
        ),
    )
    _write(
        folder / LEFT_OUT_FILE,
        LEFT_OUT_COLUMNS,
        (
            (software, kind, one.median, one.mean, one.bias, one.num_runs)
            for (software, kind), one in sorted(fit.left_out_errors.items())
        ),
    )


def _write(path: Path, columns: tuple[str, ...], rows: Iterable[Iterable[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow(
                f"{cell:.{DIGITS}g}" if isinstance(cell, float) else cell for cell in row
            )
