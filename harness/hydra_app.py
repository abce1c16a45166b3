"""`chipscale run -m` as a Hydra application, so that Hydra's sweepers and launchers work.

Each job runs the same as `chipscale run` does; a job that fails makes the sweep fail, with the
exit code of its error told in its last line.
"""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import DictConfig

from harness.cli.run import run_composed
from harness.config import schema
from harness.errors import ChipscaleError


class SweepJobFailed(CompactHydraException):  # type: ignore[misc]
    """A job of the sweep ended with an exit code other than 0; Hydra tells it in one line."""


schema.register()


@hydra.main(  # type: ignore[untyped-decorator]
    config_path="pkg://configs", config_name="run", version_base="1.3"
)
def app(config: DictConfig) -> int:
    """One job of a sweep."""
    try:
        exit_code = run_composed(config, _config_dirs())
    except ChipscaleError as error:
        print(f"chipscale: {error}", file=sys.stderr)
        exit_code = error.exit_code
    if exit_code:
        raise SweepJobFailed(f"the job ended with exit code {exit_code}")
    return exit_code


def _config_dirs() -> list[Path]:
    """The folder given as --config-dir, which Hydra has put on its search path."""
    sources = HydraConfig.get().runtime.config_sources
    return [Path(source.path) for source in sources if source.provider == "command-line"]


if __name__ == "__main__":
    app()
