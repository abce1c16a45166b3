"""`chipscale validate`: what the model predicts for published runs, and how far off it is."""

import argparse
import json

from omegaconf import OmegaConf
from rich.console import Console

from harness.config.build import ValidationFormat, validate_request
from harness.config.compose import compose
from harness.errors import NothingMeasured
from harness.validation.outcome import validate
from harness.validation.render import as_data, figures_markdown, markdown, view


def main(options: argparse.Namespace) -> int:
    """Predict every usable row and print the errors; exit 5 where no row could be used."""
    config = compose("validate", options.overrides, options.config_dir)
    if options.cfg is not None:
        print(OmegaConf.to_yaml(config, resolve=True), end="")
        return 0
    request = validate_request(config)
    outcome = validate(request.data_file)
    if request.format is ValidationFormat.JSON:
        print(json.dumps(as_data(outcome)))
    elif request.format is ValidationFormat.MARKDOWN:
        tables = [markdown(outcome.steps)] if outcome.steps else []
        tables += [figures_markdown(outcome.figures)] if outcome.figures else []
        print("\n\n".join(tables) or "No row could be used.")
    else:
        Console(highlight=False, markup=False).print(view(outcome))
    return 0 if outcome.num_predicted else NothingMeasured.exit_code
