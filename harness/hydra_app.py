"""`chipscale run -m` as a Hydra application, so that Hydra's sweepers and launchers work.

Each job runs the same as `chipscale run` does; a job that fails makes the sweep fail, with the
exit code of its error told in its last line.
"""

import sys

import hydra
from omegaconf import DictConfig

from harness.cli.run import run_composed
from harness.config import schema
from harness.errors import ChipscaleError


class SweepJobFailed(RuntimeError):  # noqa: N818 - it is a state, told as one
    """A job of the sweep ended with an exit code other than 0."""


schema.register()


@hydra.main(  # type: ignore[untyped-decorator]
    config_path="pkg://configs", config_name="run", version_base="1.3"
)
def app(config: DictConfig) -> int:
    """One job of a sweep."""
    try:
        exit_code = run_composed(config)
    except ChipscaleError as error:
        print(f"chipscale: {error}", file=sys.stderr)
        exit_code = error.exit_code
    if exit_code:
        raise SweepJobFailed(f"the job ended with exit code {exit_code}")
    return exit_code


if __name__ == "__main__":
    app()
