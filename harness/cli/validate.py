"""`chipscale validate`: what the model predicts for published runs, and how far off it is."""

import argparse
import json
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console

from harness.config.build import ValidationFormat, validate_request
from harness.config.calibration import (
    held_out_families,
    left_out_errors,
    runs_of_constants,
    runs_of_residuals,
    shipped_calibration,
)
from harness.config.compose import compose
from harness.config.specs import list_names
from harness.errors import ConfigError, NothingMeasured
from harness.store.disk import write_atomically
from harness.validation.calibrate import calibrate
from harness.validation.calibration_tables import write_calibration
from harness.validation.html_page import html_page
from harness.validation.outcome import validate
from harness.validation.page import Shipped, page
from harness.validation.predict import Predictor, seconds_of_plans
from harness.validation.reached import reached_csv
from harness.validation.render import as_data, figures_markdown, markdown, view
from harness.validation.rows import read_runs


def main(options: argparse.Namespace) -> int:
    """Predict every usable row and print the errors; exit 5 where no row could be used."""
    config = compose("validate", options.overrides, options.config_dir)
    if options.cfg is not None:
        print(OmegaConf.to_yaml(config, resolve=True), end="")
        return 0
    request = validate_request(config)
    if request.calibration_folder is not None:
        return _calibrate(request.data_file, request.calibration_folder)
    if request.html_file is not None and not request.html_file.resolve().parent.is_dir():
        folder = request.html_file.resolve().parent
        raise ConfigError(f"html: {folder} is not a folder. Make it first.")
    outcome = validate(request.data_file, shipped_calibration())
    if request.html_file is not None:
        text = html_page(outcome, held_out_families())
        write_atomically(request.html_file.resolve(), text)
    if request.format is ValidationFormat.JSON:
        print(json.dumps(as_data(outcome)))
    elif request.format is ValidationFormat.MARKDOWN:
        tables = [markdown(outcome.steps, held_out_families())] if outcome.steps else []
        tables += [figures_markdown(outcome.figures)] if outcome.figures else []
        print("\n\n".join(tables) or "No row could be used.")
    elif request.format is ValidationFormat.CSV:
        print(reached_csv(outcome, held_out_families()), end="")
    elif request.format is ValidationFormat.PAGE:
        print(page(outcome, shipped()) if outcome.steps else "No row could be used.", end="")
    else:
        Console(highlight=False, markup=False).print(view(outcome))
    return 0 if outcome.num_predicted else NothingMeasured.exit_code


def shipped() -> Shipped:
    """The calibration of the repository with all that is kept beside it."""
    return Shipped(
        values=shipped_calibration().values,
        runs_of_constants=runs_of_constants(),
        runs_of_residuals=runs_of_residuals(),
        left_out=left_out_errors(),
        held_out=held_out_families(),
        chips=list_names("chip"),
    )


def _calibrate(data_file: Path, folder: Path) -> int:
    """Fit the constants to the runs of a table and write them; some minutes on one core."""
    runs, _ = read_runs(data_file)
    held_out = held_out_families()
    chosen = [run for run in runs if run.family not in held_out]
    predictor = Predictor(shipped_calibration())
    predicted, _ = predictor.predict_all(chosen)
    usable = [one.run for one in predicted]
    plans = {one.id: one.step.plan for one in predicted}
    console = Console(highlight=False, markup=False, stderr=True)
    with console.status(f"calibrating on {len(usable)} runs ..."):
        fit = calibrate(
            usable,
            lambda some, tried: seconds_of_plans(some, plans, tried),
            shipped_calibration(),
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_calibration(folder, fit)
    left = f"{len(runs) - len(chosen)} held out" if held_out else "none held out"
    console.print(
        f"{folder}: {len(fit.calibration.values)} constants of {len(usable)} runs, {left}."
    )
    return 0
