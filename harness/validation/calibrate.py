"""The constants that make predictions agree best with a part of the published runs.

The posterior's maximum: each constant keeps near its prior unless runs say otherwise, and single
runs that nothing explains pull little.

    minimize  sum over runs rho(ln(predicted / published) / NOISE)
              + sum over constants (ln(value / prior) / sigma)^2

with rho growing like the square for errors below about four times NOISE and like the magnitude
beyond. What a constant is of (a chip, a software generation) is in `extrapolate/constants`.

How far off unseen runs are is told by runs like them left out: all of one source, model and chip
at once, with the constants moved as the linearized problem says they would without them.

Source: maximum a posteriori with a robust loss, Gelman et al., Bayesian Data Analysis, 3rd edition,
section 4.1; leaving blocks out of a linear fit, Cook and Weisberg, Residuals and Influence in
Regression, 1982, section 3.2.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from harness.extrapolate.calibration import (
    ALL_KINDS,
    ALL_SOFTWARE,
    Calibrated,
    Calibration,
    LeftOutError,
    Residual,
)
from harness.extrapolate.constants import NAMES, PRIOR, SPREADS, subject
from harness.extrapolate.lookup import CONFIDENCE_SIGMAS
from harness.validation.rows import PublishedRun

Array = npt.NDArray[np.float64]

NOISE = 0.04
"""What one run differs from another of the same plan: the same plan and chips on two clouds differ
by 1.6 %, successive releases of one vendor's software by up to 9 %."""
ROBUST_FROM = 4.0
"""Errors of so many times NOISE pull with constant force."""
STEP = 0.02
"""ln of a constant's change by which its effect is found."""
INNER = (0.10, 0.90)
"""Quantiles that a residual's ends are."""
POOLED_RUNS = 8
"""As many runs of all software are counted beside those of one, so that few runs have no narrow
interval; assumed."""

Predict = Callable[[Sequence[PublishedRun], Calibration], Sequence[float]]
"""The step time of each run under a calibration, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A calibration and what it rests on."""

    calibration: Calibration
    runs_of: dict[tuple[str, str], int]
    """Runs that a constant has an effect on."""
    runs_of_residual: dict[tuple[str, str], int]
    left_out: tuple[float, ...]
    """ln(published / predicted) of each run, runs like it left out."""
    left_out_errors: dict[tuple[str, str], LeftOutError]
    """The same by software and kind of model, and of all together."""


def _keys(runs: Sequence[PublishedRun]) -> list[tuple[str, str]]:
    found = {
        (name, subject(name, run.chip.name, run.software)): None for name in NAMES for run in runs
    }
    return list(found)


def _calibration(keys: Sequence[tuple[str, str]], logs: Array) -> Calibration:
    values = {
        key: Calibrated(value=math.exp(log), spread=SPREADS[key[0]])
        for key, log in zip(keys, logs, strict=True)
    }
    return Calibration(values=values, residuals={})


def kind_of(run: PublishedRun) -> str:
    """Runs of models with experts are further off than those of dense ones."""
    return "dense" if run.model.experts is None else "experts"


class _Problem:
    """Residuals of the runs and their derivatives; a constant moves only runs of its subject."""

    def __init__(self, runs: Sequence[PublishedRun], predict: Predict) -> None:
        self.runs, self.predict, self.keys = runs, predict, _keys(runs)
        self.prior = np.array([math.log(getattr(PRIOR, name)) for name, _ in self.keys])
        sigmas = [math.log(SPREADS[name]) / CONFIDENCE_SIGMAS for name, _ in self.keys]
        self.sigma = np.array(sigmas)
        self.published = np.array([math.log(run.step_time_s) for run in runs])
        self.affected = [
            [i for i, run in enumerate(runs) if subject(name, run.chip.name, run.software) == of]
            for name, of in self.keys
        ]

    def predicted(self, logs: Array, which: Iterable[int] | None = None) -> Array:
        """Logarithms of the step times of those runs, or of all."""
        calibration = _calibration(self.keys, logs)
        chosen = self.runs if which is None else [self.runs[i] for i in which]
        return np.log(np.asarray(self.predict(chosen, calibration), dtype=np.float64))

    def residuals(self, logs: Array) -> Array:
        """Of the runs in NOISE, then of the constants in their sigma."""
        of_runs = (self.predicted(logs) - self.published) / NOISE
        return np.concatenate([of_runs, (logs - self.prior) / self.sigma])

    def jacobian(self, logs: Array) -> Array:
        """Derivatives of the residuals by the constants' logarithms."""
        found = np.zeros((len(self.runs) + len(logs), len(logs)))
        for column, which in enumerate(self.affected):
            ends = []
            for change in (-STEP / 2, STEP / 2):
                moved = logs.copy()
                moved[column] += change
                ends.append(self.predicted(moved, which))
            found[which, column] = (ends[1] - ends[0]) / STEP / NOISE
            found[len(self.runs) + column, column] = 1 / self.sigma[column]
        return found

    def loss(self, squares: Array) -> Array:
        """The robust loss of the runs and the plain one of the constants, with derivatives."""
        count, scale = len(self.runs), ROBUST_FROM**2 / 4
        found = np.stack([squares, np.ones_like(squares), np.zeros_like(squares)])
        root = np.sqrt(1 + squares[:count] / scale)
        found[0, :count] = 2 * scale * (root - 1)
        found[1, :count] = 1 / root
        found[2, :count] = -0.5 / scale / root**3
        return found


def calibrate(
    runs: Sequence[PublishedRun],
    predict: Predict,
    start: Calibration | None = None,
    max_evaluations: int = 12,
) -> Fit:
    """The constants of the runs' chips and software, and how far off such runs are."""
    problem = _Problem(runs, predict)
    known = {} if start is None else start.values
    first = np.array(
        [
            math.log(known[key].value) if key in known else prior
            for key, prior in zip(problem.keys, problem.prior, strict=True)
        ]
    )
    loss: Any = problem.loss  # The stubs of SciPy know the names of losses alone.
    found = least_squares(
        problem.residuals,
        first,
        jac=problem.jacobian,
        loss=loss,
        x_scale=problem.sigma,
        max_nfev=max_evaluations,
        ftol=1e-4,
    )
    logs: Array = np.asarray(found.x, dtype=np.float64)
    jacobian = problem.jacobian(logs)
    count = len(runs)
    errors = problem.residuals(logs)[:count]
    weights = 1 / np.sqrt(1 + errors**2 / (ROBUST_FROM**2 / 4))
    weighted = jacobian.copy()
    weighted[:count] *= np.sqrt(weights)[:, None]
    covariance = np.asarray(np.linalg.inv(weighted.T @ weighted), dtype=np.float64)
    spread = np.exp(CONFIDENCE_SIGMAS * np.sqrt(np.diag(covariance)))
    is_used = np.abs(jacobian[:count]).sum(axis=0) > 0
    values = {
        key: Calibrated(value=math.exp(log), spread=float(ratio))
        for key, log, ratio, used in zip(problem.keys, logs, spread, is_used, strict=True)
        if used
    }
    left_out = -NOISE * _left_out(runs, errors, weights, jacobian[:count], covariance)
    residuals, runs_of_residual = _residuals(runs, left_out)
    return Fit(
        calibration=Calibration(values=values, residuals=residuals),
        runs_of={
            key: int((np.abs(jacobian[:count, column]) > 0).sum())
            for column, key in enumerate(problem.keys)
            if is_used[column]
        },
        runs_of_residual=runs_of_residual,
        left_out=tuple(float(error) for error in left_out),
        left_out_errors=_left_out_errors(runs, left_out),
    )


def _left_out(
    runs: Sequence[PublishedRun],
    errors: Array,
    weights: Array,
    jacobian: Array,
    covariance: Array,
) -> Array:
    """Errors in NOISE of each block of like runs, were it not part of the fit: (1 - H)^-1 e."""
    blocks: dict[tuple[str, ...], list[int]] = {}
    for i, run in enumerate(runs):
        key = (run.family, run.model.name, run.chip.name, run.parallel.linear_dtype)
        blocks.setdefault(key, []).append(i)
    found = errors.copy()
    for which in blocks.values():
        rows = jacobian[which]
        leverage = rows @ covariance @ rows.T * weights[which][None, :]
        found[which] = np.linalg.solve(np.eye(len(which)) - leverage, errors[which])
    # A block that alone determines a constant has a leverage near one, and no bound.
    return np.clip(found, -1 / NOISE, 1 / NOISE)


def _residuals(
    runs: Sequence[PublishedRun], errors: Array
) -> tuple[dict[tuple[str, str], Residual], dict[tuple[str, str], int]]:
    """P10 and P90 of published over predicted, by software and kind, drawn to those of the kind."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, run in enumerate(runs):
        groups.setdefault((run.software, kind_of(run)), []).append(i)
    found: dict[tuple[str, str], Residual] = {}
    counts: dict[tuple[str, str], int] = {}
    for kind in sorted({kind for _, kind in groups}):
        like = [i for i, run in enumerate(runs) if kind_of(run) == kind]
        low, high = np.quantile(errors[like], INNER)
        found[ALL_SOFTWARE, kind] = _around_one(float(low), float(high))
        counts[ALL_SOFTWARE, kind] = len(like)
    for (software, kind), which in sorted(groups.items()):
        pooled = [math.log(end) for end in astuple(found[ALL_SOFTWARE, kind])]
        own = np.quantile(errors[which], INNER)
        share = len(which) / (len(which) + POOLED_RUNS)
        low, high = (share * a + (1 - share) * b for a, b in zip(own, pooled, strict=True))
        found[software, kind] = _around_one(float(low), float(high))
        counts[software, kind] = len(which)
    return found, counts


def _left_out_errors(
    runs: Sequence[PublishedRun], logs: Array
) -> dict[tuple[str, str], LeftOutError]:
    """Errors of the step time by software and kind, of each kind, and of all."""
    groups: dict[tuple[str, str], list[float]] = {}
    for run, log in zip(runs, logs, strict=True):
        error = math.expm1(-log)
        for software in (run.software, ALL_SOFTWARE):
            groups.setdefault((software, kind_of(run)), []).append(error)
        groups.setdefault((ALL_SOFTWARE, ALL_KINDS), []).append(error)
    return {
        key: LeftOutError(
            num_runs=len(errors),
            median=float(np.median(np.abs(errors))),
            mean=float(np.mean(np.abs(errors))),
            bias=float(np.mean(errors)),
        )
        for key, errors in groups.items()
    }


def _around_one(low: float, high: float) -> Residual:
    """The residual of those logarithms, with the prediction itself inside."""
    return Residual(low=math.exp(min(0.0, low)), high=math.exp(max(0.0, high)))
