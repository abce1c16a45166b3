"""`chipscale ui`: the MLflow UI on the results."""

import argparse

from harness.store.interface import serve
from harness.store.mlflow import tracking_target


def main(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    results_dir = options.results_dir.resolve()
    results_dir.mkdir(parents=True, exist_ok=True)
    serve(tracking_target(results_dir, port=options.port), options.port)
    return 0
