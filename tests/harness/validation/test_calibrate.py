"""Constants are found again from runs that were made with known ones."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.config.calibration import (
    CONSTANTS_FILE,
    LEFT_OUT_FILE,
    RESIDUALS_FILE,
    read_constants,
    read_left_out,
    read_residuals,
)
from harness.config.specs import load_chip, load_model
from harness.extrapolate.calibration import ALL_KINDS, ALL_SOFTWARE, NONE, Calibration
from harness.extrapolate.constants import PRIOR, Constants
from harness.validation.calibrate import Fit, calibrate
from harness.validation.calibration_tables import write_calibration
from harness.validation.metrics import Scale
from harness.validation.rows import PublishedRun
from harness.workload.plan import ParallelSpec

TRUE = Constants(matrix_share=0.95, host_s_per_step=0.03)
WORK_S = (1.0, 0.4, 2.0, 0.2, 3.0, 0.1, 0.7, 1.4)


def run(work_s: float, *, seconds: float, software: str = "known") -> PublishedRun:
    """A run whose work takes `work_s` at the peak and that was published with `seconds`."""
    return PublishedRun(
        id=f"{software}-{work_s}",
        family=software,
        software=software,
        chip=load_chip("h100_sxm"),
        num_chips=8,
        model=load_model("llama3_8b"),
        parallel=ParallelSpec(
            global_batch_tokens=round(work_s * 1e6), sequence_length=1, dtype="bf16"
        ),
        is_sequence_parallel=True,
        is_attention_fused=True,
        metric="step_time_s",
        published=seconds,
        scale=Scale(factor=1.0, is_rate=False),
    )


def model_s(run: PublishedRun, constants: Constants) -> float:
    return (
        run.parallel.global_batch_tokens / 1e6 / constants.matrix_share + constants.host_s_per_step
    )


def predict(runs: Sequence[PublishedRun], calibration: Calibration) -> list[float]:
    return [model_s(run, calibration.constants(run.chip.name, run.software)) for run in runs]


def published(software: str = "known", noise: float = 0.0) -> list[PublishedRun]:
    rng = np.random.default_rng(5)
    found = []
    for work_s in WORK_S:
        made = run(work_s, seconds=1.0, software=software)
        seconds = model_s(made, TRUE) * math.exp(noise * rng.standard_normal())
        found.append(replace(made, published=seconds))
    return found


def constants(fit: Fit, software: str = "known") -> Constants:
    return fit.calibration.constants("h100_sxm", software)


def test_known_constants_are_found_again() -> None:
    found = constants(calibrate(published(), predict))
    assert found.matrix_share == pytest.approx(TRUE.matrix_share, rel=0.02)
    assert found.host_s_per_step == pytest.approx(TRUE.host_s_per_step, rel=0.1)


def test_a_constant_without_effect_keeps_its_prior_and_is_not_listed() -> None:
    fit = calibrate(published(), predict)
    assert {name for name, _ in fit.calibration.values} == {"matrix_share", "host_s_per_step"}
    assert constants(fit).memory_share == PRIOR.memory_share


def test_software_that_no_run_is_of_keeps_its_priors() -> None:
    found = constants(calibrate(published(), predict), software="other")
    assert found.host_s_per_step == PRIOR.host_s_per_step
    assert found.matrix_share != PRIOR.matrix_share  # Of the chip, whatever the software.


def test_one_run_that_nothing_explains_moves_the_constants_little() -> None:
    runs = published()
    odd = replace(runs[0], published=3 * runs[0].published)
    found = constants(calibrate([odd, *runs[1:]], predict))
    assert found.matrix_share == pytest.approx(TRUE.matrix_share, rel=0.05)


def test_the_interval_of_a_constant_holds_the_truth_and_narrows_with_runs() -> None:
    few = calibrate(published(noise=0.02)[:2], predict).calibration.values
    many = calibrate(published(noise=0.02), predict).calibration.values
    key = ("matrix_share", "h100_sxm")
    assert many[key].spread < few[key].spread
    assert abs(math.log(many[key].value / TRUE.matrix_share)) < math.log(many[key].spread)


def test_errors_of_runs_left_out_are_larger_than_of_those_that_were_fitted() -> None:
    runs = published(noise=0.05)
    fit = calibrate(runs, predict)
    fitted = [
        math.log(seconds / one.step_time_s)
        for one, seconds in zip(runs, predict(runs, fit.calibration), strict=True)
    ]
    assert np.std(fit.left_out) > np.std(fitted)


def test_errors_of_runs_left_out_are_kept_by_software_and_of_all() -> None:
    fit = calibrate([*published("a", noise=0.05), *published("b", noise=0.2)[:3]], predict)
    found = fit.left_out_errors
    assert {key: one.num_runs for key, one in found.items()} == {
        ("a", "dense"): 8,
        ("b", "dense"): 3,
        (ALL_SOFTWARE, "dense"): 11,
        (ALL_SOFTWARE, ALL_KINDS): 11,
    }
    errors = [abs(math.expm1(-log)) for log in fit.left_out]
    assert found[ALL_SOFTWARE, ALL_KINDS].mean == pytest.approx(np.mean(errors))
    assert found["a", "dense"].median == pytest.approx(np.median(errors[:8]))


def test_a_calibration_that_was_written_is_read_again(tmp_path: Path) -> None:
    fit = calibrate(published(noise=0.05), predict)
    write_calibration(tmp_path, fit)
    constants, residuals, left_out = (
        (tmp_path / name).read_text(encoding="utf-8")
        for name in (CONSTANTS_FILE, RESIDUALS_FILE, LEFT_OUT_FILE)
    )
    for key, one in read_constants(constants).items():
        assert one.value == pytest.approx(fit.calibration.values[key].value, rel=1e-3)
        assert one.spread == pytest.approx(fit.calibration.values[key].spread, rel=1e-3)
    assert read_residuals(residuals).keys() == fit.calibration.residuals.keys()
    for key, error in read_left_out(left_out).items():
        assert error.mean == pytest.approx(fit.left_out_errors[key].mean, rel=1e-3)
        assert error.num_runs == fit.left_out_errors[key].num_runs


def test_few_runs_of_a_software_borrow_the_residual_of_all() -> None:
    wide, lone = published("wide", noise=0.3), published("lone")[:1]
    residual = calibrate([*wide, *lone], predict).calibration.residual("lone", has_experts=False)
    assert residual.low < 0.95 or residual.high > 1.05


def test_without_a_calibration_the_interval_is_that_of_sources_left_out() -> None:
    assert NONE.residual("any", has_experts=False).high > 1.3
