"""`chipscale validate`: what the model predicts for published runs, and how far off it is."""

import argparse
import json

from omegaconf import OmegaConf
from rich.console import Console

from harness.config.build import ValidationFormat, validate_request
from harness.config.compose import compose
from harness.errors import NothingMeasured
from harness.validation.predict import predict_all
from harness.validation.render import as_data, markdown, view
from harness.validation.rows import read_runs


def main(options: argparse.Namespace) -> int:
    """Predict every usable row and print the errors; exit 5 where no row could be used."""
    config = compose("validate", options.overrides, options.config_dir)
    if options.cfg is not None:
        print(OmegaConf.to_yaml(config, resolve=True), end="")
        return 0
    request = validate_request(config)
    runs, unread = read_runs(request.data_file)
    predictions, unpredicted = predict_all(runs)
    dropped = [*unread, *unpredicted]
    if request.format is ValidationFormat.JSON:
        print(json.dumps(as_data(predictions, dropped)))
    elif request.format is ValidationFormat.MARKDOWN:
        print(markdown(predictions) if predictions else "No row could be used.")
    else:
        Console(highlight=False, markup=False).print(view(predictions, dropped))
    return 0 if predictions else NothingMeasured.exit_code
